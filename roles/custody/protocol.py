"""Who can unwrap a key: what every custody implementation offers, and the shape of what it makes.

A wrapped key is safe to show and to keep anywhere: in a LUKS2 token on the disk that it opens, or
in a record on the controller. Pure: no pyinfra, no host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

KEY_BYTES = 64  # of a volume key: as many as aes-xts-plain64 with 512 bits has
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


class CustodyError(Exception):
    """A key that cannot be wrapped or unwrapped; one line with what to do, and never the key."""


class CustodyAway(CustodyError):
    """The key service did not answer or cannot serve now: trying later may help."""


@dataclass(frozen=True)
class KeyContext:
    """What a key is for. A wrapped key can be unwrapped only under the context it was made for.

    :param purpose: ``volume`` (opens it at boot or by the controller), ``recovery`` (opens it when
        all else fails), ``header`` (seals backups of the volume's header).
    """

    cluster: str
    host: str
    volume: str
    purpose: str

    def as_dict(self) -> dict[str, str]:
        """As AWS KMS takes it for an encryption context; it is logged there in clear."""
        return {
            "strongbox:cluster": self.cluster,
            "strongbox:host": self.host,
            "strongbox:volume": self.volume,
            "strongbox:purpose": self.purpose,
        }

    @classmethod
    def from_dict(cls, data: Any) -> KeyContext:
        """
        :raises ValueError: for anything but what `as_dict` makes.
        """
        if not isinstance(data, dict) or not all(isinstance(item, str) for item in data.values()):
            raise ValueError("this is not the context of a key")
        context = cls(*(data.get(f"strongbox:{field}", "") for field in cls.__dataclass_fields__))
        if context.as_dict() != data:
            raise ValueError("this is not the context of a key")
        return context

    def __str__(self) -> str:
        return f"{self.purpose} key of volume {self.volume!r} on {self.host} ({self.cluster})"


@dataclass(frozen=True)
class WrappedKey:
    """A key that only custody can open.

    :param scheme: which implementation made it: ``age`` or ``aws-kms``.
    :param key_id: under what: a KMS key's ARN, or a digest of the age recipients.
    :param ciphertext: base64.
    """

    scheme: str
    key_id: str
    ciphertext: str

    def as_dict(self) -> dict[str, str]:
        """As it lies in a LUKS2 token or a record."""
        return {"scheme": self.scheme, "key_id": self.key_id, "ciphertext": self.ciphertext}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WrappedKey:
        """
        :raises CustodyError: for what is not a wrapped key.
        """
        values = [data.get(field) for field in ("scheme", "key_id", "ciphertext")]
        if not all(isinstance(value, str) and value for value in values):
            raise CustodyError("this is not a wrapped key: scheme, key_id or ciphertext is missing")
        scheme, key_id, ciphertext = map(str, values)
        if not _BASE64.fullmatch(ciphertext) or len(ciphertext) % 4:
            raise CustodyError("this is not a wrapped key: its ciphertext is not base64")
        return cls(scheme, key_id, ciphertext)


class Custody(Protocol):
    """Wraps and unwraps keys. Every method may ask a person or a service, so none is called while
    a run is only planned, except `describe` and `is_current`, which ask nobody."""

    def new_key(self, context: KeyContext) -> tuple[bytes, WrappedKey]:
        """A new random key of `KEY_BYTES` bytes, and the same wrapped."""

    def wrap(self, key: bytes, context: KeyContext) -> WrappedKey:
        """Wraps a key that exists, such as a recovery key."""

    def unwrap(self, wrapped: WrappedKey, context: KeyContext) -> bytes:
        """
        :raises CustodyAway: when the service cannot be asked now.
        :raises CustodyError: when it was wrapped for another context, or may not be unwrapped.
        """

    def rotate(self, wrapped: WrappedKey, context: KeyContext) -> WrappedKey:
        """The same key wrapped under the present recipients or KMS key."""

    def is_current(self, wrapped: WrappedKey) -> bool:
        """Whether `rotate` would wrap it under what it is wrapped under already."""

    def describe(self) -> str:
        """Who can unwrap, for people: never a secret."""
