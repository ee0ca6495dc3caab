"""age identities on the controller: made, read from where they are kept, and never shown.

An identity's file is as age-keygen writes it: lines with ``AGE-SECRET-KEY-1…``, comments with
``#``. Several identities in one are all tried.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyrage import IdentityError, x25519

from roles.common import files, secret_source
from roles.common.secret_source import SecretError
from roles.custody.protocol import CustodyError

_WHAT = "age identity"
_IDENTITY = re.compile(r"AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}")


class Identities:
    """Opened identities; their text is never shown."""

    def __init__(self, opened: Sequence[x25519.Identity]) -> None:
        self._opened = tuple(opened)

    def opened(self) -> list[x25519.Identity]:
        return list(self._opened)

    @property
    def recipients(self) -> tuple[str, ...]:
        """Their public halves."""
        return tuple(str(item.to_public()) for item in self._opened)

    def __repr__(self) -> str:
        return f"Identities({', '.join(self.recipients)})"


@dataclass(frozen=True)
class IdentitySource:
    """Where the identity is kept: a file, or what a command (argv) prints."""

    file: str = ""
    command: tuple[str, ...] = ()

    def __repr__(self) -> str:
        # Arguments of a command may be secret themselves.
        return f"IdentitySource({self.describe()})"

    def describe(self) -> str:
        """For messages, such as ``file operator.age``."""
        if self.file:
            return f"file {self.file}"
        return f"command {self.command[0]!r}" if self.command else "nowhere"


def read(source: IdentitySource) -> Identities:
    """
    :raises CustodyError: when there is none, others can read its file, or it is something else.
    """
    try:
        if source.file:
            data = secret_source.from_file(Path(source.file), _WHAT, regular=True)
        elif source.command:
            data = secret_source.from_command(source.command, _WHAT)
        else:
            raise CustodyError(
                "no age identity to unwrap keys with: set custody_identity_file or "
                "custody_identity_command"
            )
    except SecretError as error:
        raise CustodyError(str(error)) from None
    return _parse(data, source.describe())


def _parse(data: bytes, where: str) -> Identities:
    lines = [line.strip() for line in data.decode(errors="replace").splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise CustodyError(f"age identity from {where} is empty")
    if not all(_IDENTITY.fullmatch(line) for line in found):
        raise CustodyError(
            f"age identity from {where} is none: it must have lines AGE-SECRET-KEY-1… and comments "
            "(#) only (`strongbox custody init` makes one)"
        )
    try:
        return Identities([x25519.Identity.from_str(line) for line in found])
    except IdentityError:
        raise CustodyError(
            f"age identity from {where} is damaged: its checksum is wrong; take it from a backup"
        ) from None


def create(path: Path) -> str:
    """Makes a new identity in a file of mode 0600 and returns its recipient.

    :raises CustodyError: when the path is taken or cannot be written.
    """
    identity = x25519.Identity.generate()
    recipient = str(identity.to_public())
    text = f"# public key: {recipient}\n{identity}\n"
    try:
        files.write_new(path, text.encode())
    except FileExistsError:
        raise CustodyError(
            f"{path} exists: an identity is never overwritten, as all it can unwrap would be lost"
        ) from None
    except OSError as error:
        raise CustodyError(f"{path}: {error.strerror}") from None
    return recipient
