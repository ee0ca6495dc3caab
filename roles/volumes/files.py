"""What the volumes leave on a host's root disk: the start guard, and lines in fstab and crypttab.

Pure: no pyinfra, no host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from roles.common.plan import ManagedDirectory, ManagedFile
from roles.custody.protocol import Custody, KeyContext
from roles.volumes import plan, scripts
from roles.volumes.names import luks_uuid
from roles.volumes.plan import MOUNT_OPTIONS, Wanted
from roles.volumes.settings import VolumesSettings

GUARD = "/usr/local/libexec/strongbox/guard"
DECLARED = "/etc/strongbox/volumes"
FSTAB, CRYPTTAB = "/etc/fstab", "/etc/crypttab"
#: Of the host's key service, which opens volumes at boot.
KEY_SOCKET = "/run/strongbox/key.sock"


@dataclass(frozen=True)
class VolumesHost:
    """All that decides about a host's volumes.

    :param custody: makes the custody, which is asked only while something is formatted or opened.
    :param ours: see `known_volumes`.
    :param unit: name of the service that keeps its data on the volumes, such as ``kafka``.
    """

    cluster: str
    hostname: str
    base_dir: str
    settings: VolumesSettings
    custody: Callable[[], Custody]
    ours: Mapping[str, str]
    unit: str

    @property
    def wanted(self) -> list[Wanted]:
        return plan.wanted(self.settings, self.cluster, self.hostname, self.base_dir)

    def context(self, volume: str) -> KeyContext:
        return KeyContext(self.cluster, self.hostname, volume, "volume")


def known_volumes(cluster: str, hosts: Mapping[str, VolumesSettings]) -> dict[str, str]:
    """LUKS UUID -> words, for every volume of the cluster; by the hosts' ``common_hostname``."""
    return {
        luks_uuid(cluster, hostname, name): f"volume {name!r} of {hostname}"
        for hostname, settings in hosts.items()
        for name in settings.layout
    }


def wanted(host: VolumesHost) -> list[ManagedDirectory | ManagedFile]:
    """The start guard, and the list of volumes that it goes by."""
    return [
        ManagedDirectory("/usr/local/libexec", "root", "root", "755"),
        ManagedDirectory("/usr/local/libexec/strongbox", "root", "root", "755"),
        ManagedFile(GUARD, scripts.guard(), "root", "root", "755"),
        ManagedDirectory("/etc/strongbox", "root", "root", "755"),
        ManagedFile(DECLARED, _declared(host).encode(), "root", "root", "644"),
    ]


def _declared(host: VolumesHost) -> str:
    lines = [
        f"luks {item.mount} {item.mapping}"
        if item.is_luks
        else f"ebs {item.mount} {item.settings.ebs_volume}"
        for item in host.wanted
    ]
    return "# Written by strongbox: KIND MOUNT-POINT MAPPING-OR-EBS-VOLUME\n" + "".join(
        f"{line}\n" for line in lines
    )


def crypttab(host: VolumesHost, rotational: Mapping[str, bool]) -> list[str]:
    """Lines for the volumes that the host opens by itself; none when the controller opens them.

    :param rotational: by the volume's name, whether the disk spins.
    """
    if host.settings.unlock != "boot":
        return []
    return [
        f"{item.mapping} UUID={item.uuid} {KEY_SOCKET} "
        + ",".join(
            [
                "luks,_netdev,nofail,headless=true",
                *plan.flags(item.settings, rotational[item.name]),
            ]
        )
        for item in host.wanted
        if item.is_luks
    ]


def fstab(host: VolumesHost) -> list[str]:
    """Lines for the volumes that are mounted at boot.

    Those that the controller opens have none, not even a ``noauto`` one: a unit with a folder on
    them would pull it in at boot, and fail when the device does not come within 90 s.
    """
    lines = []
    for item in host.wanted:
        options = ",".join(sorted(MOUNT_OPTIONS))
        if not item.is_luks:
            source = f"UUID={item.uuid}"
        elif host.settings.unlock == "boot":
            source, options = f"/dev/mapper/{item.mapping}", f"{options},_netdev"
        else:
            continue
        lines.append(
            f"{source} {item.mount} {item.settings.filesystem} "
            f"{options},nofail,x-systemd.device-timeout=infinity 0 0"
        )
    return lines


def guard(host: VolumesHost, folders: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Mount points without which a systemd unit must not start, and the command that refuses its
    start (``ExecStartPre=+``), for a unit that writes to these folders.

    The unit says ``RequiresMountsFor=`` and ``ConditionPathIsMountPoint=`` of the mount points:
    volumes that are mounted at boot are waited for; without those that the controller opens the
    unit stays quietly inactive until deploys/unlock.py starts it.
    """
    if host.settings.unencrypted:
        return (), ""
    mounts = [
        item.mount
        for item in host.wanted
        if any(f"{folder}/".startswith(f"{item.mount}/") for folder in folders)
    ]
    return tuple(mounts), f"{GUARD} {' '.join(folders)}"


def packages(settings: VolumesSettings) -> tuple[str, ...]:
    """Debian packages that the host needs for its volumes."""
    volumes = settings.layout.values()
    found = ["cryptsetup-bin"] if any(item.encryption == "luks" for item in volumes) else []
    found += ["xfsprogs"] if any(item.filesystem == "xfs" for item in volumes) else []
    return tuple(found)
