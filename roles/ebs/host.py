"""What the role is told of one host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from roles.common.plan import ManagedDirectory, ManagedFile
from roles.ebs.model import Place
from roles.ebs.plan import KeyWanted, verified_file
from roles.ebs.policy import key_policy
from roles.ebs.settings import EbsSettings

VERIFIED = "/etc/strongbox/ebs-verified"


@dataclass(frozen=True)
class Mount:
    """Where volumes_layout has a volume of that name; ``luks`` when it holds a LUKS volume."""

    device: str
    target: str
    filesystem: str
    luks: bool


@dataclass(frozen=True)
class EbsHost:
    """
    :param hostname: in the volumes' tags; it stays when the inventory calls the host otherwise.
    :param unit: systemd unit that uses the volumes.
    """

    cluster: str
    hostname: str
    settings: EbsSettings
    mounts: Mapping[str, Mount]
    unit: str

    def place(self, volume: str) -> Place:
        return Place(self.cluster, self.hostname, volume)

    @property
    def targets(self) -> list[str]:
        return [mount.target for mount in self.mounts.values()]


def key_wanted(host: EbsHost, account: str, partition: str) -> KeyWanted:
    settings = host.settings
    return KeyWanted(
        alias=settings.alias(host.cluster),
        pinned=settings.kms_key,
        rotation_days=settings.rotation_days,
        policy=key_policy(
            account,
            settings.region,
            settings.key_administrators,
            settings.key_users,
            partition,
        ),
        users=settings.key_users,
        account_default=settings.encryption_by_default,
    )


def verified_paths(verified: Mapping[str, str]) -> list[ManagedDirectory | ManagedFile]:
    """What the start guard reads: volumes that were just seen encrypted under the key."""
    return [
        ManagedDirectory("/etc/strongbox", "root", "root", "755"),
        ManagedFile(VERIFIED, verified_file(verified), "root", "root", "600"),
    ]
