"""One custody after another: what the former wrapped is still unwrapped, and wrapped anew."""

from __future__ import annotations

from roles.custody.protocol import Custody, KeyContext, WrappedKey


class Succession:
    """
    :param present: wraps everything.
    :param former: unwraps what has its scheme.
    :param former_scheme: as in `WrappedKey`.
    """

    def __init__(self, present: Custody, former: Custody, former_scheme: str) -> None:
        self._present = present
        self._former = former
        self._former_scheme = former_scheme

    def __repr__(self) -> str:
        return f"Succession({self._present!r}, {self._former!r})"

    def new_key(self, context: KeyContext) -> tuple[bytes, WrappedKey]:
        return self._present.new_key(context)

    def wrap(self, key: bytes, context: KeyContext) -> WrappedKey:
        return self._present.wrap(key, context)

    def unwrap(self, wrapped: WrappedKey, context: KeyContext) -> bytes:
        former = wrapped.scheme == self._former_scheme
        return (self._former if former else self._present).unwrap(wrapped, context)

    def rotate(self, wrapped: WrappedKey, context: KeyContext) -> WrappedKey:
        if wrapped.scheme == self._former_scheme:
            return self._present.wrap(self._former.unwrap(wrapped, context), context)
        return self._present.rotate(wrapped, context)

    def is_current(self, wrapped: WrappedKey) -> bool:
        return self._present.is_current(wrapped)

    def describe(self) -> str:
        return f"{self._present.describe()}; keys wrapped with {self._former_scheme} still open"
