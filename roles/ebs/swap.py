"""The way out for a volume that is not encrypted, or under another key: a copy takes its place.

Pure. `next_step` looks at what there is and names the one next thing to do, so a run that was
killed at any point is finished by running it again. The old volume is first taken off its host, and
only then copied: what is copied cannot be written to any more. It is never changed or deleted here;
`plan_delete` does that, for one volume that the operator names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from roles.ebs.model import EbsDisk, Instance, Place, Snapshot, Stage
from roles.ebs.plan import Refusal


class Step(Enum):
    STOP = "stop the broker"
    UNMOUNT = "unmount the old volume"
    DETACH = "detach the old volume"
    WAIT_DETACHED = "wait until the old volume is detached"
    SNAPSHOT = "make a snapshot of the old volume"
    WAIT_SNAPSHOT = "wait for the snapshot"
    SEAL = "copy the snapshot, encrypted under the key"
    WAIT_SEALED = "wait for the encrypted copy"
    CREATE = "make the new volume from the encrypted copy"
    WAIT_NEW = "wait for the new volume"
    ATTACH = "attach the new volume"
    WAIT_ATTACHED = "wait until the new volume is attached"
    RETIRE = "mark the old volume as replaced"
    SWAP = "mark the new volume as in its place"
    RECORD = "record the new volume as verified"
    MOUNT = "mount the new volume"
    START = "start the broker and wait until it is in sync"
    FINISH = "mark the new volume as current"


OTHER = "other"


@dataclass(frozen=True)
class HostState:
    """What the host says.

    :param mounted: id of the EBS volume at the mount point, empty for none, `OTHER` for what is not
        an EBS volume.
    :param recorded: the new volume's line is in /etc/strongbox/ebs-verified.
    :param in_sync: only looked at once the new volume is mounted and the broker runs.
    """

    running: bool
    mounted: str
    recorded: bool = False
    in_sync: bool = False


@dataclass(frozen=True)
class Swap:
    """Everything that decides on the next step for one volume of one host.

    :param old: the volume to be replaced, or that was; None when there is none.
    :param new: what takes its place; None before it is made.
    :param plain: latest snapshot of the old volume.
    :param sealed: latest copy of that under the key.
    :param size_gib: declared size of the new volume.
    """

    place: Place
    key: str
    instance: Instance
    host: HostState
    old: EbsDisk | None
    new: EbsDisk | None
    plain: Snapshot | None
    sealed: Snapshot | None
    size_gib: int = 65536


def swap(
    place: Place,
    key: str,
    instance: Instance,
    host: HostState,
    tagged: Sequence[EbsDisk],
    snapshots: Sequence[Snapshot],
    size_gib: int,
) -> Swap | Refusal | None:
    """What there is to a re-encryption of this volume; None when it needs none.

    :param tagged: every volume with the place's tags.
    :param snapshots: every snapshot with the place's tags, oldest first.
    """
    if odd := [disk.id for disk in tagged if disk.stage is None]:
        return Refusal(f"{place}: {', '.join(odd)}: its tag strongbox:state is none of ours")
    made = [disk for disk in tagged if disk.stage in (Stage.COPY, Stage.SWAPPED)]
    present = [disk for disk in tagged if disk.stage is Stage.CURRENT]
    if len(made) > 1 or len(present) > 1:
        several = ", ".join(sorted(disk.id for disk in (made if len(made) > 1 else present)))
        return Refusal(
            f"{place}: {several} all have its tags: take the tags off those that are not it"
        )
    new = made[0] if made else None
    if new is None and (not present or present[0].is_under(key)):
        return None
    if new is not None and present and present[0].id != new.copy_of:
        return Refusal(
            f"{place}: {new.id} is a copy of {new.copy_of or 'nothing'}, and {present[0].id} is "
            "the present volume: take the strongbox tags off the one that is not needed"
        )
    source = new.copy_of if new else present[0].id
    old = next((disk for disk in tagged if disk.id == source), None)
    of_old = [item for item in snapshots if item.copy_of == source and item.state != "error"]
    sealed = [item for item in of_old if item.encrypted and item.key == key]
    plain = [item for item in of_old if item not in sealed]
    return Swap(
        place,
        key,
        instance,
        host,
        old,
        new,
        plain[-1] if plain else None,
        sealed[-1] if sealed else None,
        size_gib,
    )


def next_step(now: Swap) -> Step | Refusal | None:
    """The one thing to do next; None when nothing is left to do."""
    new = now.new
    if new is not None and new.stage is Stage.CURRENT:
        return None
    if refused := _refused(now):
        return Refusal(f"{now.place}: {refused}")
    if new is not None and new.stage is Stage.SWAPPED:
        return _put_to_use(now, new)
    assert now.old is not None
    return _copy(now, now.old)


def _refused(now: Swap) -> str:
    old, new = now.old, now.new
    if new is not None:
        if not new.is_under(now.key):
            return (
                f"{new.id} was made as a copy and is not encrypted under {now.key}: delete it, "
                "then run again"
            )
        if new.state not in ("creating", "available", "in-use"):
            return f"{new.id}, the copy, is in state {new.state}: delete it, then run again"
        if _elsewhere(new, now.instance):
            return f"{new.id}, the copy, is attached to another instance: detach it, run again"
        if new.stage is Stage.SWAPPED:
            return ""
    if old is None:
        return f"the volume that {new.id if new else '?'} was copied from is gone"
    if old.state not in ("available", "in-use"):
        return f"{old.id} is in state {old.state}"
    if _elsewhere(old, now.instance):
        return f"{old.id} is attached to {', '.join(old.attached_to)}: it is not this host's"
    if old.zone != now.instance.zone:
        return f"{old.id} is in {old.zone}, and {now.instance.id} in {now.instance.zone}"
    if old.size_gib > now.size_gib:
        return (
            f"ebs_volumes: {now.place.volume}: size_gib is {now.size_gib}, and {old.id} has "
            f"{old.size_gib}: the new volume can be larger and not smaller"
        )
    copied = [item.id for item in (now.plain, now.sealed, new) if item is not None]
    if old.state == "in-use" and old.attachment == "attached" and copied:
        return (
            f"{old.id} was attached again after it was copied, so {', '.join(copied)} may lack "
            "what was written since: delete them, then run again"
        )
    if now.host.mounted == OTHER and old.state == "in-use":
        return (
            "at its mount point is something that is not an EBS volume, such as an open LUKS "
            "volume: this is done only for file systems that lie on the EBS volume itself"
        )
    return ""


def _elsewhere(disk: EbsDisk, instance: Instance) -> bool:
    return any(item != instance.id for item in disk.attached_to)


def _copy(now: Swap, old: EbsDisk) -> Step:
    new = now.new
    if old.state == "in-use":
        return _take_off(now.host, old)
    if new is None:
        return _make(now)
    if new.state == "creating":
        return Step.WAIT_NEW
    if new.state == "available":
        return Step.ATTACH
    if new.attachment != "attached":
        return Step.WAIT_ATTACHED
    return Step.SWAP if old.stage is Stage.REPLACED else Step.RETIRE


def _take_off(host: HostState, old: EbsDisk) -> Step:
    if old.attachment == "detaching":
        return Step.WAIT_DETACHED
    if host.running:
        return Step.STOP
    return Step.UNMOUNT if host.mounted else Step.DETACH


def _make(now: Swap) -> Step:
    if now.sealed is not None:
        return Step.CREATE if now.sealed.state == "completed" else Step.WAIT_SEALED
    if now.plain is not None:
        return Step.SEAL if now.plain.state == "completed" else Step.WAIT_SNAPSHOT
    return Step.SNAPSHOT


def _put_to_use(now: Swap, new: EbsDisk) -> Step | Refusal:
    host = now.host
    if new.state == "available":
        return Step.ATTACH
    if new.attachment != "attached":
        return Step.WAIT_ATTACHED
    if not host.recorded:
        return Step.RECORD
    if host.mounted not in ("", new.id):
        return Refusal(
            f"{now.place}: another disk is mounted in its place ({host.mounted}): unmount it, "
            "then run again"
        )
    if not host.mounted:
        return Step.STOP if host.running else Step.MOUNT
    return Step.FINISH if host.running and host.in_sync else Step.START


def done(now: Swap, step: Step) -> Swap:
    """The state that a step is meant to lead to; what a dry run reckons with."""
    host, old, new = now.host, now.old, now.new
    match step:
        case Step.STOP:
            return replace(now, host=replace(host, running=False, in_sync=False))
        case Step.UNMOUNT:
            return replace(now, host=replace(host, mounted=""))
        case Step.DETACH | Step.WAIT_DETACHED if old:
            off = replace(old, state="available", attached_to=(), attachment="")
            return replace(now, old=off)
        case Step.SNAPSHOT | Step.WAIT_SNAPSHOT if old:
            return replace(now, plain=Snapshot("snap-new", "completed", old.id, False, ""))
        case Step.SEAL | Step.WAIT_SEALED if old:
            return replace(now, sealed=Snapshot("snap-sealed", "completed", old.id, True, now.key))
        case Step.CREATE if old:
            made = replace(old, id="vol-new", encrypted=True, key=now.key, stage=Stage.COPY)
            return replace(now, new=replace(made, copy_of=old.id))
        case Step.WAIT_NEW if new:
            return replace(now, new=replace(new, state="available"))
        case Step.ATTACH | Step.WAIT_ATTACHED if new:
            on = replace(new, state="in-use", attachment="attached")
            return replace(now, new=replace(on, attached_to=(now.instance.id,)))
        case Step.RETIRE if old:
            return replace(now, old=replace(old, stage=Stage.REPLACED))
        case Step.SWAP if new:
            return replace(now, new=replace(new, stage=Stage.SWAPPED))
        case Step.RECORD:
            return replace(now, host=replace(host, recorded=True))
        case Step.MOUNT if new:
            return replace(now, host=replace(host, mounted=new.id))
        case Step.START:
            return replace(now, host=replace(host, running=True, in_sync=True))
        case Step.FINISH if new:
            return replace(now, new=replace(new, stage=Stage.CURRENT))
    raise AssertionError(f"{step} cannot follow here")


def remaining(now: Swap) -> list[Step] | Refusal:
    """All steps to the end, if everything goes as it is meant to."""
    steps: list[Step] = []
    while (step := next_step(now)) is not None:
        if isinstance(step, Refusal):
            return step
        steps.append(step)
        now = done(now, step)
    return steps


@dataclass(frozen=True)
class Delete:
    """The old volume, and the snapshots through which it was copied."""

    volume: str
    snapshots: tuple[str, ...]


def plan_delete(
    name: str, key: str, instances: Iterable[str], tagged: Sequence[EbsDisk],
    snapshots: Sequence[Snapshot],
) -> Delete | Refusal:  # fmt: skip
    """What is left of a finished re-encryption, once the operator names the old volume.

    :param instances: ids of the instances on which the volume that replaced it may be.
    :param tagged, snapshots: those with the same place's tags.
    """
    old = next((disk for disk in tagged if disk.id == name), None)
    if old is None:
        return Refusal(f"ebs_delete_old: this cluster has no volume {name} with its tags")
    if old.stage is not Stage.REPLACED:
        stage = old.stage.value if old.stage else "none of ours"
        return Refusal(
            f"ebs_delete_old: {name} was not replaced (its strongbox:state is {stage}): it is kept"
        )
    if old.state != "available" or old.attached_to:
        return Refusal(f"ebs_delete_old: {name} is {old.state}: it is kept until it is detached")
    heirs = [
        disk
        for disk in tagged
        if disk.copy_of == name
        and disk.stage is Stage.CURRENT
        and disk.is_under(key)
        and disk.state == "in-use"
        and set(disk.attached_to) <= set(instances)
    ]
    if len(heirs) != 1:
        return Refusal(
            f"ebs_delete_old: no volume that replaced {name} is in use and encrypted under {key}: "
            "it is kept"
        )
    return Delete(name, tuple(item.id for item in snapshots if item.copy_of == name))
