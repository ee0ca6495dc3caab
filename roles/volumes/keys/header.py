"""The LUKS2 header of a volume as ``scripts/keys-look.sh`` prints it. Pure.

Lines for each device, of which all but the first are missing when there is no such device::

    device /dev/disk/by-id/…
    first H4sIAAAA…       that copy of the header, gzip and base64; - when there is none
    second -
    digest 9f86d081…      SHA-256 of the first 32 KiB, so of both copies
    image 60303ae2…       SHA-256 of a header backup taken now; missing without a first copy
    signature crypto_LUKS what blkid finds, may be empty; or words about what else it says
    holders dm-0          who has the device open, may be empty
    serial vol0abc…       of the disk, may be empty

Nothing in it is secret: keys are in the header only in wrapped form.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from roles.volumes import luks2
from roles.volumes.luks2 import Copy

_UUID_AT = 168


@dataclass(frozen=True)
class Header:
    """
    :param first: None when that copy is damaged.
    :param claimed: UUIDs that copies name, damaged ones too.
    """

    device: str
    there: bool
    first: Copy | None = None
    second: Copy | None = None
    claimed: frozenset[str] = frozenset()
    digest: str = ""
    image: str = ""
    signature: str = ""
    holders: tuple[str, ...] = ()
    serial: str = ""

    @property
    def newest(self) -> Copy | None:
        """The copy that cryptsetup goes by."""
        whole = [copy for copy in (self.first, self.second) if copy is not None]
        return max(whole, key=lambda copy: copy.sequence, default=None)

    @property
    def whole(self) -> bool:
        """Both copies are, and they are the same."""
        return self.first is not None and self.first == self.second

    @property
    def repaired(self) -> Header:
        """As cryptsetup will leave it, which writes a damaged copy from the whole one, with a salt
        that nobody knows yet."""
        if self.newest is None:
            return self
        claimed = frozenset({self.newest.uuid})
        return replace(
            self, first=self.newest, second=self.newest, claimed=claimed, image="repaired"
        )

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Of the newest copy, empty when both are damaged."""
        return self.newest.metadata if self.newest else {}

    @property
    def keyslots(self) -> frozenset[int]:
        return frozenset(int(slot) for slot in self.metadata.get("keyslots", {}))

    @property
    def requirements(self) -> tuple[str, ...]:
        """Such as ``online-reencrypt-v2`` while the volume gets a new volume key."""
        return requirements(self.metadata)


def requirements(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(metadata.get("config", {}).get("requirements", {}).get("mandatory", ()))


class HeaderError(ValueError):
    """What keys-look.sh printed cannot be understood."""


def parse(lines: Sequence[str]) -> dict[str, Header]:
    """Headers by device.

    :raises HeaderError: for lines that are not of this form.
    """
    devices: dict[str, dict[str, str]] = {}
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(" ")
        if name == "device":
            fields = devices.setdefault(value, {})
        else:
            fields[name] = value
    try:
        return {device: _header(device, fields) for device, fields in devices.items()}
    except (KeyError, ValueError, OSError, EOFError, zlib.error, binascii.Error) as error:
        raise HeaderError(f"the LUKS headers could not be understood: {error!r}") from None


def _header(device: str, fields: Mapping[str, str]) -> Header:
    if not fields:
        return Header(device, there=False)
    areas = [_unpacked(fields[name]) for name in ("first", "second")]
    claimed = {area[_UUID_AT : _UUID_AT + 40].rstrip(b"\0") for area in areas if area}
    return Header(
        device,
        there=True,
        first=luks2.copy_of(areas[0], 0),
        second=luks2.copy_of(areas[1], 1),
        claimed=frozenset(text.decode("ascii", "replace") for text in claimed),
        digest=fields["digest"],
        image=fields.get("image", ""),
        signature=fields["signature"],
        holders=tuple(fields["holders"].split()),
        serial=fields["serial"],
    )


def _unpacked(text: str) -> bytes:
    return b"" if text == "-" else gzip.decompress(base64.b64decode(text, validate=True))


@dataclass(frozen=True)
class Backup:
    """What a header backup is of."""

    uuid: str
    metadata: Mapping[str, Any]


def read_backup(image: bytes) -> Backup | None:
    """None unless it is a whole header with key material for each of its keyslots."""
    copies = [luks2.copy_of(image[at : at + luks2.AREA], n) for n, at in enumerate((0, luks2.AREA))]
    if copies[0] is None or copies[0] != copies[1]:
        return None
    for slot in copies[0].metadata.get("keyslots", {}).values():
        if slot["area"]["type"] == "raw":
            at, size = int(slot["area"]["offset"]), int(slot["area"]["size"])
            # Key material is as good as random.
            if image[at : at + size].count(0) * 16 > size or len(image) < at + size:
                return None
    return Backup(copies[0].uuid, copies[0].metadata)
