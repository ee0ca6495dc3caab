"""Reads the passphrase that protects the authorities' keys: from a file, a command or the
environment, never from an argument.

No error shows the passphrase, what a command printed, or a command's arguments.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import stat
import subprocess
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

DEFAULT_VARIABLE = "STRONGBOX_CA_PASSPHRASE"
SHORTEST = 12  # characters, for a passphrase that protects new keys
_LONGEST = 4096  # bytes; more is the wrong file
_COMMAND_TIMEOUT = 300  # seconds; a person may have to touch a token or answer a prompt


class PassphraseError(Exception):
    """No usable passphrase; the message is one line with what to do."""


@dataclass(frozen=True)
class Passphrase:
    """A passphrase whose text shows only where it is used."""

    _value: str

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Passphrase(********)"

    __str__ = __repr__


@dataclass(frozen=True)
class PassphraseSource:
    """Where the passphrase comes from: exactly one of the three is set.

    ``command`` is argv; it runs without a shell and prints the passphrase on its standard output.
    """

    file: str = ""
    command: tuple[str, ...] = ()
    variable: str = ""

    def __repr__(self) -> str:
        # Arguments of a command may be secret themselves.
        return f"PassphraseSource({self.describe()})"

    def describe(self) -> str:
        """For messages, such as ``file ca.pass``."""
        if self.file:
            return f"file {self.file}"
        if self.command:
            return f"command {self.command[0]!r}"
        return f"environment variable {self.variable}"


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


def read(
    source: PassphraseSource, environment: MutableMapping[str, str] = os.environ
) -> Passphrase:
    """The passphrase without its trailing newline.

    A variable is removed from this process's environment, so that no child inherits it; later
    calls get the value that was seen first.

    :raises PassphraseError: when there is none, or it is empty, or others can read the file.
    """
    if source.file:
        data = _from_file(Path(source.file))
    elif source.command:
        data = _from_command(source.command)
    else:
        data = _from_environment(source.variable, environment)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise PassphraseError(f"passphrase from {source.describe()} is not UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise PassphraseError(f"passphrase from {source.describe()} is empty")
    if any(ord(character) < 32 for character in text):
        raise PassphraseError(
            f"passphrase from {source.describe()} has more than one line or control characters"
        )
    return Passphrase(text)


def require_strong(passphrase: Passphrase) -> None:
    """:raises PassphraseError: for a passphrase too short to protect new keys."""
    if len(passphrase.reveal()) < SHORTEST:
        raise PassphraseError(
            f"the passphrase is shorter than {SHORTEST} characters: choose a longer one, "
            "for example the output of `openssl rand -base64 24`"
        )


def _from_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise PassphraseError(
                    f"passphrase file {path} can be read by others (mode "
                    f"{stat.S_IMODE(mode):o}): chmod 600 {shlex.quote(str(path))}"
                )
            data = file.read(_LONGEST + 1)
    except OSError as error:
        raise PassphraseError(f"passphrase file {path}: {error.strerror}") from None
    if len(data) > _LONGEST:
        raise PassphraseError(f"passphrase file {path} is longer than {_LONGEST} bytes")
    return data


def _from_command(command: tuple[str, ...]) -> bytes:
    program = command[0]
    try:
        # The command inherits the terminal for prompts; only its output is captured.
        result = subprocess.run(
            command, stdout=subprocess.PIPE, timeout=_COMMAND_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise PassphraseError(
            f"passphrase command {program!r} took longer than {_COMMAND_TIMEOUT} s"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "cannot be run"
        raise PassphraseError(f"passphrase command {program!r}: {reason}") from None
    if result.returncode:
        raise PassphraseError(
            f"passphrase command {program!r} failed with exit code {result.returncode}"
        )
    return result.stdout


_taken: dict[str, bytes] = {}
_taking = Lock()


def take(variable: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Removes the variable from this process's environment and keeps its value for `read`.

    For runs that may never need it: no child inherits it, and the kernel no longer shows it.
    """
    with _taking:
        value = environment.pop(variable, None)
        if value is not None:
            _taken[variable] = os.fsencode(value)
            _scrub(variable)


def _from_environment(variable: str, environment: MutableMapping[str, str]) -> bytes:
    take(variable, environment)
    if variable not in _taken:
        raise PassphraseError(
            f"no passphrase for the authorities: set {variable}, or tls_passphrase_file or "
            "tls_passphrase_command in the inventory"
        )
    return _taken[variable]


def _scrub(variable: str) -> None:
    """Overwrites the copy that the kernel shows in ``/proc/PID/environ``.

    Removing a variable leaves that block as it was when the process started.
    """
    try:
        block = Path("/proc/self/environ").read_bytes()
        start = _environment_address()
    except (OSError, ValueError):
        return  # not Linux, or the process may not look at itself
    offset = 0
    for entry in block.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == os.fsencode(variable) and value:
            ctypes.memset(start + offset + len(name) + 1, ord("*"), len(value))
        offset += len(entry) + 1


def _environment_address() -> int:
    # env_start is field 50 of proc(5)'s /proc/PID/stat; the command in field 2 may hold spaces.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start = int(fields[50 - 3])
    if not start:
        raise ValueError("the kernel does not tell where the environment lies")
    return start
