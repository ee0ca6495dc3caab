"""What AWS has: a key, volumes, snapshots and instances, as the plans see them."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from roles.ebs.settings import TAG_PREFIX

CLUSTER = f"{TAG_PREFIX}cluster"
HOST = f"{TAG_PREFIX}host"
VOLUME = f"{TAG_PREFIX}volume"
STATE = f"{TAG_PREFIX}state"
#: On a snapshot or volume: id of the volume whose content it has.
COPY_OF = f"{TAG_PREFIX}copy-of"
DEVICE_LINK = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_"


class Stage(Enum):
    """Value of the tag ``strongbox:state`` of a volume; a volume without it is `CURRENT`.

    A re-encryption takes the old volume from CURRENT to REPLACED, and the new one from COPY (made
    and not yet in use) through SWAPPED (it has taken the old one's place) to CURRENT.
    """

    CURRENT = "current"
    COPY = "copy"
    SWAPPED = "swapped"
    REPLACED = "replaced"


@dataclass(frozen=True, order=True)
class Place:
    """Which volume of which host: what the tags of a volume of ours say."""

    cluster: str
    host: str
    volume: str

    def tags(self) -> dict[str, str]:
        return {CLUSTER: self.cluster, HOST: self.host, VOLUME: self.volume}

    def __str__(self) -> str:
        return f"{self.host}: volume {self.volume!r}"


@dataclass(frozen=True)
class Key:
    """
    :param ours: it has this cluster's tag, so its policy and rotation are this project's to set.
    :param rotation_days: None when rotation is off.
    """

    arn: str
    state: str = "Enabled"
    manager: str = "CUSTOMER"
    spec: str = "SYMMETRIC_DEFAULT"
    usage: str = "ENCRYPT_DECRYPT"
    ours: bool = True
    rotation_days: int | None = None
    policy: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class EbsDisk:
    """A volume as ``describe_volumes`` has it.

    :param attached_to: instance ids; more than one only with Multi-Attach.
    :param stage: None for a tag ``strongbox:state`` that is none of ours.
    """

    id: str
    state: str
    zone: str
    encrypted: bool
    key: str
    size_gib: int
    type: str
    iops: int
    throughput_mib: int
    attached_to: tuple[str, ...] = ()
    attachment: str = ""
    device: str = ""
    stage: Stage | None = Stage.CURRENT
    copy_of: str = ""

    def is_under(self, key: str) -> bool:
        """Whether its content is encrypted under exactly that key (an ARN)."""
        return self.encrypted and self.key != "" and self.key == key


@dataclass(frozen=True)
class Snapshot:
    id: str
    state: str
    copy_of: str
    encrypted: bool
    key: str
    progress: str = ""


@dataclass(frozen=True)
class Instance:
    id: str
    state: str
    zone: str
    devices: tuple[str, ...] = ()


def serial(volume: str) -> str:
    """What the NVMe controller of an attached volume has as its serial number."""
    return volume.replace("-", "", 1)


def device_link(volume: str) -> str:
    """The name by which udev links the volume; it stays the same whatever the order of disks."""
    return f"{DEVICE_LINK}{serial(volume)}"


def client_token(place: Place, made_from: str, wanted: object, now: datetime.datetime) -> str:
    """Makes a repeated request for the same volume answer with the one that is there.

    AWS remembers tokens of volumes that are gone, even of those that it gave up because of their
    key. With the hour in it, a run after the cause was mended is not answered with the lost one.
    """
    text = f"{place.cluster}/{place.host}/{place.volume}/{made_from}/{wanted!r}/{now:%Y%m%d%H}"
    return hashlib.sha256(text.encode()).hexdigest()[:48]
