"""A volume without a disk: what the scripts about keys do to it, and a process killed meanwhile."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roles.custody.protocol import CustodyError, KeyContext, WrappedKey
from roles.custody.records import Records
from roles.volumes.keys.life import Life, VolumeKeys
from roles.volumes.keys.script import CHANGED, WRONG_KEY, Result, Script
from roles.volumes.token import Token


class Killed(BaseException):
    """The run's process ended here."""


class MemoryCustody:
    """Knows what it wrapped by a number."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[bytes, KeyContext]] = {}
        self.unwrapped = 0

    def new_key(self, context: KeyContext) -> tuple[bytes, WrappedKey]:
        key = secrets.token_bytes(64)
        return key, self.wrap(key, context)

    def wrap(self, key: bytes, context: KeyContext) -> WrappedKey:
        number = base64.b64encode(secrets.token_bytes(9)).decode()
        self.kept[number] = (key, context)
        return WrappedKey("memory", "1", number)

    def unwrap(self, wrapped: WrappedKey, context: KeyContext) -> bytes:
        self.unwrapped += 1
        key, of = self.kept[wrapped.ciphertext]
        if of != context:
            raise CustodyError(f"the key is the {of}")
        return key

    def rotate(self, wrapped: WrappedKey, context: KeyContext) -> WrappedKey:
        return self.wrap(self.unwrap(wrapped, context), context)

    def is_current(self, wrapped: WrappedKey) -> bool:
        return True

    def describe(self) -> str:
        return "memory"


def luks2_copy(number: int, sequence: int, uuid: str, metadata: dict[str, Any]) -> bytes:
    """One copy of a LUKS2 header as it lies on a disk."""
    magic = (b"LUKS\xba\xbe", b"SKUL\xba\xbe")[number]
    binary = struct.pack(
        ">6sHQQ48s32s64s40s48sQ184s64s3584x",
        magic, 2, 16384, sequence, b"", b"sha256", b"", uuid.encode(), b"", 16384 * number,
        b"", b"",
    )  # fmt: skip
    area = bytearray((binary + json.dumps(metadata).encode()).ljust(16384, b"\0"))
    area[448:480] = hashlib.sha256(area).digest()
    return bytes(area)


@dataclass
class SimulatedVolume:
    """
    :param slots: the key that opens each keyslot.
    :param tokens: their JSON by id.
    """

    keys: VolumeKeys
    custody: MemoryCustody
    records: Records
    slots: dict[int, bytes] = field(default_factory=dict)
    tokens: dict[int, dict[str, Any]] = field(default_factory=dict)
    sequence: int = 1
    scripts: list[str] = field(default_factory=list)
    #: Called before and after each change to the volume; may raise `Killed`.
    at: Callable[[str], None] = lambda _: None

    @classmethod
    def formatted(cls, folder: Path) -> SimulatedVolume:
        custody = MemoryCustody()
        keys = VolumeKeys("payments", "zk1", "main", "/dev/disk/by-id/sim")
        volume = cls(keys, custody, Records(folder, custody))
        key, wrapped = custody.new_key(keys.context("volume"))
        volume.slots[0] = key
        volume.tokens[0] = json.loads(Token(0, 1, wrapped).to_json())
        return volume

    def life(self) -> Life:
        return Life(self.keys, self.run, self.custody, self.records)

    def metadata(self) -> dict[str, Any]:
        areas = {
            str(slot): {"type": "luks2", "area": {"type": "raw", "offset": str(at), "size": "64"}}
            for slot, at in self._areas()
        }
        tokens = {str(number): token for number, token in sorted(self.tokens.items())}
        config = {"keyslots_size": "4096", "sequence": self.sequence}
        return {"keyslots": areas, "tokens": tokens, "config": config}

    def _areas(self) -> list[tuple[int, int]]:
        return [(slot, 32768 + 64 * slot) for slot in sorted(self.slots)]

    def image(self) -> bytes:
        copies = [
            luks2_copy(number, self.sequence, self.keys.uuid, self.metadata()) for number in (0, 1)
        ]
        image = bytearray(b"".join(copies) + bytes(4096))
        for slot, at in self._areas():
            image[at : at + 64] = hashlib.sha512(self.slots[slot]).digest().replace(b"\0", b"1")
        return bytes(image)

    def run(self, script: Script) -> Result:
        self.scripts.append(script.name)
        if script.name == "keys-look":
            return Result(0, self._look(), ())
        _, digest, *rest = script.arguments
        if digest != self._digest():
            return Result(CHANGED, (), ["the header changed"])
        if script.name == "keys-header":
            return Result(0, [base64.b64encode(gzip.compress(self.image())).decode()], ())
        self.at(f"before {script.name}")
        status = self._change(script.name, rest, script.stdin)
        if status == 0 and script.name != "keys-prove":
            self.sequence += 1
        self.at(f"after {script.name}")
        return Result(status, (), ["refused"] if status else ())

    def _digest(self) -> str:
        return hashlib.sha256(self.image()[:32768]).hexdigest()

    def _look(self) -> list[str]:
        image = self.image()
        first, second = (
            base64.b64encode(gzip.compress(image[at : at + 16384], 1)).decode() for at in (0, 16384)
        )
        return [
            f"device {self.keys.device}",
            f"first {first}",
            f"second {second}",
            f"digest {self._digest()}",
            f"image {hashlib.sha256(image).hexdigest()}",
            "signature crypto_LUKS",
            "holders ",
            "serial sim",
        ]

    def _change(self, name: str, rest: list[str], stdin: tuple[str, ...]) -> int:
        if name == "keys-prove":
            return self._opens(rest[0], stdin[0])
        if name == "keys-add":
            if self._opens(rest[0], stdin[0]):
                return WRONG_KEY
            assert int(rest[1]) not in self.slots
            self.slots[int(rest[1])] = base64.b64decode(stdin[1])
            return 0
        if name == "keys-kill":
            if self._opens(rest[1], stdin[0]) or rest[0] == rest[1]:
                return WRONG_KEY
            del self.slots[int(rest[0])]
            for token in self.tokens.values():
                token["keyslots"] = [slot for slot in token["keyslots"] if slot != rest[0]]
            return 0
        assert name == "keys-token"
        action, number, *slot = rest
        if action == "remove":
            del self.tokens[int(number)]
            return 0
        if self._opens(slot[0], stdin[1]):
            return WRONG_KEY
        token = json.loads(stdin[0])
        assert all(int(named) in self.slots for named in token["keyslots"])
        self.tokens[int(number)] = token
        return 0

    def _opens(self, slot: str, key: str) -> int:
        return 0 if self.slots.get(int(slot)) == base64.b64decode(key) else WRONG_KEY
