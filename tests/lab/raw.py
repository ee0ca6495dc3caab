"""Looks for words in disk images from outside, reading only what they hold."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_CHUNK = 1 << 22


def _extents(handle: int, size: int) -> Iterator[tuple[int, int]]:
    """Begin and end of what is not a hole."""
    end = 0
    while end < size:
        try:
            begin = os.lseek(handle, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(handle, begin, os.SEEK_HOLE)
        yield begin, end


def found(image: Path, words: Iterable[bytes]) -> dict[bytes, int]:
    """How often each of the words is in the image."""
    counts = dict.fromkeys(words, 0)
    overlap = max(map(len, counts)) - 1
    handle = os.open(image, os.O_RDONLY)
    try:
        for begin, end in _extents(handle, os.fstat(handle).st_size):
            tail = b""
            for position in range(begin, end, _CHUNK):
                chunk = tail + os.pread(handle, min(_CHUNK, end - position), position)
                # A word that ended in the part that was kept has been counted already.
                for word in counts:
                    counts[word] += chunk.count(word) - tail.count(word)
                tail = chunk[-overlap:] if overlap else b""
    finally:
        os.close(handle)
    return counts
