"""Identities, contexts and strategies for the tests of custody."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from roles.custody import identity
from roles.custody.age import AgeCustody
from roles.custody.identity import IdentitySource
from roles.custody.protocol import KeyContext

UUID = "4c1f3f2e-8f7d-5b5e-9d58-6d2b0a3c7e11"
CONTEXT = KeyContext("payments", "kafka1.test", "main", "volume")

_name = st.from_regex(r"[a-z][a-z0-9]{0,7}", fullmatch=True)
contexts = st.builds(
    KeyContext, _name, _name, _name, st.sampled_from(("volume", "recovery", "header"))
)


def local(folder: Path, name: str = "operator") -> AgeCustody:
    """Custody of one recipient, whose identity is in a file."""
    path = folder / f"{name}.age"
    recipient = identity.create(path)
    return AgeCustody((recipient,), IdentitySource(file=str(path)))


def recipients(custody: AgeCustody) -> tuple[str, ...]:
    return custody._recipients
