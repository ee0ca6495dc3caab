"""What a unit needs before it may start. Pure: no pyinfra, no host."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UnitGuard:
    """What keeps a unit from running beside its volumes.

    :param mounts: mount points without which the unit stays inactive.
    :param command: fails, and says why, when a folder does not lie on an encrypted device; run as
        root before each start.
    """

    mounts: tuple[str, ...] = ()
    command: str = ""
