"""Custody ``local``: keys are wrapped to age recipients, each of whom can unwrap alone.

What is sealed is JSON, ``{"context": {…}, "key": base64}``: age itself binds nothing to a
ciphertext, so the context travels inside and is compared when it is opened.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from collections.abc import Sequence
from threading import RLock
from typing import Any

import pyrage
from pyrage import x25519

from roles.custody import checks, identity
from roles.custody.identity import Identities, IdentitySource
from roles.custody.protocol import KEY_BYTES, CustodyError, KeyContext, WrappedKey

SCHEME = "age"


class AgeCustody:
    """
    :param recipients: public, ``age1…``; with none nothing can be wrapped.
    :param source: asked once, when the first key has to be unwrapped.
    """

    def __init__(self, recipients: Sequence[str], source: IdentitySource) -> None:
        self._recipients = tuple(sorted(set(recipients)))
        self._source = source
        self._lock = RLock()
        self._identities: Identities | None = None
        self._failure = ""

    def __repr__(self) -> str:
        return f"AgeCustody({self.describe()})"

    @property
    def key_id(self) -> str:
        """The same for the same recipients in any order."""
        digest = hashlib.sha256("\n".join(self._recipients).encode()).hexdigest()
        return f"sha256:{digest[:32]}"

    def new_key(self, context: KeyContext) -> tuple[bytes, WrappedKey]:
        key = secrets.token_bytes(KEY_BYTES)
        return key, self.wrap(key, context)

    def wrap(self, key: bytes, context: KeyContext) -> WrappedKey:
        checks.key(key, context)
        if not self._recipients:
            raise CustodyError(
                "custody_recipients is empty, so nobody could unwrap: name the age recipients "
                "(`strongbox custody init` makes one)"
            )
        content = {"context": context.as_dict(), "key": base64.b64encode(key).decode()}
        try:
            recipients = [x25519.Recipient.from_str(item) for item in self._recipients]
        except pyrage.RecipientError:
            raise CustodyError(
                "custody_recipients has one with a wrong checksum: copy it again"
            ) from None
        sealed = pyrage.encrypt(json.dumps(content).encode(), recipients)
        return WrappedKey(SCHEME, self.key_id, base64.b64encode(sealed).decode())

    def unwrap(self, wrapped: WrappedKey, context: KeyContext) -> bytes:
        checks.scheme(wrapped, SCHEME, context)
        sealed = checks.ciphertext(wrapped, context)
        identities = self._open_identities()
        try:
            content = pyrage.decrypt(sealed, identities.opened())
        except pyrage.DecryptError as error:
            # age tells a stranger's key from a damaged file only by this text.
            if str(error) == "No matching keys found":
                raise self._not_for(identities, wrapped, context) from None
            raise checks.damaged(context) from None
        return _opened(content, context)

    def rotate(self, wrapped: WrappedKey, context: KeyContext) -> WrappedKey:
        return self.wrap(self.unwrap(wrapped, context), context)

    def is_current(self, wrapped: WrappedKey) -> bool:
        return (wrapped.scheme, wrapped.key_id) == (SCHEME, self.key_id)

    def describe(self) -> str:
        if not self._recipients:
            return "local: no age recipients"
        return (
            f"local: any one of {len(self._recipients)} age recipients "
            f"({', '.join(self._recipients)})"
        )

    def _open_identities(self) -> Identities:
        # A source that failed is not asked again: for every volume of every host it would prompt.
        with self._lock:
            if self._failure:
                raise CustodyError(self._failure)
            if self._identities is None:
                try:
                    self._identities = identity.read(self._source)
                except CustodyError as error:
                    self._failure = str(error)
                    raise
            return self._identities

    def _not_for(
        self, identities: Identities, wrapped: WrappedKey, context: KeyContext
    ) -> CustodyError:
        ours = ", ".join(identities.recipients)
        whose = f"the age identity from {self._source.describe()} ({ours})"
        if not set(identities.recipients) & set(self._recipients):
            return CustodyError(
                f"{whose} is none of custody_recipients and cannot unwrap the {context}: "
                "use the identity of one of them"
            )
        if not self.is_current(wrapped):
            return CustodyError(
                f"the {context} was wrapped before {whose} became one of custody_recipients: "
                "someone who was one before has to run `strongbox custody rewrap`, and "
                "deploys/rotate_volume_keys.py for the volumes themselves"
            )
        return checks.damaged(context)


def _opened(content: bytes, context: KeyContext) -> bytes:
    try:
        data: Any = json.loads(content)
        found = KeyContext.from_dict(data["context"])
        key = base64.b64decode(data["key"], validate=True)
    except (ValueError, TypeError, KeyError, binascii.Error):
        raise CustodyError(
            f"the wrapped {context} holds something that strongbox did not make: refused"
        ) from None
    if found != context:
        raise CustodyError(f"what was to be the {context} is the {found}: refused")
    return checks.key(key, context)
