"""Tokens of a LUKS2 header, read into what `plan` knows, and written. Pure.

A staged token announces a key before it is added. Nothing but this package knows its type::

    {"type": "strongbox-next", "keyslots": [], "purpose": "volume", "slot": "2", "epoch": "4",
     "scheme": "age", "key_id": "…", "ciphertext": "…"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from roles.custody.protocol import WrappedKey
from roles.volumes.keys.header import Header
from roles.volumes.keys.plan import KEYSLOTS, KeysSeen, KeyToken, Purpose
from roles.volumes.names import RECOVERY_TOKEN_TYPE, TOKEN_TYPE
from roles.volumes.token import Token, TokenError, parse

STAGED_TOKEN_TYPE = "strongbox-next"  # noqa: S105
_TYPES = {Purpose.VOLUME: TOKEN_TYPE, Purpose.RECOVERY: RECOVERY_TOKEN_TYPE}


def seen(header: Header) -> KeysSeen:
    """What the header has, without what the records have."""
    tokens: list[KeyToken] = []
    damaged: set[int] = set()
    others: set[int] = set()
    other_tokens: set[int] = set()
    for number, data in header.metadata.get("tokens", {}).items():
        try:
            token = _read(int(number), data)
        except TokenError:
            damaged.add(int(number))
            continue
        if token is None:
            other_tokens.add(int(number))
            others |= {int(slot) for slot in data.get("keyslots", ())}
        else:
            tokens.append(token)
    return KeysSeen(
        keyslots=header.keyslots,
        tokens=tuple(sorted(tokens, key=lambda token: token.id)),
        damaged=frozenset(damaged),
        others=frozenset(others),
        other_tokens=frozenset(other_tokens),
        image=header.image,
    )


def _read(number: int, data: Mapping[str, Any]) -> KeyToken | None:
    if data.get("type") == STAGED_TOKEN_TYPE:
        return _staged(number, data)
    token = parse(dict(data))
    if token is None:
        return None
    purpose = Purpose.VOLUME if token.wrapped else Purpose.RECOVERY
    return KeyToken(number, purpose, token.epoch, token.keyslot, wrapped=token.wrapped)


def _staged(number: int, data: Mapping[str, Any]) -> KeyToken:
    try:
        purpose, slot = Purpose(data["purpose"]), int(data["slot"])
    except (KeyError, ValueError, TypeError):
        raise TokenError(f"token {number} is damaged: it announces no key") from None
    token = parse({**data, "type": _TYPES[purpose]})
    if token is None or not 0 <= slot < KEYSLOTS:
        raise TokenError(f"token {number} is damaged: it announces no keyslot")
    return KeyToken(number, purpose, token.epoch, slot, staged=True, wrapped=token.wrapped)


def staged(purpose: Purpose, epoch: int, slot: int, wrapped: WrappedKey | None) -> str:
    """A staged token in one line of JSON."""
    head = {
        "type": STAGED_TOKEN_TYPE,
        "keyslots": [],
        "purpose": str(purpose),
        "slot": str(slot),
        "epoch": str(epoch),
    }
    return json.dumps(head | (wrapped.as_dict() if wrapped else {}))


def bound(token: KeyToken) -> str:
    """The token that a staged one becomes, in one line of JSON."""
    return Token(token.slot, token.epoch, token.wrapped).to_json()
