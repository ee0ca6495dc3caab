"""What is done with what was read: on recorded hosts, with pyinfra's own state and limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest
from pyinfra.api import Config, Inventory, State
from pyinfra.api.connect import connect_all
from pyinfra.api.exceptions import OperationError
from pyinfra.api.state import StateStage
from pyinfra.context import ctx_config, ctx_host, ctx_inventory, ctx_state

from roles.common.host_settings import CommonSettings
from roles.common.readings import forget
from roles.common.service import Service
from roles.kafka import deploy
from roles.kafka.facts import Observed
from roles.kafka.files import BrokerHost, started_with
from roles.kafka.operations import changes_refused, restart, start
from tests.unit.test_kafka_files import PEM, host

NAMES = [f"@fake/kafka{number}" for number in (1, 2, 3)]
STORES = "0" * 64
CONFIGS = "PartitionCount: 1\tReplicationFactor: 3\tConfigs: min.insync.replicas=2"


def described(replicas: str = "1,2,3", isr: str = "1,2,3", leader: int | str = 2) -> str:
    return (
        f"Topic: t\tTopicId: x\t{CONFIGS}\n"
        f"\tTopic: t\tPartition: 0\tLeader: {leader}\tReplicas: {replicas}\tIsr: {isr}\tElr: N/A\n"
    )


def broker(number: int, **settings: Any) -> BrokerHost:
    common = CommonSettings(cluster="payments", hostname=f"kafka{number}.example.test")
    return host(PEM, common, kafka_broker_id=number, **settings)


def brokers(**settings: Any) -> dict[str, BrokerHost]:
    return {name: broker(number, **settings) for number, name in enumerate(NAMES, 1)}


def observed(node: BrokerHost, **more: Any) -> Observed:
    """A broker that is as declared, with data, and answers."""
    service = Service("active", True, 1, {**started_with(node), "stores": STORES})
    values: dict[str, Any] = {
        "service": service, "stores": STORES, "has_data": True,
        "broker_id": node.settings.broker_id, "internal_port": node.settings.internal_port,
    }  # fmt: skip
    return Observed(**{**values, **more})


STOPPED = Service("inactive", True, 0, {})


def shown(item: Observed) -> str:
    """What a host prints for the fact, so that the facts' own parsing is part of these tests."""
    lines = [
        f"ActiveState={item.service.active}",
        f"UnitFileState={'enabled' if item.service.enabled else 'disabled'}",
        *(f"started-with {key} {value}" for key, value in item.service.started_with.items()),
        f"stores-now {item.stores}",
        *(["has-data"] if item.has_data else []),
        *(["silent"] if item.silent else []),
        "--end--",
    ]
    return "\n".join(lines)


@dataclass
class Run:
    """Three recorded brokers; ``answers`` is what commands print, by a part of the command."""

    answers: dict[str, dict[str, str]]
    limit: list[str] | None = None
    executing: bool = True

    def __enter__(self) -> Run:
        data = {"fake_delay": 0.0, "fake_delay_jitter": 0.0}
        hosts = [(name, {**data, "fake_responses": self.answers.get(name, {})}) for name in NAMES]
        inventory = Inventory((hosts, {}))
        self.state = State(inventory, Config())
        if self.limit is not None:
            self.state.limit_hosts = [inventory.get_host(name) for name in self.limit]
        self.state.current_stage = StateStage.Connect
        self.stack = ExitStack()
        self.stack.enter_context(ctx_state.use(self.state))
        self.stack.enter_context(ctx_inventory.use(inventory))
        self.stack.enter_context(ctx_config.use(self.state.config.copy()))
        connect_all(self.state)
        self.state.is_executing = self.executing
        return self

    def __exit__(self, *_error: object) -> None:
        self.stack.close()

    def on(self, name: str) -> Any:
        return ctx_host.use(self.state.inventory.get_host(name))

    def commands(self, name: str, operation: Any, **arguments: Any) -> list[str]:
        with self.on(name):
            # pyinfra's state is one object for the whole process, and so is what was read before.
            forget()
            return [str(item.get_raw_value()) for item in operation._inner(**arguments)]

    def asked(self, name: str) -> list[str]:
        found: list[str] = self.state.inventory.get_host(name).connector.executed_commands
        return found


def answers(seen: Mapping[str, Observed], partitions: str = "") -> dict[str, dict[str, str]]:
    return {
        name: {
            "topics --describe": f"{partitions}--all--\n--end--",
            "zookeeper-shell": '{"version":2,"brokerid":1,"timestamp":"1"}\n--end--',
            "ActiveState": shown(item),
        }
        for name, item in seen.items()
    }


@pytest.fixture
def nodes() -> Iterator[dict[str, BrokerHost]]:
    yield brokers()


def refused(seen: Mapping[str, Observed], of: dict[str, BrokerHost], **run: Any) -> list[str]:
    with Run({}, **run):
        return changes_refused(seen, of)


def test_what_is_as_declared_is_not_refused(nodes: dict[str, BrokerHost]) -> None:
    assert refused({name: observed(node) for name, node in nodes.items()}, nodes) == []
    new = {name: Observed(STOPPED, "") for name in nodes}
    assert refused(new, nodes) == []


def test_another_id_than_the_datas_is_refused(nodes: dict[str, BrokerHost]) -> None:
    seen = {name: observed(node) for name, node in nodes.items()}
    seen[NAMES[1]] = observed(nodes[NAMES[1]], broker_id=7, service=STOPPED)
    (message,) = refused(seen, nodes)
    assert message.startswith("@fake/kafka2: kafka_broker_id is 2, but its data folder is that of")
    assert "broker 7" in message
    assert refused(seen, nodes, limit=[NAMES[0]]) == []


def test_another_internal_port_is_refused_while_any_broker_runs() -> None:
    nodes = brokers(kafka_internal_port=9193)
    seen = {n: observed(node, internal_port=9093, service=STOPPED) for n, node in nodes.items()}
    assert refused(seen, nodes) == []
    seen[NAMES[2]] = observed(nodes[NAMES[2]], internal_port=9093)
    (message,) = refused(seen, nodes)
    assert message.startswith(f"{', '.join(NAMES)}: kafka_internal_port cannot change from 9093")
    assert "to 9193 while @fake/kafka3 runs" in message
    assert "systemctl stop kafka" in message
    # A broker that is stopped for the change is refused too: the others would not find its port.
    assert refused(seen, nodes, limit=[NAMES[0]]) != []


def test_a_folder_with_partitions_that_is_no_longer_declared_is_refused() -> None:
    nodes = {name: replace(node, data_volumes=["/srv/a"]) for name, node in brokers().items()}
    seen = {name: observed(node, log_dirs=("/srv/a/kafka",)) for name, node in nodes.items()}
    both = ("/srv/a/kafka", "/srv/b/kafka")
    seen[NAMES[1]] = observed(nodes[NAMES[1]], log_dirs=both, with_partitions=both)
    (message,) = refused(seen, nodes)
    assert message.startswith("@fake/kafka2: /srv/b/kafka holds partitions")
    seen[NAMES[1]] = observed(nodes[NAMES[1]], log_dirs=both, with_partitions=both[:1])
    assert refused(seen, nodes) == []


def start_of(
    item: Observed, nodes: dict[str, BrokerHost], *, executing: bool = True, **arguments: Any
) -> list[str]:
    seen = {name: observed(node) for name, node in nodes.items()} | {NAMES[0]: item}
    partitions = arguments.pop("partitions", "")
    options = {"stores_change": False, "stores_usable": True} | arguments
    with Run(answers(seen, partitions), executing=executing) as run:
        return run.commands(NAMES[0], start, brokers=nodes, **options)


def test_a_broker_whose_volumes_turn_out_empty_is_not_started_as_one_with_data(
    nodes: dict[str, BrokerHost],
) -> None:
    empty = observed(nodes[NAMES[0]], service=STOPPED, has_data=False)
    with pytest.raises(OperationError, match=r"hold no data: run deploys/site\.py"):
        start_of(empty, nodes, was_closed=True)
    full = observed(nodes[NAMES[0]], service=STOPPED)
    assert start_of(full, nodes, was_closed=True) != []


def test_a_broker_that_serves_is_left_alone(nodes: dict[str, BrokerHost]) -> None:
    assert start_of(observed(nodes[NAMES[0]]), nodes) == []


@pytest.mark.parametrize("executing", [True, False])
def test_a_silent_broker_is_waited_for(nodes: dict[str, BrokerHost], executing: bool) -> None:
    begin, wait = start_of(observed(nodes[NAMES[0]], silent=True), nodes, executing=executing)
    assert "systemctl start kafka.service" in begin
    assert "restart" not in begin
    assert "did not come back within 300 s" in wait


def test_a_silent_broker_that_is_outdated_waits_for_its_restart(
    nodes: dict[str, BrokerHost],
) -> None:
    old = Service("active", True, 1, {"config": "1" * 64, "stores": STORES})
    assert start_of(observed(nodes[NAMES[0]], silent=True, service=old), nodes) == []


@pytest.mark.parametrize("option", [{"stores_usable": False}, {"stores_change": True}])
def test_without_stores_to_ask_with_planning_does_not_take_it_for_silent(
    nodes: dict[str, BrokerHost], option: dict[str, bool]
) -> None:
    silent = observed(nodes[NAMES[0]], silent=True)
    assert start_of(silent, nodes, executing=False, **option) == []
    assert start_of(silent, nodes, executing=True, **option) != []


def empty(node: BrokerHost) -> Observed:
    return observed(node, service=STOPPED, has_data=False, broker_id=None)


def test_an_empty_broker_starts_at_once_when_no_partition_counts_on_it(
    nodes: dict[str, BrokerHost],
) -> None:
    found = start_of(
        empty(nodes[NAMES[0]]), nodes, after_others=True, partitions=described(isr="2,3")
    )
    assert len(found) == 2
    assert "systemctl start" in found[0]


def test_an_empty_broker_waits_until_it_is_out_of_sync(nodes: dict[str, BrokerHost]) -> None:
    wait, begin, _ = start_of(
        empty(nodes[NAMES[0]]), nodes, after_others=True, partitions=described()
    )
    assert "until described=" in wait
    assert "kafka not started" in wait
    assert "systemctl start" in begin


def test_an_empty_broker_that_alone_was_in_sync_is_refused(nodes: dict[str, BrokerHost]) -> None:
    with pytest.raises(OperationError, match=r"it alone has all records of t-0"):
        start_of(
            empty(nodes[NAMES[0]]), nodes, after_others=True,
            partitions=described(isr="1", leader="none"),
        )  # fmt: skip


def test_an_empty_broker_is_refused_when_nobody_can_tell(nodes: dict[str, BrokerHost]) -> None:
    seen = {NAMES[0]: empty(nodes[NAMES[0]])}
    told = answers(seen)
    told[NAMES[0]]["topics --describe"] = "problem no answer within 60 s\n--end--"
    arguments = {"stores_change": False, "stores_usable": True, "after_others": True}
    with (
        Run(told) as run,
        pytest.raises(OperationError, match=r"not started, .* no answer within 60 s"),
    ):
        run.commands(NAMES[0], start, brokers=nodes, **arguments)


def outdated(node: BrokerHost, **more: Any) -> Observed:
    old = Service("active", True, 1, {"config": "1" * 64, "stores": STORES})
    return observed(node, service=old, **more)


def test_the_gate_tells_why_it_could_not_be_asked(nodes: dict[str, BrokerHost]) -> None:
    told = answers({NAMES[0]: outdated(nodes[NAMES[0]])})
    for answer, why in (
        ("problem ERROR timed out\n--end--", "ERROR timed out"),
        ("", "the host could not be asked"),
        ("nonsense\n--all--\n--end--", "not a line of kafka-topics"),
    ):
        told[NAMES[0]]["topics --describe"] = answer
        with Run(told) as run, pytest.raises(OperationError) as raised:
            run.commands(NAMES[0], restart, brokers=nodes, stores_change=False)
        message = str(raised.value)
        assert message.startswith("@fake/kafka1: not restarted, as kafka-cli could not tell")
        assert why in message
        assert "the next run goes on with this broker" in " ".join(message.split())


def test_the_gate_can_be_opened_without_an_answer() -> None:
    nodes = brokers(kafka_allow_unsafe_restart=True)
    with Run(answers({NAMES[0]: outdated(nodes[NAMES[0]])})) as run:
        begin, _ = run.commands(NAMES[0], restart, brokers=nodes, stores_change=False)
        assert "systemctl restart kafka.service" in begin
        assert not [command for command in run.asked(NAMES[0]) if "--describe" in command]


def order(seen: dict[str, Observed], nodes: dict[str, BrokerHost], **run: Any) -> list[str]:
    partitions = run.pop("partitions", described())
    with Run(answers(seen, partitions), executing=False, **run) as made, made.on(NAMES[0]):
        return deploy._order(seen, nodes, lambda _: False, lambda _: True)


def test_the_controller_is_last_and_a_silent_broker_first(nodes: dict[str, BrokerHost]) -> None:
    seen = {name: outdated(node) for name, node in nodes.items()}
    assert order(seen, nodes) == [NAMES[1], NAMES[2], NAMES[0]]
    seen[NAMES[2]] = outdated(nodes[NAMES[2]], silent=True)
    assert order(seen, nodes) == [NAMES[2], NAMES[1], NAMES[0]]


def test_only_brokers_of_the_run_are_refused_for_what_they_cannot_spare(
    nodes: dict[str, BrokerHost],
) -> None:
    seen = {name: outdated(node) for name, node in nodes.items()}
    only_two = described(replicas="2,3", isr="2,3")
    with pytest.raises(OperationError, match=r"@fake/kafka2: not restarted, as 1 partition"):
        order(seen, nodes, partitions=only_two)
    assert order(seen, nodes, partitions=only_two, limit=[NAMES[0]])
    with pytest.raises(OperationError, match=r"@fake/kafka3: not restarted, as 1 partition"):
        order(seen, nodes, partitions=only_two, limit=[NAMES[2]])


def test_nobody_is_asked_when_nothing_restarts(nodes: dict[str, BrokerHost]) -> None:
    seen = {name: observed(node) for name, node in nodes.items()}
    with Run({}, executing=False) as run, run.on(NAMES[0]):
        deploy._order(seen, nodes, lambda _: False, lambda _: True)
        assert [run.asked(name) for name in NAMES] == [[], [], []]
