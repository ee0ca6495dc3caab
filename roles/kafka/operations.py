"""Starts and rolls the brokers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyinfra import host, inventory, state
from pyinfra.api.exceptions import OperationError
from pyinfra.api.operation import operation

from roles.common.operations import Commands, known, showing_changes
from roles.common.readings import forget, recall, remember
from roles.common.service import start_commands
from roles.kafka import plan
from roles.kafka.facts import KafkaState, Observed, TopicDescriptions
from roles.kafka.files import (
    BrokerHost,
    ready_command,
    started_with,
    stores_digest_command,
)

Brokers = Mapping[str, BrokerHost]
DESCRIBE_S = 60
_STATE = "Kafka"


def observe(broker: str, brokers: Brokers) -> Observed:
    """Reads a broker's state, whichever host this runs for."""
    found = inventory.get_host(broker).get_fact(
        KafkaState, stores_digest=stores_digest_command(brokers[broker])
    )
    seen = known(found, f"Kafka's state on {broker}")
    if broker == host.name:
        remember(_STATE, seen)
    return seen


def _is_up(seen: Observed) -> bool:
    return seen.service.running and seen.service.enabled


def outdated(seen: Observed, node: BrokerHost) -> str:
    """Why a running broker must restart; empty when it need not."""
    recorded = dict(seen.service.started_with)
    stores = recorded.pop("stores", "")
    if recorded != started_with(node):
        return "its configuration changed"
    if stores != seen.stores:
        return "its certificates changed"
    return ""


def _caught_up(node: BrokerHost) -> str:
    """Shell command that succeeds once this broker is in sync in all partitions it has."""
    broker = node.settings.broker_id
    behind = (
        f'$0 ~ /Partition: / {{ r=$0; sub(/.*Replicas: /, "", r); sub(/[ \\t].*/, "", r); '
        'i=$0; sub(/.*Isr: /, "", i); sub(/[ \\t].*/, "", i); '
        f'if (("," r ",") ~ /,{broker},/ && ("," i ",") !~ /,{broker},/) bad=1 }} '
        "END { exit bad }"
    )
    return (
        f"{{ {ready_command(node)}; }} && "
        f"described=$(timeout {DESCRIBE_S} kafka-cli topics --describe 2>/dev/null) && "
        f"printf '%s\\n' \"$described\" | awk '{behind}'"
    )


def _come_up(node: BrokerHost, verb: str) -> Commands:
    return start_commands(
        "kafka",
        verb,
        _caught_up(node),
        node.settings.start_timeout_s,
        f"look at {node.layout.logs} and journalctl -u kafka",
    )


@operation()
def start(brokers: Brokers) -> Commands:
    """
    Starts this broker when it is down, and waits until it is in sync.

    + brokers: all brokers by host name
    """
    seen: Observed | None = recall(_STATE)
    if seen is None or not _is_up(seen):
        seen = observe(host.name, brokers)
    if _is_up(seen):
        host.noop("Kafka runs")
        return
    forget()
    if showing_changes():
        host.log("start Kafka")
    yield from _come_up(brokers[host.name], "start")


@operation()
def restart(brokers: Brokers, stores_change: bool) -> Commands:
    """
    Restarts this broker when it runs with another configuration or other certificates.

    Refuses, before anything is stopped, when a partition would fall below its
    min.insync.replicas, unless the setting kafka_allow_unsafe_restart is on.

    + brokers: all brokers by host name
    + stores_change: this run writes new stores on this host
    """
    node = brokers[host.name]
    seen: Observed | None = recall(_STATE)
    if seen is None or outdated(seen, node):
        seen = observe(host.name, brokers)
    reason = outdated(seen, node)
    # While the run is only planned the new stores are not there to compare with.
    if not reason and stores_change and not state.is_executing:
        reason = "its certificates change"
    if not seen.service.running or not reason:
        host.noop("Kafka runs with the declared configuration")
        return
    # While the run is only planned, `planned_refusals` has spoken: other brokers may be started
    # before this one's turn comes.
    if state.is_executing:
        _gate(host.name, brokers)
    forget()
    if showing_changes():
        host.log(f"restart Kafka: {reason}")
    yield from _come_up(node, "restart")


def blocked_by(broker: str, asked: str, brokers: Brokers) -> list[plan.Blocked] | None:
    """Partitions that cannot spare *broker* now, as the running broker *asked* sees them.

    None when it could not be asked.
    """
    described = inventory.get_host(asked).get_fact(TopicDescriptions, timeout_s=DESCRIBE_S)
    if described is None:
        return None
    settings = brokers[broker].settings
    try:
        partitions = plan.parse(described)
    except plan.DescribeError as error:
        raise OperationError(f"{broker}: not restarted: {error}") from None
    return plan.blocked(partitions, settings.broker_id, settings.min_insync_replicas)


def _gate(name: str, brokers: Brokers) -> None:
    if brokers[name].settings.allow_unsafe_restart:
        return
    found = known(blocked_by(name, name, brokers), "the state of the partitions")
    if found:
        raise OperationError(plan.refusal(found, name))


def planned_refusals(outdated_brokers: Sequence[str], asked: str, brokers: Brokers) -> None:
    """Refuses a run, before it changes anything, that would come to a restart no wait can allow."""
    for name in outdated_brokers:
        if brokers[name].settings.allow_unsafe_restart:
            continue
        # Between two halves of a run that was killed kafka-cli may not work; the gate asks again.
        found = blocked_by(name, asked, brokers) or []
        never = [item for item in found if not item.may_pass]
        if never:
            raise OperationError(f"{plan.refusal(never, name)}\n    Nothing was changed.")
