"""From what AWS has to what is declared: steps, or a refusal with the way out.

Pure: no AWS client, no pyinfra. Nothing here ever takes a volume away or writes over one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from roles.ebs.model import DEVICE_LINK, EbsDisk, Instance, Key, Place, Stage, serial
from roles.ebs.policy import same
from roles.ebs.settings import EbsVolume

EBS_MODEL = "Amazon Elastic Block Store"
# What automatic rotation has when AWS does not say, as for a key that was set up without a period.
DEFAULT_ROTATION_DAYS = 365


@dataclass(frozen=True)
class Refusal:
    reason: str

    def __str__(self) -> str:
        return self.reason


class KeyStep(Enum):
    CREATE = "make the KMS key"
    ALIAS = "give the KMS key its alias"
    POLICY = "set the KMS key's policy"
    ROTATION = "set the rotation of the KMS key"
    DEFAULT_KEY = "make the KMS key this account's default for EBS in this region"
    DEFAULT_ON = "turn on EBS encryption by default for this account in this region"


@dataclass(frozen=True)
class KeyWanted:
    """
    :param pinned: ARN that the key must have, or empty.
    :param rotation_days: 0 leaves rotation as it is.
    """

    alias: str
    pinned: str
    rotation_days: int
    policy: Mapping[str, object]
    users: tuple[str, ...]
    account_default: bool = False


@dataclass(frozen=True)
class KeysSeen:
    """
    :param by_alias: the key that the alias names, None when there is no such alias.
    :param orphans: keys with this cluster's tag and no alias, as a run leaves that was killed
        between the two; only looked for when there is no alias.
    :param by_pin: the key with the declared ARN, None when none is declared.
    :param default_on, default_key: the account's; only looked for when that is declared.
    """

    by_alias: Key | None
    orphans: tuple[Key, ...] = ()
    by_pin: Key | None = None
    default_on: bool = False
    default_key: str = ""


def plan_key(wanted: KeyWanted, seen: KeysSeen) -> list[KeyStep] | Refusal:
    """Steps, in order, to a key that is enabled, has the alias, and rotates."""
    found = seen.by_alias
    if wanted.pinned:
        if found is not None and found.arn != wanted.pinned:
            return Refusal(
                f"ebs_kms_key: {wanted.alias} names {found.arn}, {wanted.pinned} is declared: "
                "correct one of them"
            )
        found = seen.by_pin
    elif found is None and len(seen.orphans) > 1:
        return Refusal(
            f"ebs_kms_alias: {wanted.alias} does not exist, and {len(seen.orphans)} keys have this "
            f"cluster's tag ({', '.join(sorted(key.arn for key in seen.orphans))}): give the right "
            "one's ARN as ebs_kms_key"
        )
    elif found is None and seen.orphans:
        found = seen.orphans[0]
    steps: list[KeyStep] = []
    if found is None:
        if not wanted.users:
            return Refusal(
                "ebs_key_users: is empty, so nobody could make or attach volumes under the key "
                "that is to be made: name the IAM roles that may"
            )
        steps = [KeyStep.CREATE, KeyStep.ALIAS]
        if wanted.rotation_days:
            steps.append(KeyStep.ROTATION)
    else:
        if reason := unusable(found):
            return Refusal(reason)
        if seen.by_alias is None and found.ours:
            steps.append(KeyStep.ALIAS)
        more = _kept_up(wanted, found)
        if isinstance(more, Refusal):
            return more
        steps += more
    if wanted.account_default:
        if found is None or seen.default_key != found.arn:
            steps.append(KeyStep.DEFAULT_KEY)
        if not seen.default_on:
            steps.append(KeyStep.DEFAULT_ON)
    return steps


def unusable(key: Key) -> str:
    """Why volumes cannot be encrypted under this key; empty when they can."""
    if key.manager != "CUSTOMER":
        return f"{key.arn} is AWS's own key, its policy cannot be set: use a customer managed key"
    if key.state == "PendingDeletion":
        return (
            f"{key.arn} is to be deleted, and with it everything under it becomes unreadable: "
            f"aws kms cancel-key-deletion --key-id {key.arn}, then enable-key, or use another key"
        )
    if key.state == "Disabled":
        return (
            f"{key.arn} is disabled, so no volume under it can be attached: find out why, then "
            f"aws kms enable-key --key-id {key.arn}"
        )
    if key.state != "Enabled":
        return f"{key.arn} is in state {key.state}: it must be Enabled"
    if key.spec != "SYMMETRIC_DEFAULT" or key.usage != "ENCRYPT_DECRYPT":
        return f"{key.arn} is a key for {key.usage} ({key.spec}): EBS needs a symmetric one"
    return ""


def _kept_up(wanted: KeyWanted, key: Key) -> list[KeyStep] | Refusal:
    if not key.ours:
        # Its policy and rotation are whoever made it responsible for; rotation only has to be on.
        if wanted.rotation_days and key.rotation_days is None:
            return Refusal(
                f"{key.arn} does not rotate and has no tag of this cluster, so it is not changed: "
                f"aws kms enable-key-rotation --key-id {key.arn}, or set ebs_rotation_days = 0"
            )
        return []
    steps = []
    if not same(wanted.policy, key.policy):
        if not wanted.users:
            return Refusal(
                "ebs_key_users: is empty, and setting that policy would take the key from "
                "everybody: name the IAM roles that make and attach volumes"
            )
        steps.append(KeyStep.POLICY)
    if wanted.rotation_days and key.rotation_days != wanted.rotation_days:
        steps.append(KeyStep.ROTATION)
    return steps


class VolumeStep(Enum):
    CREATE = "make the volume"
    WAIT = "wait for the volume"
    ATTACH = "attach the volume"


@dataclass(frozen=True)
class VolumePlan:
    """
    :param disk: the volume that is there, None when it is to be made.
    :param verified: it is attached and encrypted under the key, as just seen.
    :param kept: ids of volumes that a re-encryption has replaced and that nobody has deleted.
    """

    steps: tuple[VolumeStep, ...]
    disk: EbsDisk | None
    verified: bool
    kept: tuple[str, ...] = ()


def plan_volume(
    place: Place,
    wanted: EbsVolume,
    key: str | None,
    instance: Instance | None,
    instance_id: str,
    tagged: Sequence[EbsDisk],
) -> VolumePlan | Refusal:
    """
    :param key: ARN of the key; None when it is yet to be made, so nothing can be under it.
    :param tagged: every volume with the place's tags, in whatever state.
    """
    refused = _host_problem(place, instance, instance_id)
    if refused or instance is None:
        return Refusal(refused)
    kept = tuple(sorted(disk.id for disk in tagged if disk.stage is Stage.REPLACED))
    if not tagged:
        return VolumePlan((VolumeStep.CREATE, VolumeStep.ATTACH), None, False)
    unfinished = [disk for disk in tagged if disk.stage not in (Stage.CURRENT, Stage.REPLACED)]
    present = [disk for disk in tagged if disk.stage is Stage.CURRENT]
    if unfinished:
        return Refusal(
            f"{place}: a re-encryption is not finished ({_ids(tagged)}): run "
            "deploys/ebs_reencrypt.py"
        )
    if not present:
        return Refusal(
            f"{place}: {_ids(tagged)} is marked as replaced and what replaced it is gone: set its "
            "tag strongbox:state to current to use it, or take its strongbox tags off to get a new "
            "volume"
        )
    if len(present) > 1:
        return Refusal(
            f"{place}: {_ids(present)} all have its tags: take the tags off those that are not it"
        )
    disk = present[0]
    if reason := disk_problem(place, wanted, key, instance, disk):
        return Refusal(reason)
    steps = {
        "creating": (VolumeStep.WAIT, VolumeStep.ATTACH),
        "available": (VolumeStep.ATTACH,),
        "in-use": (),
    }[disk.state]
    if disk.state == "in-use" and disk.attachment != "attached":
        steps = (VolumeStep.WAIT,)
    return VolumePlan(steps, disk, disk.state == "in-use" and not steps, kept)


def _ids(disks: Sequence[EbsDisk]) -> str:
    return ", ".join(sorted(disk.id for disk in disks))


def _host_problem(place: Place, instance: Instance | None, instance_id: str) -> str:
    if instance is None:
        return f"{place.host}: ebs_instance: there is no {instance_id} in this region and account"
    if instance.state not in ("running", "stopped", "stopping", "pending"):
        return f"{place.host}: ebs_instance: {instance_id} is {instance.state}"
    return ""


def disk_problem(
    place: Place, wanted: EbsVolume, key: str | None, instance: Instance, disk: EbsDisk
) -> str:
    """Why that volume is not used as it is; empty when it is right."""
    way_out = (
        "it is not used; deploys/ebs_reencrypt.py moves a broker's data to a volume under the key "
        "(docs/aws.md)"
    )
    if disk.state == "error":
        return (
            f"{place}: {disk.id} is in state error, as when its key could not be used: see its "
            "events, delete it or take its strongbox tags off, then run again"
        )
    if disk.state not in ("creating", "available", "in-use"):
        return f"{place}: {disk.id} is {disk.state}: run again once it is gone"
    if not disk.encrypted:
        return f"{place}: {disk.id} is not encrypted: {way_out}"
    if key is None or not disk.is_under(key):
        under = disk.key or "a key that AWS does not name"
        than = key or "the KMS key, which is yet to be made"
        return f"{place}: {disk.id} is encrypted under {under}, not under {than}: {way_out}"
    if any(item != instance.id for item in disk.attached_to):
        return (
            f"{place}: {disk.id} is attached to {', '.join(disk.attached_to)}, not to "
            f"{instance.id}: detach it there once nothing uses it, or correct its tags"
        )
    if disk.zone != instance.zone:
        return (
            f"{place}: {disk.id} is in {disk.zone}, {instance.id} is in {instance.zone}: an EBS "
            "volume cannot leave its zone; make one there from a snapshot of it, or let the broker "
            "fill a new one"
        )
    return _size_problem(place, wanted, disk)


def _size_problem(place: Place, wanted: EbsVolume, disk: EbsDisk) -> str:
    pairs = [
        ("size_gib", disk.size_gib, wanted.size_gib),
        ("type", disk.type, wanted.type),
        ("iops", disk.iops, wanted.iops),
    ]
    if wanted.type == "gp3":
        pairs.append(("throughput_mib", disk.throughput_mib, wanted.throughput_mib))
    differing = [f"{name} is {has}, declared {want}" for name, has, want in pairs if has != want]
    if not differing:
        return ""
    return (
        f"{place}: {disk.id}: {'; '.join(differing)}: change it with `aws ec2 modify-volume "
        f"--volume-id {disk.id} …` (it can grow and not shrink), or correct ebs_volumes"
    )


def free_device(taken: Sequence[str]) -> str | None:
    """A name for an attachment. It is a label only: a Nitro host has the volume as an NVMe disk,
    whose name says nothing."""
    names = (f"/dev/sd{letter}" for letter in "fghijklmnop")
    used = {name.replace("/dev/xvd", "/dev/sd") for name in taken}
    return next((name for name in names if name not in used), None)


@dataclass(frozen=True)
class NvmeDisk:
    """A namespace of the host's NVMe controllers, as /sys has it."""

    name: str
    serial: str
    model: str


def resolve(place: Place, volume: str, disks: Sequence[NvmeDisk]) -> str | Refusal:
    """Device name on the host, such as ``nvme1n1``, found by the volume's serial alone."""
    found = [disk for disk in disks if disk.serial == serial(volume)]
    if not found:
        return Refusal(
            f"{place}: {volume} is attached, and the host has no NVMe disk with the serial "
            f"{serial(volume)}: is ebs_instance this host's, and of a Nitro type?"
        )
    if len(found) > 1:
        names = ", ".join(disk.name for disk in found)
        return Refusal(f"{place}: {names} all have the serial of {volume}: which is it?")
    if found[0].model != EBS_MODEL:
        return Refusal(
            f"{place}: {found[0].name} has the serial of {volume} and is a {found[0].model!r}: "
            "not an EBS volume"
        )
    return found[0].name


def declared_device_problem(place: Place, volume: str, declared: str) -> str:
    """Whether volumes_layout means another disk than the one that was verified."""
    if declared.startswith(DEVICE_LINK) and declared != f"{DEVICE_LINK}{serial(volume)}":
        return (
            f"{place}: volumes_layout has the device {declared}, its volume is {volume}: load the "
            "inventory again, or correct it"
        )
    return ""


def verified_file(verified: Mapping[str, str]) -> bytes:
    """Content of /etc/strongbox/ebs-verified: one line ``vol-… KMS-KEY-ARN`` for each volume."""
    return "".join(f"{volume} {key}\n" for volume, key in sorted(verified.items())).encode()
