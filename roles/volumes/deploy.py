"""A host's volumes: set up before anything is kept on them, opened again after a reboot."""

from __future__ import annotations

from collections.abc import Mapping

from roles.common.operations import managed_paths
from roles.volumes import files
from roles.volumes.files import VolumesHost
from roles.volumes.operations import mounted_volumes, refuse_while_locked


def provision(volumes: VolumesHost, hosts: Mapping[str, VolumesHost]) -> None:
    """Called when packages are installed and before any folder is made on the volumes.

    Stops while a volume of any host that was set up before is closed: other roles would take what
    they cannot see for lost.

    :param hosts: every host's volumes, by host name.
    """
    refuse_while_locked(hosts)
    if volumes.settings.unencrypted:
        return
    mounted_volumes(name="Volumes: encrypted, open and mounted", volumes=volumes)
    managed_paths(name="Volumes: start guard", wanted=files.wanted(volumes))


def unlock(volumes: VolumesHost) -> None:
    """Opens and mounts what is closed."""
    if volumes.settings.unencrypted:
        return
    mounted_volumes(name="Volumes: open and mounted", volumes=volumes, set_up=False)
