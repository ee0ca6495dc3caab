"""Keeps the AWS libraries from logging what they send and receive: at DEBUG that is the key."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

_LIBRARIES = ("boto3", "botocore", "urllib3", "s3transfer")
_OFF = logging.CRITICAL + 1

_lock = RLock()
_depth = 0
_saved: dict[logging.Logger, int] = {}


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is logged by these libraries inside, whatever level they or their parts were set to.

    Safe for threads and greenlets: levels come back when the last one leaves.
    """
    global _depth
    with _lock:
        _depth += 1
        for logger in _loggers():
            if logger.level != _OFF:
                _saved.setdefault(logger, logger.level)
                logger.setLevel(_OFF)
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth:
                for logger, level in _saved.items():
                    logger.setLevel(level)
                _saved.clear()


def _loggers() -> list[logging.Logger]:
    # Each, as one with a level of its own does not follow its parent's.
    known = [
        name
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
        and name.startswith(tuple(f"{x}." for x in _LIBRARIES))
    ]
    return [logging.getLogger(name) for name in (*_LIBRARIES, *known)]
