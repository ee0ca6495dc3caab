"""What every custody checks before and after it asks whoever holds the keys."""

from __future__ import annotations

import base64
import binascii

from roles.custody.protocol import CustodyError, KeyContext, WrappedKey

SHORTEST_KEY, LONGEST_KEY = 16, 512  # bytes
_LONGEST_CIPHERTEXT = 64 * 1024  # base64 characters: a thousand age recipients fit


def key(value: bytes, context: KeyContext) -> bytes:
    """The key as it is.

    :raises CustodyError: for one too short to protect anything or too long to be a key.
    """
    if not SHORTEST_KEY <= len(value) <= LONGEST_KEY:
        raise CustodyError(
            f"the {context} has {len(value)} bytes; a key has {SHORTEST_KEY} to {LONGEST_KEY}"
        )
    return value


def ciphertext(wrapped: WrappedKey, context: KeyContext) -> bytes:
    """Its ciphertext in binary.

    :raises CustodyError: when it is not base64 or much too long.
    """
    try:
        if len(wrapped.ciphertext) > _LONGEST_CIPHERTEXT:
            raise ValueError
        return base64.b64decode(wrapped.ciphertext, validate=True)
    except (binascii.Error, ValueError):
        raise damaged(context) from None


def damaged(context: KeyContext) -> CustodyError:
    return CustodyError(
        f"the wrapped {context} is damaged: restore the record or the volume's header from a backup"
    )


def scheme(wrapped: WrappedKey, ours: str, context: KeyContext) -> None:
    """
    :raises CustodyError: when another custody wrapped it.
    """
    if wrapped.scheme != ours:
        kind, keep = {
            "age": ("local", "custody_identity_file"),
            "aws-kms": ("aws-kms", "custody_kms_old_keys"),
        }.get(wrapped.scheme, (wrapped.scheme, "its settings"))
        raise CustodyError(
            f"the {context} was wrapped with custody_kind = {kind!r}: set {keep} until all is "
            "wrapped anew (docs/custody.md)"
        )
