"""The brokers: configured everywhere first, then started and rolled one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pyinfra import host, inventory
from pyinfra.api.exceptions import OperationError

from roles.common.archive import Archive
from roles.common.operations import barrier, installed_archive, managed_paths, once
from roles.kafka import plan
from roles.kafka.facts import ActiveController, Observed
from roles.kafka.files import BrokerHost, wanted
from roles.kafka.operations import (
    Brokers,
    changes_refused,
    in_run,
    observe,
    outdated,
    planned_refusals,
    restart,
    start,
)

OfHost = Callable[[str], bool]
_CONTROLLER_S = 30


def configure(node: BrokerHost, archive: Archive) -> None:
    """Software, configuration, unit and kafka-cli of one broker; what runs goes on as it is."""
    installed_archive(name="Kafka: software", archive=archive)
    managed_paths(
        name="Kafka: configuration and unit",
        wanted=wanted(node),
        after=["systemctl daemon-reload"],
    )


def roll(brokers: Brokers, stores_due: OfHost, stores_usable: OfHost) -> None:
    """Called by every host: starts what is down, then restarts what is outdated.

    The controller is the last, if it can be asked for while the run is planned.

    :param stores_due: whether this run writes new stores on the host of that name.
    :param stores_usable: whether that host can connect with the stores it has before this run.
    """
    seen = _look(brokers)
    if refused := changes_refused(seen, brokers):
        raise OperationError("\n".join([*refused, "    Nothing was changed."]))
    start_down(brokers, stores_due, stores_usable, lambda _: False)
    order = once("broker order", lambda: _order(seen, brokers, stores_due, stores_usable))
    for broker in host.loop(order):  # type: ignore[no-untyped-call]
        if host.name == broker:
            restart(
                name=f"Kafka: restart {broker} if outdated",
                brokers=brokers,
                stores_change=stores_due(broker),
            )
        barrier(name=f"barrier: Kafka on {broker} serves", label=f"Kafka on {broker}")


def start_down(brokers: Brokers, stores_due: OfHost, stores_usable: OfHost, closed: OfHost) -> None:
    """Called by every host: starts what is down, those that have data first.

    :param closed: whether that host's volumes were closed when the run was planned. What lies on
        them could not be seen; they were not made for nothing, so it counts as data.
    """
    seen = _look(brokers)
    first = plan.first_wave(
        [name for name, item in seen.items() if item.service.running],
        {name: item.has_data or closed(name) for name, item in seen.items()},
    )
    if host.name in first:
        start(
            name="Kafka: start what is down",
            brokers=brokers,
            stores_change=stores_due(host.name),
            stores_usable=stores_usable(host.name),
            was_closed=closed(host.name),
        )
    barrier(name="barrier: Kafka serves", label="Kafka serves")
    if host.name in brokers and host.name not in first:
        start(
            name="Kafka: start those without data",
            brokers=brokers,
            stores_change=stores_due(host.name),
            stores_usable=stores_usable(host.name),
            after_others=True,
        )
    barrier(name="barrier: Kafka is complete", label="Kafka is complete")


def _look(brokers: Brokers) -> Mapping[str, Observed]:
    if host.name in brokers:
        # Each host reads its own at the same time as the others; then one puts them together.
        _seen(host.name, brokers)
    return once("brokers", lambda: {name: _seen(name, brokers) for name in sorted(brokers)})


def have_data(brokers: Brokers) -> bool:
    """Whether any broker has data, as it was when the run was planned."""
    return any(_seen(name, brokers).has_data for name in sorted(brokers))


def _seen(broker: str, brokers: Brokers) -> Observed:
    return once(f"Kafka on {broker}", lambda: observe(broker, brokers))


def _order(
    seen: Mapping[str, Observed], brokers: Brokers, stores_due: OfHost, stores_usable: OfHost
) -> list[str]:
    names = {brokers[name].settings.broker_id: name for name in brokers}
    running = [name for name, item in seen.items() if item.service.running]
    serving = [name for name in running if not seen[name].silent]
    stale = [
        name
        for name in filter(in_run, running)
        if outdated(seen[name], brokers[name]) or stores_due(name)
    ]
    # Asking starts a JVM on a broker, so only when one will restart, and needs its stores. When no
    # broker can be asked now, the gate still asks right before each restart, but the order does
    # not heed the controller.
    asked = next(filter(stores_usable, serving), None) if stale else None
    controller = _controller(asked) if asked else None
    if asked:
        planned_refusals(stale, asked, brokers)
    order = plan.rolling_order(
        list(names), [brokers[name].settings.broker_id for name in serving], controller
    )
    return [names[key] for key in order]


def _controller(asked: str) -> int | None:
    """The active controller's id, None when there is none now."""
    found: int | None = inventory.get_host(asked).get_fact(
        ActiveController, timeout_s=_CONTROLLER_S
    )
    return found
