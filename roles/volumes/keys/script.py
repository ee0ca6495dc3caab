"""Scripts that run on a host: what they are told in arguments, and what only on stdin. Pure."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

_FOLDER = Path(__file__).parent.parent / "scripts"
WRONG_KEY, CHANGED, BUSY = 2, 3, 4  # exit statuses, as keys-common.sh has them


@cache
def _text(name: str) -> str:
    return "".join((_FOLDER / f"{part}.sh").read_text() for part in ("lib", "keys-common", name))


@dataclass(frozen=True)
class Script:
    """
    :param name: of a file in ``roles/volumes/scripts``, without ``.sh``.
    :param stdin: lines; keys among them, so they are never shown.
    """

    name: str
    arguments: tuple[str, ...]
    stdin: tuple[str, ...] = field(default=(), repr=False)

    @property
    def command(self) -> str:
        """For a POSIX shell."""
        words = ["sh", "-c", _text(self.name), self.name, *self.arguments]
        return " ".join(shlex.quote(word) for word in words)

    @property
    def input(self) -> str:
        return "".join(f"{line}\n" for line in self.stdin)


def key_line(key: bytes) -> str:
    """A key as a line of stdin."""
    return base64.b64encode(key).decode()


@dataclass(frozen=True)
class Result:
    """How a script ended: its exit status, and its output in lines without their ends."""

    status: int
    output: Sequence[str]
    errors: Sequence[str]


class Runner(Protocol):
    """Runs scripts as root on the host that has the volume, and shows nothing of them."""

    def __call__(self, script: Script) -> Result: ...


class ScriptError(Exception):
    """A script that failed; one line that names the device."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def run(runner: Runner, script: Script) -> Sequence[str]:
    """The script's output.

    :raises ScriptError: when it failed.
    """
    result = runner(script)
    if result.status != 0:
        said = "; ".join(line.strip() for line in result.errors if line.strip())
        raise ScriptError(said or f"{script.name} ended with status {result.status}", result.status)
    return result.output
