"""Reads what ``scripts/look.sh`` prints: "KEY VALUE" lines, a volume's after ``volume NAME``."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from roles.volumes import luks2
from roles.volumes.plan import MountPoint, OpenMapping, Seen

_GZIP = 31  # zlib's wbits for a gzip stream


@dataclass(frozen=True)
class Looked:
    """What a host tells of its declared volumes.

    ``verified_ebs`` are ids of EBS volumes that were verified there to be encrypted; ``blocks`` are
    the lines that are ours in fstab and crypttab, by the file's path.
    """

    volumes: dict[str, Seen]
    verified_ebs: frozenset[str] = frozenset()
    blocks: Mapping[str, list[str]] = field(default_factory=dict)


def parse(lines: Sequence[str]) -> Looked:
    verified = set()
    blocks: dict[str, list[str]] = {}
    volumes: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in lines:
        key, _, value = line.partition(" ")
        if key == "verified":
            verified.add(value)
        elif key == "block":
            path, _, text = value.partition(" ")
            blocks.setdefault(path, []).append(text)
        elif key == "volume":
            current = volumes.setdefault(value, [])
        else:
            current.append((key, value))
    seen = {name: _seen(found) for name, found in volumes.items()}
    return Looked(seen, frozenset(verified), blocks)


class _Found:
    """The lines of one volume."""

    def __init__(self, lines: list[tuple[str, str]]) -> None:
        self._lines = lines

    def all(self, key: str) -> tuple[str, ...]:
        return tuple(value for name, value in self._lines if name == key)

    def one(self, key: str) -> str:
        return next(iter(self.all(key)), "")

    def probed(self, key: str, of: str = "") -> str:
        pairs = (item.partition("=") for item in self.all(f"{of}probe"))
        return next((value for name, _, value in pairs if name == key), "")


def _yes(value: str) -> bool | None:
    return {"yes": True, "no": False}.get(value)


def _seen(lines: list[tuple[str, str]]) -> Seen:
    found = _Found(lines)
    unknown = list(found.all("unknown"))
    kernel = found.one("kernel")
    if not kernel and not found.all("absent") and not unknown:
        unknown.append("the device was not looked at")
    header = None
    if packed := found.one("luks"):
        try:
            header = luks2.read(zlib.decompress(base64.b64decode(packed, validate=True), _GZIP))
        except (ValueError, zlib.error):
            unknown.append("the LUKS header could not be read")
    if kernel and not (found.one("bytes").isdigit() and found.one("blkid").isdigit()):
        unknown.append(f"size or content of /dev/{kernel} could not be read")
    return Seen(
        kernel=kernel,
        kind=found.one("kind"),
        size=int(found.one("bytes") or 0),
        read_only=found.one("read-only") != "0",
        rotational=found.one("rotational") != "0",
        serial=found.one("serial"),
        children=found.all("child"),
        holders=found.all("holder"),
        mounted=found.all("mounted"),
        swap=bool(found.all("swap")),
        listed=found.all("listed"),
        exclusive=found.one("exclusive") == "yes",
        blkid=int(found.one("blkid")) if found.one("blkid").isdigit() else None,
        type=found.probed("TYPE"),
        partition_table=found.probed("PTTYPE"),
        uuid=found.probed("UUID"),
        signatures=found.all("signature"),
        head_zero=_yes(found.one("head-zero")),
        tail_zero=_yes(found.one("tail-zero")),
        mark=found.one("mark"),
        luks=header,
        mapping=_mapping(found),
        mount_point=_mount_point(found),
        unknown=tuple(unknown),
    )


def _mapping(found: _Found) -> OpenMapping | None:
    if not found.one("mapping"):
        return None
    return OpenMapping(
        kernel=found.one("mapping"),
        uuid=found.one("mapping-uuid"),
        on=found.all("mapping-on"),
        holders=found.all("mapping-holder"),
        mounted=found.all("mapping-mounted"),
        filesystem=found.probed("TYPE", of="mapping-"),
    )


def _mount_point(found: _Found) -> MountPoint:
    state, *rest = found.one("mount-point").split(" ") if found.one("mount-point") else ("unknown",)
    source, options = (*rest, "", "")[:2]
    return MountPoint(state, source, frozenset(options.split(",")) - {""}, found.all("conflict"))
