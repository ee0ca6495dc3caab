"""Lets a host open its volumes by itself at boot, or no longer."""

from __future__ import annotations

from roles.common.operations import managed_paths
from roles.volumes.boot import files
from roles.volumes.boot.operations import listening, removed


def install(service: files.KeyService) -> None:
    """To be called before crypttab names the socket."""
    managed_paths(
        name="Volumes: key service",
        wanted=files.wanted(service),
        # A connection that is being served goes on.
        after=["systemctl daemon-reload", "systemctl try-restart strongbox-key.socket"],
    )
    listening(name="Volumes: key service listens")


def remove() -> None:
    """To be called once crypttab names the socket no longer."""
    removed(name="Volumes: no key service")
