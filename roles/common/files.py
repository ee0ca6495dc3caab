"""Files on the controller that appear complete or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Puts a file in place of the one that is there, if any, and on the disk before it returns.

    A process that is killed leaves the old one, and perhaps a temporary ``.NAME.…`` beside it.
    """
    with _complete(path, data, mode) as temporary:
        temporary.replace(path)
    sync_folder(path.parent)


def write_new(path: Path, data: bytes, mode: int = 0o600) -> None:
    """The same for a file that is not there yet.

    :raises FileExistsError: when the path is taken.
    """
    with _complete(path, data, mode) as temporary:
        # A link, unlike a rename, never replaces what is there.
        os.link(temporary, path)
    sync_folder(path.parent)


@contextmanager
def _complete(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes a new, renamed or removed name in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
