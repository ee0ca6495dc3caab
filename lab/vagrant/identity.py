"""Secrets of the machines' cluster, kept in the lab's folder: it is for tests only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pyrage

from lab.state import Lab


def age_identity(lab: Lab) -> Path:
    """File with the age identity that unwraps the volumes' keys."""
    return lab.folder / "custody-identity"


def age_recipient(lab: Lab) -> Path:
    """File with its public half."""
    return lab.folder / "custody-recipient"


def create(lab: Lab) -> None:
    """Makes the authorities' passphrase and the age identity where they are missing."""
    lab.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not lab.passphrase.exists():
        _write(lab.passphrase, secrets.token_urlsafe(32))
    if not age_identity(lab).exists():
        identity = pyrage.x25519.Identity.generate()
        _write(age_recipient(lab), str(identity.to_public()))
        _write(age_identity(lab), str(identity))


def _write(path: Path, text: str) -> None:
    """In one step; nobody else's to read from its first byte."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(f"{text}\n")
    temporary.replace(path)
