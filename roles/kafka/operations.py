"""Starts and rolls the brokers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyinfra import host, inventory, state
from pyinfra.api.command import StringCommand
from pyinfra.api.exceptions import OperationError
from pyinfra.api.operation import operation

from roles.common.operations import Commands, known, showing_changes
from roles.common.readings import forget, recall, remember
from roles.common.service import start_commands
from roles.kafka import plan
from roles.kafka.facts import KafkaState, Observed, TopicDescriptions
from roles.kafka.files import (
    BrokerHost,
    answers_command,
    ready_command,
    started_with,
    stores_digest_command,
)

Brokers = Mapping[str, BrokerHost]
DESCRIBE_S = 60
_STATE = "Kafka"


def observe(broker: str, brokers: Brokers) -> Observed:
    """Reads a broker's state, whichever host this runs for."""
    node = brokers[broker]
    found = inventory.get_host(broker).get_fact(
        KafkaState,
        stores_digest=stores_digest_command(node),
        log_dirs=node.log_dirs,
        properties=f"{node.layout.config}/server.properties",
        answers=answers_command(node),
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


def in_sync_command(node: BrokerHost) -> str:
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


def changes_refused(seen: Mapping[str, Observed], brokers: Brokers) -> list[str]:
    """What is declared for brokers of this run and cannot come to be with the data they have, or
    while brokers run; one message each."""
    running = sorted(name for name, item in seen.items() if item.service.running)
    here = [name for name in sorted(seen) if in_run(name)]
    found = []
    moved: dict[tuple[int, int], list[str]] = {}
    for name in here:
        item, settings = seen[name], brokers[name].settings
        if item.broker_id not in (None, settings.broker_id):
            found.append(plan.other_id(name, settings.broker_id, item.broker_id))
        if left := [path for path in item.with_partitions if path not in brokers[name].log_dirs]:
            found.append(plan.left_out(name, left))
        if item.internal_port not in (None, settings.internal_port):
            moved.setdefault((item.internal_port, settings.internal_port), []).append(name)
    if running:
        found += [
            plan.other_port(", ".join(names), declared, present, running)
            for (present, declared), names in moved.items()
        ]
    return found


def in_run(name: str) -> bool:
    """Whether the run works on that host: it reads all of them, but ``--limit`` leaves some be."""
    return bool(state.is_host_in_limit(inventory.get_host(name)))


def come_up(node: BrokerHost, verb: str) -> Commands:
    """Starts or restarts the broker (*verb*) and waits until it is in sync."""
    return start_commands(
        "kafka",
        verb,
        in_sync_command(node),
        node.settings.start_timeout_s,
        f"look at {node.layout.logs} and journalctl -u kafka",
    )


@operation()
def start(
    brokers: Brokers,
    stores_change: bool,
    stores_usable: bool,
    after_others: bool = False,
    was_closed: bool = False,
) -> Commands:
    """
    Starts this broker when it is down, and waits until it is in sync.

    One that runs but does not answer is waited for too: an earlier run may have been killed while
    it waited, or have given up. When a restart is due, that comes in its turn instead.

    + brokers: all brokers by host name
    + stores_change: this run writes new stores on this host
    + stores_usable: this host could connect with the stores that it had before this run
    + after_others: its data folder is empty, and those of other brokers are not
    + was_closed: its volumes were closed when the run was planned, and were taken to hold data
    """
    node = brokers[host.name]
    seen: Observed | None = recall(_STATE)
    if seen is None or not _is_up(seen) or seen.silent:
        seen = observe(host.name, brokers)
    silent = seen.silent and not outdated(seen, node)
    if not state.is_executing:
        # The stores that it will be asked with are not there yet, so this says nothing.
        silent = silent and stores_usable and not stores_change
    if _is_up(seen) and not silent:
        host.noop("Kafka runs")
        return
    forget()
    if showing_changes():
        host.log("wait for Kafka, which runs but does not answer" if silent else "start Kafka")
    if was_closed and not seen.has_data and not seen.service.running and state.is_executing:
        raise OperationError(plan.empty_after_all(host.name))
    if after_others and not seen.service.running and state.is_executing:
        yield from _dropped_from_isr(node)
    yield from come_up(node, "start")


def _dropped_from_isr(node: BrokerHost) -> Commands:
    """Waits until no partition counts this empty broker as in sync.

    Brokers that have data serve by now. Where this one led, they have elected another and dropped
    it; where it followed, the leader drops it after replica.lag.time.max.ms. A partition that it
    alone had is offline, and would come back empty: refused. What this does not see is data that
    all in-sync replicas have lost, or a broker that started without this run.
    """
    broker = node.settings.broker_id
    partitions = _partitions(host.name)
    if isinstance(partitions, str):
        raise OperationError(plan.not_asked(host.name, partitions))
    counted = plan.counted_on(partitions, broker)
    if only := [item for item in counted if item.isr == {broker}]:
        raise OperationError(plan.lost(only, host.name))
    if not counted:
        return
    in_isr = '/Partition: / { i=$0; sub(/.*Isr: /, "", i); sub(/[ \\t].*/, "", i); '
    in_isr += f'if (("," i ",") ~ /,{broker},/) bad=1 }} END {{ exit bad }}'
    timeout_s = node.settings.start_timeout_s
    yield StringCommand(
        f"deadline=$(($(date +%s) + {timeout_s})); "
        f"until described=$(timeout {DESCRIBE_S} kafka-cli topics --describe 2>/dev/null) && "
        f"printf '%s\\n' \"$described\" | awk '{in_isr}'; do "
        "if [ $(date +%s) -ge $deadline ]; then "
        'echo "$(uname -n): kafka not started, as its data folder is empty and partitions count it '
        f'as in sync even after {timeout_s} s: see kafka-cli topics --describe" >&2; exit 1; fi; '
        "sleep 1; done"
    )


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
        gate(host.name, brokers)
    forget()
    if showing_changes():
        host.log(f"restart Kafka: {reason}")
    yield from come_up(node, "restart")


def blocked_by(broker: str, asked: str, brokers: Brokers) -> list[plan.Blocked] | str:
    """Partitions that cannot spare *broker* now, as the running broker *asked* sees them, or why
    it could not tell."""
    partitions = _partitions(asked)
    if isinstance(partitions, str):
        return partitions
    settings = brokers[broker].settings
    return plan.blocked(partitions, settings.broker_id, settings.min_insync_replicas)


def _partitions(asked: str) -> list[plan.Partition] | str:
    """All partitions as the broker *asked* sees them, or why it could not tell."""
    found = inventory.get_host(asked).get_fact(TopicDescriptions, timeout_s=DESCRIBE_S)
    if found is None:
        return "the host could not be asked; see the error above"
    if found.partitions is None:
        return str(found.problem)
    try:
        return plan.parse(found.partitions)
    except plan.DescribeError as error:
        return str(error)


def gate(name: str, brokers: Brokers) -> None:
    """
    :raises OperationError: when the cluster cannot spare that broker now.
    """
    if brokers[name].settings.allow_unsafe_restart:
        return
    found = blocked_by(name, name, brokers)
    if isinstance(found, str):
        raise OperationError(plan.unknown(name, found))
    if found:
        raise OperationError(plan.refusal(found, name))


def planned_refusals(outdated_brokers: Sequence[str], asked: str, brokers: Brokers) -> None:
    """Refuses a run, before it changes anything, that would come to a restart no wait can allow."""
    for name in outdated_brokers:
        if brokers[name].settings.allow_unsafe_restart:
            continue
        # Between two halves of a run that was killed kafka-cli may not work; the gate asks again.
        found = blocked_by(name, asked, brokers)
        never = [] if isinstance(found, str) else [item for item in found if not item.may_pass]
        if never:
            raise OperationError(f"{plan.refusal(never, name)}\n    Nothing was changed.")
