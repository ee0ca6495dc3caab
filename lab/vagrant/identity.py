"""Secrets of the machines' cluster, kept in the lab's folder: it is for tests only."""

from __future__ import annotations

import secrets

from lab.state import Lab
from roles.custody import identity


def create(lab: Lab) -> None:
    """Makes the authorities' passphrase and the operator's age identity where they are missing."""
    lab.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not lab.passphrase.exists():
        temporary = lab.folder / "ca-passphrase.new"
        temporary.touch(mode=0o600)
        temporary.write_text(f"{secrets.token_urlsafe(32)}\n")
        temporary.replace(lab.passphrase)
    if not lab.identity.exists():
        identity.create(lab.identity)
