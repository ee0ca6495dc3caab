"""Hosts of a cluster found by the tags of their EC2 instances: what inventories/aws.py is made of.

An instance has the tags ``strongbox:cluster``, ``strongbox:role`` (``broker`` or ``zookeeper``) and
``strongbox:number`` (the broker's or server's id).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roles.ebs.aws import Aws
from roles.ebs.errors import AwsError
from roles.ebs.model import EbsDisk, Stage, device_link
from roles.ebs.settings import TAG_PREFIX

ROLE, NUMBER = f"{TAG_PREFIX}role", f"{TAG_PREFIX}number"
_NAMES = {"broker": "kafka", "zookeeper": "zk"}


@dataclass(frozen=True)
class TaggedInstance:
    id: str
    tags: Mapping[str, str]
    address: str
    dns: str


@dataclass(frozen=True)
class Found:
    """
    :param name: such as ``kafka1`` or ``zk3``.
    :param address, dns: private ones.
    """

    name: str
    role: str
    number: int
    instance: str
    address: str
    dns: str


def hosts(cluster: str, instances: Sequence[TaggedInstance]) -> list[Found]:
    """
    :raises AwsError: with one line for each instance whose tags do not say what it is.
    """
    if not instances:
        raise AwsError(
            f"AWS: no running instance has the tag strongbox:cluster={cluster} in this region and "
            "account: see docs/aws.md for the tags"
        )
    problems, found = [], []
    for item in sorted(instances, key=lambda item: item.id):
        role, number = item.tags.get(ROLE, ""), item.tags.get(NUMBER, "")
        if role not in _NAMES or not number.isascii() or not number.isdigit():
            problems.append(
                f"{item.id}: its tags {ROLE}={role!r} and {NUMBER}={number!r} must be broker or "
                "zookeeper, and a number"
            )
        else:
            name = f"{_NAMES[role]}{int(number)}"
            found.append(Found(name, role, int(number), item.id, item.address, item.dns))
    owner: dict[str, str] = {}
    for host in found:
        if host.name in owner:
            problems.append(f"{owner[host.name]} and {host.instance} are both {host.name}")
        owner.setdefault(host.name, host.instance)
    if problems:
        raise AwsError("\n".join(problems))
    return sorted(found, key=lambda host: (host.role, host.number))


def not_made(number: int) -> str:
    """Stands for a volume that deploys/ebs.py has yet to make: there is no disk of that name."""
    return f"vol-{number:017x}"


def present(disks: Sequence[EbsDisk]) -> str | None:
    """Id of the volume that is, or is about to be, in its place; None when there is none."""
    order = {Stage.SWAPPED: 0, Stage.CURRENT: 1, Stage.COPY: 2}
    candidates = [disk for disk in disks if disk.stage in order]
    best = min(
        candidates, key=lambda disk: (order[disk.stage or Stage.COPY], disk.id), default=None
    )
    return best.id if best else None


def layout(
    sizes: Mapping[str, int], tagged: Callable[[str], Sequence[EbsDisk]], **more: Any
) -> dict[str, dict[str, Any]]:
    """A host's volumes_layout, with each device named by its serial.

    :param sizes: in GiB, by the volumes' names.
    :param tagged: the volumes with the tags of the host's volume of that name.
    :param more: goes into each entry, such as ``filesystem``.
    """
    found = {}
    for number, (name, size) in enumerate(sorted(sizes.items())):
        volume = present(tagged(name)) or not_made(number)
        found[name] = {
            "device": device_link(volume),
            "ebs_volume": volume,
            "encryption": "ebs",
            "min_gib": size * 0.99,
            "max_gib": size * 1.01,
            **more,
        }
    return found


def discover(aws: Aws, cluster: str) -> list[Found]:
    """
    :raises AwsError: when AWS could not be asked, or instances are tagged wrongly.
    """
    return hosts(cluster, [TaggedInstance(*item) for item in aws.tagged_instances(cluster)])
