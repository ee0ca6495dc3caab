"""Reads the passphrase that protects the authorities' keys: from a file, a command or the
environment, never from an argument.

No error shows the passphrase, what a command printed, or a command's arguments.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from roles.common import secret_source
from roles.common.secret_source import Secret, SecretError

DEFAULT_VARIABLE = "STRONGBOX_CA_PASSPHRASE"
SHORTEST = 12  # characters, for a passphrase that protects new keys


class PassphraseError(SecretError):
    """No usable passphrase; the message is one line with what to do."""


class Passphrase(Secret):
    """A passphrase whose text shows only where it is used."""


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


def read(
    source: PassphraseSource, environment: MutableMapping[str, str] = os.environ
) -> Passphrase:
    """The passphrase without its trailing newline.

    A variable is removed from this process's environment, so that no child inherits it; later
    calls get the value that was seen first.

    :raises PassphraseError: when there is none, or it is empty, or others can read the file.
    """
    try:
        if source.file:
            data = secret_source.from_file(Path(source.file), "passphrase")
        elif source.command:
            data = secret_source.from_command(source.command, "passphrase")
        else:
            data = _from_environment(source.variable, environment)
    except SecretError as error:
        raise PassphraseError(str(error)) from None
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
