"""The two kinds of record files: how they are written and read, and what makes one unusable.

``recovery-EPOCH.json`` is one JSON object. ``header-EPOCH.sealed`` begins with one as its first
line, and the rest is the volume's header, compressed (zlib) and then sealed with AES-256-GCM. Both
objects have ``format``, ``context``, ``uuid``, ``epoch`` and a wrapped key's three fields; that of
a sealed header also has ``nonce`` (base64) and ``sha256`` (of the header). All of them but the
wrapped key are authenticated in a sealed header, so its key can be wrapped anew in place.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from roles.custody.protocol import CustodyError, KeyContext, WrappedKey

FORMAT = 1
RECOVERY, HEADER = "recovery", "header"
NAME = re.compile(r"(?:(recovery)-([1-9][0-9]{0,8})\.json|(header)-([1-9][0-9]{0,8})\.sealed)")
LONGEST_HEADER = 64 * 1024 * 1024  # bytes; LUKS2 makes 16 MiB, and 4 MiB at most are metadata
_LONGEST_HEAD = 128 * 1024
_LONGEST_FILE = LONGEST_HEADER + 1024 * 1024
_AES_KEY = 32
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class RecordError(Exception):
    """A record that cannot be used or kept; one line with the file and what to do."""


@dataclass(frozen=True)
class Head:
    """What a record says of itself.

    :param uuid: of the volume's LUKS header.
    :param epoch: counts key changes from 1.
    :param nonce: with `sha256` (hex), of a sealed header only.
    """

    context: KeyContext
    uuid: str
    epoch: int
    wrapped: WrappedKey
    nonce: bytes = b""
    sha256: str = ""

    @property
    def kind(self) -> str:
        return self.context.purpose

    @property
    def file_name(self) -> str:
        suffix = "json" if self.kind == RECOVERY else "sealed"
        return f"{self.kind}-{self.epoch}.{suffix}"

    def line(self) -> bytes:
        return json.dumps(self._authenticated() | self.wrapped.as_dict()).encode() + b"\n"

    def authenticated(self) -> bytes:
        """What AES-GCM protects beside the header itself."""
        return json.dumps(self._authenticated(), sort_keys=True).encode()

    def _authenticated(self) -> dict[str, Any]:
        head = {
            "format": FORMAT,
            "context": self.context.as_dict(),
            "uuid": self.uuid,
            "epoch": self.epoch,
        }
        if self.kind == HEADER:
            head |= {"nonce": base64.b64encode(self.nonce).decode(), "sha256": self.sha256}
        return head


def check(head: Head) -> None:
    """
    :raises RecordError: for what no record may have.
    """
    if head.epoch < 1:
        raise RecordError(f"epoch {head.epoch} of the {head.context}: epochs count from 1")
    if not _UUID.fullmatch(head.uuid):
        raise RecordError(f"{head.uuid!r} is not the UUID of a LUKS header ({head.context})")


def seal(header: bytes, key: bytes, head: Head) -> tuple[Head, bytes]:
    """A header backup as the content of its file, and the complete head of it.

    :param key: fresh for this one; its first 32 bytes are used.
    """
    if not 0 < len(header) <= LONGEST_HEADER:
        raise RecordError(
            f"a header backup of {len(header)} bytes ({head.context}): it has at most "
            f"{LONGEST_HEADER >> 20} MiB and is not empty"
        )
    head = replace(head, nonce=os.urandom(12), sha256=hashlib.sha256(header).hexdigest())
    cipher = AESGCM(key[:_AES_KEY])
    body = cipher.encrypt(head.nonce, zlib.compress(header, 6), head.authenticated())
    return head, head.line() + body


def unseal(path: Path, head: Head, body: bytes, key: bytes) -> bytes:
    """
    :raises RecordError: when anything about it was changed.
    """
    try:
        data = AESGCM(key[:_AES_KEY]).decrypt(head.nonce, body, head.authenticated())
        expand = zlib.decompressobj()
        header = expand.decompress(data, LONGEST_HEADER)
    except (InvalidTag, ValueError, zlib.error):
        raise damaged(path) from None
    if not expand.eof or hashlib.sha256(header).hexdigest() != head.sha256:
        raise damaged(path)
    return header


def read(path: Path, body_limit: int = _LONGEST_FILE) -> tuple[Head, bytes]:
    """A record's head and what follows it.

    :param body_limit: bytes of the latter to read.
    :raises RecordError: when it cannot be read or is not what its name says.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            line = file.readline(_LONGEST_HEAD)
            body = file.read(body_limit)
    except OSError as error:
        raise RecordError(f"record {path}: {error.strerror}") from None
    try:
        head = _head(json.loads(line))
        check(head)
        if path.name != head.file_name or bool(body) != (head.kind == HEADER):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecordError, CustodyError, RecursionError):
        raise damaged(path) from None
    return head, body


def read_head(path: Path) -> Head:
    """:raises RecordError: as `read`."""
    return read(path, 1)[0]


def _head(data: Any) -> Head:
    context, epoch, uuid = KeyContext.from_dict(data["context"]), data["epoch"], data["uuid"]
    if data["format"] != FORMAT or type(epoch) is not int or not isinstance(uuid, str):
        raise ValueError
    head = Head(context, uuid, epoch, WrappedKey.from_dict(data))
    if context.purpose == RECOVERY:
        return head
    if context.purpose != HEADER:
        raise ValueError
    try:
        nonce = base64.b64decode(data["nonce"], validate=True)
    except binascii.Error:
        raise ValueError from None
    return replace(head, nonce=nonce, sha256=str(data["sha256"]))


def damaged(path: Path) -> RecordError:
    return RecordError(
        f"record {path} is damaged or no record of ours: restore it from version control or a "
        "backup, or move it away"
    )
