"""Reads a secret on the controller from a file or from what a command prints.

No error shows the secret, what a command printed, or a command's arguments. Each starts with
*what*, the secret's name for people, such as ``passphrase``.
"""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

LONGEST = 4096  # bytes; more is the wrong file
_COMMAND_TIMEOUT = 300  # seconds; a person may have to touch a token or answer a prompt


class SecretError(Exception):
    """No usable secret; the message is one line with what to do."""


@dataclass(frozen=True, repr=False)
class Secret:
    """A secret whose text shows only where it is used."""

    _value: str

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return f"{type(self).__name__}(********)"

    __str__ = __repr__


def argv(command: str | tuple[str, ...]) -> tuple[str, ...]:
    """A command as argv; text is split the way a shell would, but no shell runs it.

    :raises ValueError: for unbalanced quotes or nothing to run.
    """
    try:
        words = tuple(shlex.split(command)) if isinstance(command, str) else command
    except ValueError:
        raise ValueError("has unbalanced quotes") from None
    if not words or not words[0]:
        raise ValueError("names no program")
    return words


def command_words(value: object) -> object:
    """For a setting that holds a command: text or a list of words becomes argv.

    :raises ValueError: as `argv`; what is neither is returned as it is, for the type's own check.
    """
    if isinstance(value, list | tuple):
        if not all(isinstance(word, str) for word in value):
            raise ValueError("must be text or a list of words")
        return argv(tuple(value))
    return argv(value) if isinstance(value, str) else value


def from_file(path: Path, what: str, *, regular: bool = False) -> bytes:
    """The content of a file that nobody else can read.

    :param regular: also refuses what is no regular file of this process's own user.
    :raises SecretError:
    """
    try:
        # Without O_NONBLOCK a named pipe that nobody writes to would hold the run.
        flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_NONBLOCK if regular else 0)
        descriptor = os.open(path, flags)
        try:
            _check_file(path, what, os.fstat(descriptor), regular)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(LONGEST + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SecretError(f"{what} file {path}: {error.strerror}") from None
    if len(data) > LONGEST:
        raise SecretError(f"{what} file {path} is longer than {LONGEST} bytes")
    return data


def _check_file(path: Path, what: str, found: os.stat_result, regular: bool) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if regular and not stat.S_ISREG(found.st_mode):
        raise SecretError(f"{what} file {path} is not a regular file: name the file itself")
    if regular and found.st_uid != os.geteuid():
        raise SecretError(
            f"{what} file {path} belongs to the user with id {found.st_uid}, who can change it: "
            f"chown {os.geteuid()} {shlex.quote(str(path))}"
        )
    if mode & 0o077:
        raise SecretError(
            f"{what} file {path} can be read by others (mode {mode:o}): "
            f"chmod 600 {shlex.quote(str(path))}"
        )


def from_command(command: tuple[str, ...], what: str) -> bytes:
    """What a command prints; it runs without a shell.

    :raises SecretError:
    """
    program = command[0]
    try:
        # The command inherits the terminal for prompts; only its output is captured.
        result = subprocess.run(
            command, stdout=subprocess.PIPE, timeout=_COMMAND_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise SecretError(
            f"{what} command {program!r} took longer than {_COMMAND_TIMEOUT} s"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "cannot be run"
        raise SecretError(f"{what} command {program!r}: {reason}") from None
    if result.returncode:
        raise SecretError(f"{what} command {program!r} failed with exit code {result.returncode}")
    return result.stdout
