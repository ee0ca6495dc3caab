"""Starts and rolls the ensemble's servers."""

from __future__ import annotations

from collections.abc import Mapping

from pyinfra import host, inventory, state
from pyinfra.api.exceptions import OperationError
from pyinfra.api.operation import operation

from roles.common.operations import Commands, known, showing_changes
from roles.common.readings import forget, recall, remember
from roles.common.service import start_commands
from roles.zookeeper import plan
from roles.zookeeper.facts import Observed, ZookeeperState
from roles.zookeeper.files import (
    ZookeeperHost,
    four_letter_command,
    ready_command,
    started_with,
)

Ensemble = Mapping[str, ZookeeperHost]
_STATE = "ZooKeeper"


def observe(member: str, ensemble: Ensemble) -> Observed:
    """Reads a member's state, whichever host this runs for."""
    node = ensemble[member]
    found = inventory.get_host(member).get_fact(
        ZookeeperState,
        data_dir=node.layout.data,
        four_letter=four_letter_command(node, "srvr", "mntr"),
    )
    seen = known(found, f"ZooKeeper's state on {member}")
    if member == host.name:
        remember(_STATE, seen)
    return seen


def states_of(seen: Mapping[str, Observed]) -> dict[str, plan.ServerState]:
    return {
        name: plan.parse(item.answer) if item.service.running else plan.DOWN
        for name, item in seen.items()
    }


def _come_up(node: ZookeeperHost, verb: str) -> Commands:
    return start_commands(
        "zookeeper",
        verb,
        ready_command(node),
        node.settings.start_timeout_s,
        f"look at {node.layout.logs} and journalctl -u zookeeper",
    )


@operation()
def start(ensemble: Ensemble) -> Commands:
    """
    Starts this member when it is down, and waits until it serves as part of the quorum.

    + ensemble: all members by host name
    """
    seen: Observed | None = recall(_STATE)
    if seen is None or not _is_up(seen):
        seen = observe(host.name, ensemble)
    if _is_up(seen):
        host.noop("ZooKeeper runs")
        return
    forget()
    if showing_changes():
        host.log("start ZooKeeper")
    yield from _come_up(ensemble[host.name], "start")


def _is_up(seen: Observed) -> bool:
    return seen.service.running and seen.service.enabled


def _up_to_date(seen: Observed, node: ZookeeperHost) -> bool:
    return not seen.service.running or seen.service.started_with == started_with(node)


@operation()
def restart(ensemble: Ensemble) -> Commands:
    """
    Restarts this member when it runs with another configuration than the one declared.

    Refuses while the rest of the ensemble could not keep a synced majority.

    + ensemble: all members by host name
    """
    node = ensemble[host.name]
    mine: Observed | None = recall(_STATE)
    if mine is None or not _up_to_date(mine, node):
        mine = observe(host.name, ensemble)
    if _up_to_date(mine, node):
        host.noop("ZooKeeper runs with the declared configuration")
        return
    seen = {name: observe(name, ensemble) for name in ensemble if name != host.name}
    refusal = plan.gate(states_of({**seen, host.name: mine}), host.name)
    # While the run is only planned, a member may be down and be started before the restart, or
    # have no store to be asked with. It is asked again then.
    states = states_of({**seen, host.name: mine}).values()
    settled = all(item.role in plan.SERVING for item in states)
    if refusal is not None and (state.is_executing or settled):
        raise OperationError(str(refusal))
    forget()
    if showing_changes():
        host.log("restart ZooKeeper: its configuration changed")
    yield from _come_up(node, "restart")
