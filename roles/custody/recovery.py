"""The recovery key of a volume, in the form in which people write it down and type it.

32 random bytes and a checksum of 3 become 56 letters and digits in 14 groups::

    ABCD-EFGH-…-2345

What LUKS gets as its passphrase is exactly this text, so it can be typed at a prompt of cryptsetup
without any tool of ours. The checksum is CRC-24 (RFC 4880, section 6.1): it finds every change of
one character or of neighbours, as those lie within 24 bits.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets

from roles.common.secret_source import Secret

RANDOM_BYTES = 32
_CHECK_BYTES = 3
_GROUP = 4
_LENGTH = (RANDOM_BYTES + _CHECK_BYTES) * 8 // 5


class RecoveryKeyError(ValueError):
    """A text that is no recovery key; the message never shows it."""


class RecoveryKey(Secret):
    """A recovery key in its canonical text; `reveal` gives it."""

    @property
    def passphrase(self) -> bytes:
        """What LUKS and custody get: the text in ASCII, without a newline."""
        return self.reveal().encode("ascii")


def generate() -> RecoveryKey:
    return from_bytes(secrets.token_bytes(RANDOM_BYTES))


def from_bytes(data: bytes) -> RecoveryKey:
    """
    :raises RecoveryKeyError: unless it is 32 bytes.
    """
    if len(data) != RANDOM_BYTES:
        raise RecoveryKeyError(f"a recovery key has {RANDOM_BYTES} bytes, not {len(data)}")
    text = base64.b32encode(data + _checksum(data)).decode()
    return RecoveryKey("-".join(re.findall("." * _GROUP, text)))


def parse(text: str) -> RecoveryKey:
    """What a person typed: case, blanks and dashes do not matter.

    :raises RecoveryKeyError: when a character is wrong, missing or too many.
    """
    plain = re.sub(r"[\s-]+", "", text).upper()
    if len(plain) != _LENGTH:
        raise RecoveryKeyError(
            f"a recovery key has {_LENGTH} letters and digits in groups of {_GROUP}; "
            f"this has {len(plain)}"
        )
    try:
        data = base64.b32decode(plain)
    except (binascii.Error, ValueError):
        raise RecoveryKeyError(
            "a recovery key has only the letters A to Z and the digits 2 to 7"
        ) from None
    if _checksum(data[:RANDOM_BYTES]) != data[RANDOM_BYTES:]:
        raise RecoveryKeyError(
            "the recovery key's checksum is wrong: a character was mistaken for another"
        )
    return from_bytes(data[:RANDOM_BYTES])


def _checksum(data: bytes) -> bytes:
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc = (crc << 1) ^ (0x1864CFB if crc & 0x800000 else 0)
    return crc.to_bytes(_CHECK_BYTES, "big")
