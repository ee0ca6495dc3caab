"""What the keys of one host's volumes are taken care of with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from roles.custody.protocol import Custody
from roles.custody.records import Records
from roles.volumes.keys.life import VolumeKeys
from roles.volumes.settings import VolumesSettings


@dataclass(frozen=True)
class HostKeys:
    """
    :param volumes: the LUKS volumes; none on a host without encryption of its own.
    :param custody: the same for all hosts of a run; nobody is asked yet when it is called.
    :param records_dir: folder on the controller.
    """

    volumes: tuple[VolumeKeys, ...]
    settings: VolumesSettings
    custody: Callable[[], Custody]
    records_dir: str

    @property
    def records(self) -> Records:
        return Records(self.records_dir, self.custody())

    @property
    def devices(self) -> list[str]:
        return [volume.device for volume in self.volumes]


def host_keys(
    cluster: str,
    hostname: str,
    settings: VolumesSettings,
    custody: Callable[[], Custody],
    records_dir: str,
) -> HostKeys:
    volumes = [
        VolumeKeys(cluster, hostname, name, volume.device)
        for name, volume in sorted(settings.layout.items())
        if volume.encryption == "luks"
    ]
    return HostKeys(tuple(volumes), settings, custody, records_dir)
