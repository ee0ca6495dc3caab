"""The LUKS2 token that makes a volume carry its own wrapped key: a host has no other key state.

A token as ``cryptsetup token export`` prints it::

    {"type": "strongbox", "keyslots": ["1"], "epoch": "3",
     "scheme": "age", "key_id": "…", "ciphertext": "…"}

The recovery key's token has the type ``strongbox-recovery`` and no wrapped key: that one is
escrowed in a record on the controller, under the same epoch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from roles.custody.protocol import CustodyError, WrappedKey
from roles.volumes.names import RECOVERY_TOKEN_TYPE, TOKEN_TYPE


class TokenError(ValueError):
    """A token of our type that cannot be read."""


@dataclass(frozen=True)
class Token:
    """
    :param keyslot: number of the keyslot that the key opens, None when the token names none. While
        a volume is re-encrypted its key has two, for the old and the new volume key, and opens the
        volume only when it may try both: this is the new one, which stays.
    :param epoch: counts key changes from 1, never downwards.
    :param wrapped: None in a recovery token.
    """

    keyslot: int | None
    epoch: int
    wrapped: WrappedKey | None

    @property
    def type(self) -> str:
        return TOKEN_TYPE if self.wrapped else RECOVERY_TOKEN_TYPE

    def to_json(self) -> str:
        """One line, as ``cryptsetup token import`` reads it."""
        slots = [] if self.keyslot is None else [str(self.keyslot)]
        head: dict[str, Any] = {"type": self.type, "keyslots": slots, "epoch": str(self.epoch)}
        return json.dumps(head | (self.wrapped.as_dict() if self.wrapped else {}))


def parse(data: dict[str, Any]) -> Token | None:
    """A token of ours, None for one of another type.

    :raises TokenError: for one of ours that is damaged.
    """
    kind = data.get("type")
    if kind not in (TOKEN_TYPE, RECOVERY_TOKEN_TYPE):
        return None
    slots, epoch = data.get("keyslots"), data.get("epoch")
    if not isinstance(slots, list) or len(slots) > 2 or not str(epoch).isdigit() or epoch == "0":
        raise TokenError(f"a token of type {kind} is damaged: its keyslots or epoch cannot be read")
    try:
        wrapped = WrappedKey.from_dict(data) if kind == TOKEN_TYPE else None
        keyslot = max(map(int, slots), default=None)
    except (CustodyError, ValueError) as error:
        raise TokenError(f"a token of type {kind} is damaged: {error}") from None
    return Token(keyslot, int(str(epoch)), wrapped)
