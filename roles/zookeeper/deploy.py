"""A ZooKeeper ensemble: configured everywhere first, then started and rolled one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pyinfra import host
from pyinfra.api.exceptions import OperationError

from roles.common.archive import Archive
from roles.common.operations import barrier, installed_archive, managed_paths, once
from roles.zookeeper import members, plan
from roles.zookeeper.facts import Observed
from roles.zookeeper.files import ZookeeperHost, wanted
from roles.zookeeper.operations import Ensemble, members_of, observe, restart, start, states_of


def configure(node: ZookeeperHost, archive: Archive) -> None:
    """Software, configuration and unit of one server; what runs goes on as it is."""
    installed_archive(name="ZooKeeper: software", archive=archive)
    managed_paths(
        name="ZooKeeper: configuration and unit",
        wanted=wanted(node),
        after=["systemctl daemon-reload"],
    )


def roll(ensemble: Ensemble, brokers_have_data: Callable[[], bool]) -> None:
    """Called by every host: starts what is down, then restarts what is outdated, leader last.

    :param brokers_have_data: asked only when no server has any.
    """
    seen, states = _look(ensemble)
    _refuse_what_it_would_not_survive(seen, states, ensemble)
    start_down(ensemble, brokers_have_data, lambda _: False)
    for member in host.loop(plan.rolling_order(states)):  # type: ignore[no-untyped-call]
        if host.name == member:
            restart(name=f"ZooKeeper: restart {member} if outdated", ensemble=ensemble)
        barrier(name=f"barrier: ZooKeeper on {member} serves", label=f"ZooKeeper on {member}")


def start_down(
    ensemble: Ensemble, brokers_have_data: Callable[[], bool], closed: Callable[[str], bool]
) -> None:
    """Called by every host: starts what is down, those that have data first.

    :param brokers_have_data: asked only when no server has any.
    :param closed: whether that host's volumes were closed when the run was planned. What lies on
        them could not be seen; they were not made for nothing, so it counts as data.
    """
    seen, states = _look(ensemble)
    has_data = {name: item.has_data or closed(name) for name, item in seen.items()}
    waves = plan.start_waves(states, has_data, not any(has_data.values()) and brokers_have_data())
    if isinstance(waves, plan.Refusal):
        raise OperationError(str(waves))
    # Two waves at most: members that have data, then those that get theirs from them. One that
    # runs already is waited for with the first, as they may need its vote.
    second = waves[1] if len(waves) > 1 else []
    if host.name in ensemble and host.name not in second:
        start(
            name="ZooKeeper: start what is down",
            ensemble=ensemble,
            was_closed=closed(host.name),
        )
    barrier(name="barrier: ZooKeeper serves", label="ZooKeeper serves")
    if host.name in second:
        start(
            name="ZooKeeper: start the rest",
            ensemble=ensemble,
            was_closed=closed(host.name),
        )
    barrier(name="barrier: ZooKeeper is complete", label="ZooKeeper is complete")


def _look(ensemble: Ensemble) -> tuple[Mapping[str, Observed], Mapping[str, plan.ServerState]]:
    if host.name in ensemble:
        # Each host reads its own at the same time as the others; then one puts them together.
        _seen(host.name, ensemble)
    seen = once("ensemble", lambda: {name: _seen(name, ensemble) for name in sorted(ensemble)})
    return seen, once("ensemble's states", lambda: states_of(seen, ensemble))


def _refuse_what_it_would_not_survive(
    seen: Mapping[str, Observed], states: Mapping[str, plan.ServerState], ensemble: Ensemble
) -> None:
    """While the run is planned, so before it has changed anything."""
    problems = members.problems(members_of(seen, ensemble), states)
    larger = plan.larger_ensemble(states, ", ".join(sorted(states)), "changed")
    if larger and not problems:
        problems = [str(larger)]
    if problems:
        raise OperationError("\n    ".join([*problems, "Nothing was changed."]))


def _seen(member: str, ensemble: Ensemble) -> Observed:
    return once(f"ZooKeeper on {member}", lambda: observe(member, ensemble))
