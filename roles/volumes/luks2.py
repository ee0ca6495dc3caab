"""Reads a LUKS2 header without cryptsetup, which repairs a damaged one when it is only asked.

Format: "LUKS2 On-Disk Format Specification" 1.1, sections 2 and 3: two copies of a binary header
(4096 bytes, big endian) with a JSON area behind it; with cryptsetup's defaults the first copy lies
at 0 and the second at 16 KiB. Pure.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roles.volumes.token import Token, TokenError, parse

HEADER = 4096
#: Of one copy, as cryptsetup makes it.
AREA = 16384
_MAGIC = (b"LUKS\xba\xbe", b"SKUL\xba\xbe")
# magic, version, hdr_size, seqid, label, csum_alg, salt, uuid, subsystem, hdr_offset, padding, csum
_BINARY = struct.Struct(">6sHQQ48s32s64s40s48sQ184s64s")
_CSUM_AT = _BINARY.size - 64
_UUID1_AT = 168  # in a LUKS1 header, 40 bytes


@dataclass(frozen=True)
class Luks:
    """What the header of a device says.

    :param tokens: of ours, newest first.
    :param token_problem: why one of ours cannot be read.
    :param torn: which copy is not whole, ``first`` or ``second``; cryptsetup uses the other.
    :param damaged: why nothing in the header can be relied on.
    """

    version: int
    uuid: str
    label: str = ""
    keyslots: frozenset[int] = frozenset()
    tokens: tuple[Token, ...] = ()
    token_problem: str = ""
    torn: str = ""
    damaged: str = ""

    @property
    def token(self) -> Token | None:
        """The newest with a wrapped key whose keyslot is there."""
        usable = (item for item in self.tokens if item.wrapped and item.keyslot in self.keyslots)
        return next(usable, None)


def read(head: bytes) -> Luks:
    """From the first 32 KiB of a device on which blkid found LUKS."""
    if head[:6] == _MAGIC[0] and head[6:8] == b"\x00\x01":
        return Luks(1, _text(head[_UUID1_AT : _UUID1_AT + 40]))
    copies = [copy_of(head[AREA * number : AREA * (number + 1)], number) for number in (0, 1)]
    whole = [copy for copy in copies if copy is not None]
    if not whole:
        return Luks(2, "", damaged="no copy of the LUKS2 header is whole")
    newest = max(whole, key=lambda copy: copy.sequence)
    torn = next((("first", "second")[n] for n in (0, 1) if copies[n] is None), "")
    differ = len({copy.uuid for copy in whole}) > 1
    tokens, problem = _tokens(newest.metadata.get("tokens"))
    return Luks(
        version=2,
        uuid=newest.uuid,
        label=newest.label,
        keyslots=frozenset(int(slot) for slot in newest.metadata.get("keyslots", {})),
        tokens=tokens,
        token_problem=problem,
        torn=torn,
        damaged="the two copies of the LUKS2 header are of different volumes" if differ else "",
    )


@dataclass(frozen=True)
class Copy:
    """One copy of the header that is whole."""

    sequence: int
    uuid: str
    label: str
    metadata: Mapping[str, Any]


def copy_of(area: bytes, number: int) -> Copy | None:
    """The first (0) or second (1) copy when it is whole: with a checksum that is right."""
    if len(area) < AREA or area[:6] != _MAGIC[number]:
        return None
    values = _BINARY.unpack_from(area)
    _, version, size, sequence, label, algorithm, _, uuid, _, offset, _, digest = values
    if (version, size, offset) != (2, AREA, number * AREA):
        return None
    blank = area[:_CSUM_AT] + bytes(64) + area[_CSUM_AT + 64 :]
    try:
        expected = hashlib.new(_text(algorithm), blank, usedforsecurity=False).digest()
        metadata = json.loads(_text(area[HEADER:]))
    except ValueError:
        return None
    if digest[: len(expected)] != expected or not isinstance(metadata, dict):
        return None
    return Copy(sequence, _text(uuid), _text(label), metadata)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode(errors="replace")


def _tokens(found: Any) -> tuple[tuple[Token, ...], str]:
    tokens, problem = [], ""
    for data in found.values() if isinstance(found, dict) else ():
        try:
            token = parse(data)
        except TokenError as error:
            problem = str(error)
            continue
        if token:
            tokens.append(token)
    return tuple(sorted(tokens, key=lambda token: -token.epoch)), problem
