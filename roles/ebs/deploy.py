"""EBS volumes: the key first, then each host's volumes; and the way out for unencrypted ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pyinfra import host, state
from pyinfra.api.exceptions import OperationError

from roles.common.operations import barrier, once
from roles.ebs import work
from roles.ebs.operations import (
    Hosts,
    Service,
    asked,
    client,
    deletion,
    device_problems,
    instances_of,
    old_deleted,
    recorded,
    reencrypted,
    settled_key,
    settled_volumes,
    swap_of,
)
from roles.ebs.plan import Refusal
from roles.ebs.swap import Step, Swap, next_step


def provision(hosts: Hosts) -> None:
    """Called by every host: refuses what must not be used before it changes anything, then makes
    the key, and the volumes that are missing.

    :param hosts: those with EBS volumes, by the inventory's names.
    """
    _require(hosts)
    refused = once("EBS refusals", lambda: asked(lambda: _refusals(hosts)))
    if refused:
        raise OperationError("\n".join([*refused, "    Nothing was changed."]))
    if host.name == _first(hosts):
        settled_key(name="EBS: KMS key", hosts=hosts)
    barrier(name="barrier: the KMS key is there", label="the KMS key is there")
    if host.name in hosts:
        settled_volumes(name="EBS: volumes", hosts=hosts)
        recorded(name="EBS: record what is verified", hosts=hosts)


def reencrypt(hosts: Hosts, services: Mapping[str, Service], delete_old: str) -> None:
    """Called by every host: exchanges the volumes that are not encrypted under the key, one broker
    after the other; with *delete_old* deletes what is left of that instead.

    :param services: what uses the volumes, by host; a host without one is refused.
    :param delete_old: id of a volume that was replaced, or empty.
    """
    _require(hosts)
    key = once("EBS key", lambda: asked(lambda: _present_key(hosts)))
    if delete_old:
        once("EBS deletion", lambda: asked(lambda: deletion(client(hosts), hosts, delete_old, key)))
        if host.name == _first(hosts):
            old_deleted(name="EBS: delete the old volume", hosts=hosts, volume=delete_old, key=key)
        return
    order = once("EBS order", lambda: asked(lambda: _order(hosts, services, key)))
    for name, volume in host.loop(order):  # type: ignore[no-untyped-call]
        if host.name == name:
            reencrypted(
                name=f"EBS: encrypt volume {volume} of {name}",
                hosts=hosts,
                volume=volume,
                key=key,
                service=services[name],
            )
        barrier(name=f"barrier: {name} is in sync ({volume})", label=f"{name} ({volume})")


def _require(hosts: Hosts) -> None:
    if not hosts:
        raise OperationError(
            "no host has ebs_instance set: this deploy is for hosts on AWS (docs/aws.md)"
        )


def _in_run(name: str) -> bool:
    return bool(state.is_host_in_limit(state.inventory.get_host(name)))


def _first(hosts: Hosts) -> str:
    return next((name for name in sorted(hosts) if _in_run(name)), "")


def _refusals(hosts: Hosts) -> list[str]:
    aws = client(hosts)
    key = work.look_at_key(aws, next(iter(hosts.values())))
    if isinstance(key.steps, Refusal):
        return [str(key.steps)]
    volumes, instances = aws.volumes(next(iter(hosts.values())).cluster), instances_of(aws, hosts)
    found: list[str] = []
    for name, node in sorted(hosts.items()):
        if not _in_run(name):
            continue
        plans = work.plan_host(
            node,
            key.arn,
            instances.get(node.settings.instance),
            lambda place: volumes.get(place, []),
        )
        found += [str(plan) for plan in plans.values() if isinstance(plan, Refusal)]
        found += device_problems(node, plans)
    return found


def _present_key(hosts: Hosts) -> str:
    found = work.look_at_key(client(hosts), next(iter(hosts.values())))
    if isinstance(found.steps, Refusal):
        raise OperationError(str(found.steps))
    if found.arn is None or found.steps:
        raise OperationError("the KMS key is not as declared yet: run deploys/ebs.py first")
    return found.arn


def _order(hosts: Hosts, services: Collection[str], key: str) -> list[tuple[str, str]]:
    """Volumes to exchange, of a broker that an earlier run left half done before all others."""
    aws = client(hosts)
    begun: list[tuple[str, str]] = []
    waiting: list[tuple[str, str]] = []
    refused: list[str] = []
    for name, node in sorted(hosts.items()):
        if not _in_run(name):
            continue
        for volume in node.settings.volumes:
            found = swap_of(aws, name, node, volume, key, lambda: False)
            step = next_step(found) if isinstance(found, Swap) else found
            if isinstance(step, Refusal):
                refused.append(str(step))
            elif step is not None and name not in services:
                refused.append(
                    f"{node.place(volume)}: only brokers' volumes are exchanged here: stop the "
                    "ZooKeeper server, take the strongbox tags off its volume, run deploys/ebs.py "
                    "and site.py: it loads everything from the leader"
                )
            elif step in (Step.STOP, Step.UNMOUNT):
                waiting.append((name, volume))
            elif step is not None:
                begun.append((name, volume))
    if refused:
        raise OperationError("\n".join([*refused, "    Nothing was changed."]))
    return [*begun, *waiting]
