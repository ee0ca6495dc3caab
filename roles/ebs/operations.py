"""Steps of EBS volumes as pyinfra operations; the requests themselves are in `work`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from pyinfra import host, inventory, logger, state
from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.exceptions import OperationError
from pyinfra.api.operation import operation

from roles.common.operations import (
    Commands,
    known,
    managed_paths,
    once,
    refuse,
    showing_changes,
)
from roles.common.session import options
from roles.ebs import work
from roles.ebs.aws import Aws
from roles.ebs.errors import AwsError
from roles.ebs.facts import ROOT, HostDisks, Seen, Succeeds, script
from roles.ebs.host import EbsHost, verified_paths
from roles.ebs.model import Instance, serial
from roles.ebs.plan import (
    Refusal,
    VolumePlan,
    declared_device_problem,
    resolve,
)
from roles.ebs.swap import (
    OTHER,
    Delete,
    HostState,
    Step,
    Swap,
    next_step,
    plan_delete,
    remaining,
    swap,
)

T = TypeVar("T")
Hosts = Mapping[str, EbsHost]
# Until a disk that AWS calls attached is seen by the host's kernel.
_APPEAR_S = 60


def asked(question: Callable[[], T]) -> T:
    """The answer of AWS, or an error that stops the run with its one line."""
    try:
        return question()
    except AwsError as error:
        raise OperationError(str(error)) from None


def client(hosts: Hosts) -> Aws:
    """One client for the whole run; in a dry run it lets no change through."""
    settings = next(iter(hosts.values())).settings
    return once(
        "AWS client",
        lambda: Aws(settings.region, dry=options().dry, wait_s=settings.wait_s),
    )


def observe(name: str, node: EbsHost) -> Seen:
    """What the host of that name has, whichever host this runs for."""
    found = inventory.get_host(name).get_fact(HostDisks, unit=node.unit, targets=node.targets)
    return known(found, f"EBS volumes on {name}")


def _work(state: Any, host: Any, act: Callable[[], object]) -> bool:
    """For FunctionCommand: a request's error is one line, and fails the operation here."""
    try:
        act()
    except AwsError as error:
        host.log(str(error), logger.error)
        return False
    return True


def _command(act: Callable[[], object]) -> FunctionCommand:
    return FunctionCommand(_work, (act,), {})


@operation()
def settled_key(hosts: Hosts) -> Commands:
    """
    Makes the KMS key with its alias, policy and rotation, or brings them to what is declared.

    + hosts: all hosts with EBS volumes
    """
    node, aws = next(iter(hosts.values())), client(hosts)
    plan = asked(lambda: work.look_at_key(aws, node))
    if isinstance(plan.steps, Refusal):
        raise OperationError(str(plan.steps))
    if not plan.steps:
        host.noop(f"{plan.arn} is as declared")
        return
    if showing_changes():
        for step in plan.steps:
            host.log(f"{plan.wanted.alias}: {step.value}")
    say = host.log
    yield _command(lambda: work.settle_key(aws, node, say))


def _key(aws: Aws, node: EbsHost) -> str | None:
    plan = work.look_at_key(aws, node)
    if isinstance(plan.steps, Refusal):
        raise OperationError(str(plan.steps))
    return plan.arn


def _plans(aws: Aws, node: EbsHost, key: str | None) -> dict[str, VolumePlan]:
    name = node.settings.instance
    volumes = aws.volumes(node.cluster)
    found = work.plan_host(
        node, key, aws.instances([name]).get(name), lambda place: volumes.get(place, [])
    )
    refused = [str(item) for item in found.values() if isinstance(item, Refusal)]
    if refused:
        raise OperationError("\n".join(refused))
    return {key: item for key, item in found.items() if isinstance(item, VolumePlan)}


@operation()
def settled_volumes(hosts: Hosts) -> Commands:
    """
    Makes and attaches this host's volumes that are missing, and waits until the host has them.

    + hosts: all hosts with EBS volumes
    """
    node, aws = hosts[host.name], client(hosts)
    key = asked(lambda: _key(aws, node))
    plans = asked(lambda: _plans(aws, node, key))
    open_plans = {name: plan for name, plan in plans.items() if plan.steps}
    if not open_plans:
        host.noop("volumes are attached")
        return
    if showing_changes():
        for name, plan in open_plans.items():
            for step in plan.steps:
                which = plan.disk.id if plan.disk else "new"
                host.log(f"volume {name!r} ({which}): {step.value}")
    # While the run is only planned the key may be yet to come; no command is run then.
    for name in open_plans:
        made: list[str] = []
        yield _command(partial(_settle, aws, node, name, str(key), host.log, made))
        yield script("wait.sh", ROOT, serial(made[0]), str(_APPEAR_S))


def _settle(
    aws: Aws, node: EbsHost, name: str, key: str, log: Callable[[str], None], made: list[str]
) -> None:
    made.append(work.settle_volume(aws, node, name, key, log).id)


@operation()
def recorded(hosts: Hosts) -> Commands:
    """
    Writes /etc/strongbox/ebs-verified: the volumes that are, now, attached to this host, found on
    it by their serial, and encrypted under the key. The start guard of the services reads it.

    + hosts: all hosts with EBS volumes
    """
    node, aws = hosts[host.name], client(hosts)
    key = asked(lambda: _key(aws, node))
    plans = asked(lambda: _plans(aws, node, key))
    if not all(plan.verified for plan in plans.values()):
        if state.is_executing:
            raise refuse("a volume that was just attached is not any more: run again")
        if showing_changes():
            host.log("record the volumes as verified, once they are")
        yield StringCommand("true")
        return
    assert key
    seen = observe(host.name, node)
    verified = {}
    for name, plan in plans.items():
        assert plan.disk
        _resolved(node, name, plan.disk.id, seen)
        verified[plan.disk.id] = key
    yield from managed_paths._inner(wanted=verified_paths(verified))


def _resolved(node: EbsHost, name: str, volume: str, seen: Seen) -> str:
    place = node.place(name)
    device = resolve(place, volume, seen.disks)
    if isinstance(device, Refusal):
        raise OperationError(str(device))
    return device


# Re-encryption


@dataclass(frozen=True)
class Service:
    """The service that must be stopped while its volume is exchanged, as its own role has it.

    :param gate: raises when the cluster cannot spare this host now.
    :param come_up: commands that start it and wait until it is in sync.
    :param in_sync: shell command, for root, that succeeds once it is; it must not hang.
    """

    unit: str
    gate: Callable[[], None]
    come_up: Callable[[], Commands]
    in_sync: str


def swap_of(
    aws: Aws, name: str, node: EbsHost, volume: str, key: str, in_sync: Callable[[], bool]
) -> Swap | Refusal | None:
    """What there is to a re-encryption of that volume, as AWS and the host have it now.

    :param in_sync: asked only when all else is done, as asking is slow.
    """
    place = node.place(volume)
    if volume not in node.mounts:
        return Refusal(
            f"{place}: ebs_volumes has it, and volumes_layout has no volume of that name"
        )
    seen = observe(name, node)
    instance = aws.instances([node.settings.instance]).get(node.settings.instance)
    if instance is None or instance.state != "running":
        what = instance.state if instance else "not there"
        return Refusal(f"{place}: {node.settings.instance} is {what}")
    tagged = aws.volumes(node.cluster).get(place, [])
    ids = {serial(disk.id): disk.id for disk in tagged}
    mounted = _mounted(seen, node.mounts[volume].target, ids)
    size = node.settings.volumes[volume].size_gib
    found = swap(
        place,
        key,
        instance,
        HostState(seen.running, mounted),
        tagged,
        work.snapshots_at(aws, place),
        size,
    )
    if not isinstance(found, Swap):
        return found
    if node.mounts[volume].luks:
        return Refusal(
            f"{place}: holds a LUKS volume, which is encrypted whatever lies below it: make a new "
            "volume and let the broker fill it, or take the EBS key as it is"
        )
    new = found.new
    recorded = new is not None and seen.verified.get(new.id) == key
    ready = new is not None and seen.running and recorded and mounted == new.id
    state_now = HostState(seen.running, mounted, recorded, ready and in_sync())
    return replace(found, host=state_now)


def _mounted(seen: Seen, target: str, ids: Mapping[str, str]) -> str:
    source = seen.mounted.get(target)
    if source is None:
        return ""
    serials = {f"/dev/{disk.name}": disk.serial for disk in seen.disks}
    return ids.get(serials.get(source, ""), OTHER)


@operation()
def reencrypted(hosts: Hosts, volume: str, key: str, service: Service) -> Commands:
    """
    Moves one volume of this broker onto an encrypted one, from wherever an earlier run left it.

    + hosts: all hosts with EBS volumes
    + volume: name of the volume
    + key: ARN of the key
    + service: what uses the volume
    """
    node, aws = hosts[host.name], client(hosts)

    def in_sync() -> bool:
        return known(host.get_fact(Succeeds, what=service.in_sync), "whether the broker is in sync")

    def look() -> Swap | None:
        found = asked(lambda: swap_of(aws, host.name, node, volume, key, in_sync))
        if isinstance(found, Refusal):
            raise OperationError(str(found))
        return found

    now = look()
    steps = remaining(now) if now else []
    if isinstance(steps, Refusal):
        raise OperationError(str(steps))
    if not steps:
        host.noop(f"volume {volume!r} is encrypted under the key")
        return
    if showing_changes():
        for planned in steps:
            host.log(f"volume {volume!r}: {planned.value}")
    before: Step | None = None
    while now is not None:
        step = next_step(now)
        if step is None:
            return
        if isinstance(step, Refusal):
            raise OperationError(str(step))
        if step is before:
            raise refuse(f"{step.value}: it was done and has had no effect: look why, run again")
        before = step
        if state.is_executing:
            host.log(step.value)
        yield from _commands(aws, node, now, step, service)
        now = look()


def _commands(aws: Aws, node: EbsHost, now: Swap, step: Step, service: Service) -> Commands:
    mount = node.mounts[now.place.volume]
    match step:
        case Step.STOP:
            if state.is_executing:
                service.gate()
            yield StringCommand(f"systemctl stop {service.unit}.service")
        case Step.UNMOUNT if now.old:
            old = serial(now.old.id)
            yield script("unmount.sh", ROOT, mount.target, old, service.unit)
        case Step.RECORD if now.new:
            yield script("wait.sh", ROOT, serial(now.new.id), str(_APPEAR_S))
            seen = observe(host.name, node)
            _resolved(node, now.place.volume, now.new.id, seen)
            others = asked(lambda: _still_right(aws, node, now, seen))
            yield from managed_paths._inner(wanted=verified_paths({**others, now.new.id: now.key}))
        case Step.MOUNT if now.new:
            new = serial(now.new.id)
            yield script("mount.sh", ROOT, mount.target, new, mount.filesystem, service.unit)
        case Step.START if now.new:
            new, before = serial(now.new.id), serial(now.new.copy_of)
            yield script("rename.sh", ROOT, mount.target, new, before)
            yield from service.come_up()
        case _:
            yield _command(lambda: work.take_swap_step(aws, node, now, step))


def _still_right(aws: Aws, node: EbsHost, now: Swap, seen: Seen) -> dict[str, str]:
    """Of the host's other volumes those that were recorded, and are still what was recorded."""
    return {
        disk.id: now.key
        for place, disks in aws.volumes(node.cluster).items()
        for disk in disks
        if place.host == node.hostname
        and seen.verified.get(disk.id) == now.key
        and disk.is_under(now.key)
        and disk.attached_to == (now.instance.id,)
    }


@operation()
def old_deleted(hosts: Hosts, volume: str, key: str) -> Commands:
    """
    Deletes a volume that a re-encryption has replaced, and the snapshots it was copied through.

    + hosts: all hosts with EBS volumes
    + volume: id of the old volume, which is named by the operator
    + key: ARN of the key under which the one that replaced it must be
    """
    aws = client(hosts)
    plan = asked(lambda: deletion(aws, hosts, volume, key))
    if showing_changes():
        host.log(f"delete {volume} and {', '.join(plan.snapshots) or 'no snapshot'}")
    yield _command(lambda: work.delete_old(aws, volume, plan.snapshots))


def deletion(aws: Aws, hosts: Hosts, volume: str, key: str) -> Delete:
    """
    :raises OperationError: when it must be kept.
    """
    node = next(iter(hosts.values()))
    everything = aws.volumes(node.cluster)
    place = next((at for at, disks in everything.items() if volume in {d.id for d in disks}), None)
    tagged = everything[place] if place else []
    snapshots = work.snapshots_at(aws, place) if place else []
    instances = [item.settings.instance for item in hosts.values()]
    plan = plan_delete(volume, key, instances, tagged, snapshots)
    if isinstance(plan, Refusal):
        raise OperationError(str(plan))
    return plan


def device_problems(node: EbsHost, plans: Mapping[str, VolumePlan | Refusal]) -> Sequence[str]:
    """Volumes of volumes_layout that mean another disk than the one with the host's tags."""
    found = [
        declared_device_problem(node.place(name), plan.disk.id, node.mounts[name].device)
        for name, plan in plans.items()
        if isinstance(plan, VolumePlan) and plan.disk and name in node.mounts
    ]
    return [problem for problem in found if problem]


def instances_of(aws: Aws, hosts: Hosts) -> dict[str, Instance]:
    return aws.instances([node.settings.instance for node in hosts.values()])
