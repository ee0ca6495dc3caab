"""Shell scripts that run on hosts: POSIX sh, their data in positional parameters and on stdin."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent


@cache
def text(name: str) -> str:
    """A script as it is sent: with the functions of ``lib.sh`` in front."""
    return (_FOLDER / "lib.sh").read_text() + (_FOLDER / f"{name}.sh").read_text()


def guard() -> bytes:
    """The start guard, which is a file on the host."""
    return (_FOLDER / "guard.sh").read_bytes()
