"""Starts and rolls the ensemble's servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

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
from roles.zookeeper.members import Member

Ensemble = Mapping[str, ZookeeperHost]
_STATE = "ZooKeeper"


def observe(member: str, ensemble: Ensemble) -> Observed:
    """Reads a member's state, whichever host this runs for."""
    node = ensemble[member]
    found = inventory.get_host(member).get_fact(
        ZookeeperState,
        data_dir=node.layout.data,
        config=f"{node.layout.config}/zoo.cfg",
        stores=[node.store.keystore, node.store.truststore],
        four_letter=four_letter_command(node, "srvr", "mntr"),
    )
    seen = known(found, f"ZooKeeper's state on {member}")
    if member == host.name:
        remember(_STATE, seen)
    return seen


def states_of(seen: Mapping[str, Observed], ensemble: Ensemble) -> dict[str, plan.ServerState]:
    return {
        name: replace(plan.parse(item.answer), as_declared=_up_to_date(item, ensemble[name]))
        if item.service.running
        else plan.DOWN
        for name, item in seen.items()
    }


def members_of(seen: Mapping[str, Observed], ensemble: Ensemble) -> dict[str, Member]:
    return {
        name: Member(
            id=ensemble[name].settings.id,
            client_port=ensemble[name].settings.client_port,
            quorum_port=ensemble[name].settings.quorum_port,
            election_port=ensemble[name].settings.election_port,
            on_host=item.configured,
            running=item.service.running,
            has_data=item.has_data,
        )
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
def start(ensemble: Ensemble, was_closed: bool = False) -> Commands:
    """
    Starts this member when it is down, and waits until it serves as part of the quorum.

    One that runs and does not serve is waited for. When it says so itself and its configuration
    changed, it is restarted at once: alone and in its turn it might wait for others in vain that
    are yet to get the configuration with which they find each other.

    + ensemble: all members by host name
    + was_closed: its volumes were closed when the run was planned, and were taken to hold data
    """
    node = ensemble[host.name]
    seen: Observed | None = recall(_STATE)
    if seen is None or plan.to_start(*_as_found(seen, node)) is not plan.Start.NOTHING:
        seen = observe(host.name, ensemble)
    step = plan.to_start(*_as_found(seen, node))
    # While the run is only planned, the stores to ask with may be missing; they are written first.
    unknown = step is plan.Start.WAIT and not seen.askable and not state.is_executing
    if step is plan.Start.NOTHING or unknown:
        host.noop("ZooKeeper runs")
        return
    if was_closed and not seen.has_data and not seen.service.running and state.is_executing:
        raise OperationError(
            f"{host.name}: not started, as its volumes are open now and hold no data: run "
            "deploys/site.py, which finds out whether the others can spare what it had"
        )
    forget()
    if showing_changes():
        host.log(step.value)
    yield from _come_up(node, "restart" if step is plan.Start.RESTART else "start")


def _as_found(seen: Observed, node: ZookeeperHost) -> tuple[plan.ServerState, bool]:
    return states_of({host.name: seen}, {host.name: node})[host.name], seen.service.enabled


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
    if not state.is_executing and plan.to_start(*_as_found(mine, node)) is plan.Start.RESTART:
        host.noop("ZooKeeper was restarted before, as it did not serve")
        return
    seen = {name: observe(name, ensemble) for name in ensemble if name != host.name}
    states = states_of({**seen, host.name: mine}, ensemble)
    refusal = plan.gate(states, host.name)
    # While the run is only planned, a member may be down and be started before the restart, or
    # have no store to be asked with. It is asked again then.
    settled = all(item.role in plan.SERVING for item in states.values())
    if refusal is not None and (state.is_executing or settled):
        raise OperationError(str(refusal))
    forget()
    if showing_changes():
        host.log("restart ZooKeeper: its configuration changed")
    yield from _come_up(node, "restart")
