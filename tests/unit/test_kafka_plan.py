import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.kafka.plan import (
    DescribeError,
    Partition,
    Reason,
    blocked,
    counted_on,
    first_wave,
    lost,
    other_id,
    other_port,
    parse,
    refusal,
    rolling_order,
    unknown,
)

# As printed by Kafka 3.9.2 in ZooKeeper mode.
DESCRIBED = """\
Topic: orders\tTopicId: m4g8EEhGSwW3I3mUDYfZVQ\tPartitionCount: 2\tReplicationFactor: 3\t\
Configs: cleanup.policy=compact,delete,min.insync.replicas=2,unclean.leader.election.enable=false
\tTopic: orders\tPartition: 0\tLeader: 3\tReplicas: 3,2,1\tIsr: 3,2,1\tElr: N/A\tLastKnownElr: N/A
\tTopic: orders\tPartition: 1\tLeader: 1\tReplicas: 1,3,2\tIsr: 1\tElr: N/A\tLastKnownElr: N/A
Topic: plain\tTopicId: x\tPartitionCount: 1\tReplicationFactor: 1\tConfigs: 
\tTopic: plain\tPartition: 0\tLeader: none\tReplicas: 2\tIsr: \tElr: N/A\tLastKnownElr: N/A
"""  # noqa: W291


def test_parse() -> None:
    assert parse(DESCRIBED) == [
        Partition("orders", 0, 3, (3, 2, 1), frozenset({1, 2, 3}), 2),
        Partition("orders", 1, 1, (1, 3, 2), frozenset({1}), 2),
        Partition("plain", 0, None, (2,), frozenset(), None),
    ]


def test_no_topics() -> None:
    assert parse("") == parse("\n\n") == []


def test_a_reassignment_and_a_deletion_are_read() -> None:
    line = (
        "Topic: t\tPartitionCount: 1\tReplicationFactor: 3\tConfigs: \tMarkedForDeletion: true\n"
        "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,2,3\tIsr: 1,2\t"
        "Adding Replicas: 3\tRemoving Replicas: 1\tMarkedForDeletion: true\n"
    )
    assert parse(line) == [Partition("t", 0, 1, (1, 2, 3), frozenset({1, 2}), None)]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("min.insync.replicas=1", 1),
        ("a=b,min.insync.replicas=12,c=d", 12),
        ("not.min.insync.replicas=3", None),
        ("leader.replication.throttled.replicas=0:1,min.insync.replicas=4", 4),
    ],
)
def test_min_isr_of_the_topic(config: str, expected: int | None) -> None:
    text = (
        f"Topic: t\tPartitionCount: 1\tReplicationFactor: 1\tConfigs: {config}\n"
        "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1\tIsr: 1\n"
    )
    assert parse(text)[0].min_isr == expected


@pytest.mark.parametrize(
    "text",
    [
        "Error while executing topic command : timed out",
        "[2026-11-24 10:00:00] WARN something (org.apache.kafka)",
        DESCRIBED[: DESCRIBED.index("\tTopic: orders\tPartition: 1")],
        "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,2\n",
        "\tTopic: t\tPartition: 0\tReplicas: 1,2\tIsr: 1\n",
        "\tTopic: t\tPartition: x\tLeader: 1\tReplicas: 1,2\tIsr: 1\n",
        "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: \tIsr: 1\n",
        "\tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,two\tIsr: 1\n",
    ],
)
def test_anything_else_is_not_decided_upon(text: str) -> None:
    with pytest.raises(DescribeError):
        parse(text)


BROKERS = st.integers(1, 6)


@st.composite
def partitions(draw: st.DrawFn) -> list[Partition]:
    made = []
    for topic in draw(st.lists(st.sampled_from("abcde"), unique=True, max_size=4)):
        min_isr = draw(st.none() | st.integers(1, 4))
        for number in range(draw(st.integers(1, 4))):
            replicas = tuple(draw(st.lists(BROKERS, min_size=1, max_size=5, unique=True)))
            isr = frozenset(draw(st.lists(st.sampled_from(replicas), unique=True)))
            leader = draw(st.sampled_from(sorted(isr))) if isr and draw(st.booleans()) else None
            made.append(Partition(topic, number, leader, replicas, isr, min_isr))
    return made


def render(items: list[Partition], shuffled: random.Random) -> str:
    lines = []
    for topic in dict.fromkeys(item.topic for item in items):
        own = [item for item in items if item.topic == topic]
        configs = ["retention.ms=1", "cleanup.policy=compact,delete"]
        if own[0].min_isr is not None:
            configs.append(f"min.insync.replicas={own[0].min_isr}")
        shuffled.shuffle(configs)
        lines.append(
            f"Topic: {topic}\tTopicId: x\tPartitionCount: {len(own)}\tReplicationFactor: 3\t"
            f"Configs: {','.join(configs)}"
        )
        for item in own:
            isr = sorted(item.isr)
            shuffled.shuffle(isr)
            lines.append(
                f"\tTopic: {topic}\tPartition: {item.number}\tLeader: "
                f"{'none' if item.leader is None else item.leader}\t"
                f"Replicas: {','.join(map(str, item.replicas))}\tIsr: {','.join(map(str, isr))}\t"
                "Elr: N/A\tLastKnownElr: N/A"
            )
    return "\n".join(lines) + "\n"


@given(partitions(), st.randoms(use_true_random=False))
def test_parse_reads_what_kafka_prints(items: list[Partition], shuffled: random.Random) -> None:
    assert parse(render(items, shuffled)) == items


@given(partitions(), st.randoms(use_true_random=False), st.data())
def test_a_missing_partition_is_noticed(
    items: list[Partition], shuffled: random.Random, data: st.DataObject
) -> None:
    lines = render(items, shuffled).splitlines()
    own = [number for number, line in enumerate(lines) if "\tPartition: " in line]
    if not own:
        return
    del lines[data.draw(st.sampled_from(own))]
    with pytest.raises(DescribeError):
        parse("\n".join(lines))


@given(partitions(), BROKERS, st.integers(1, 3))
def test_what_is_allowed_drops_no_partition_below_its_minimum(
    items: list[Partition], broker: int, default: int
) -> None:
    named = {
        (item.partition.topic, item.partition.number) for item in blocked(items, broker, default)
    }
    for item in items:
        minimum = default if item.min_isr is None else item.min_isr
        loses = broker in item.isr
        left = len(item.isr - {broker})
        assert ((item.topic, item.number) in named) == (loses and left < minimum)


@given(partitions(), BROKERS, st.integers(1, 3))
def test_waiting_never_helps_a_partition_with_too_few_replicas(
    items: list[Partition], broker: int, default: int
) -> None:
    for item in blocked(items, broker, default):
        partition = item.partition
        healed = Partition(
            partition.topic, partition.number, partition.replicas[0], partition.replicas,
            frozenset(partition.replicas), partition.min_isr,
        )  # fmt: skip
        assert item.may_pass == (not blocked([healed], broker, default))


@pytest.mark.parametrize(
    ("replicas", "isr", "leader", "reason"),
    [
        ((1, 2, 3), {1, 2}, 2, Reason.AT_LIMIT),
        ((1, 2, 3), {1}, 1, Reason.BELOW_LIMIT),
        ((1, 2, 3), {1}, None, Reason.OFFLINE),
        ((1, 2), {1, 2}, 1, Reason.NEVER_SAFE),
        ((1,), {1}, 1, Reason.NEVER_SAFE),
    ],
)
def test_reasons(
    replicas: tuple[int, ...], isr: set[int], leader: int | None, reason: Reason
) -> None:
    (item,) = blocked([Partition("t", 0, leader, replicas, frozenset(isr))], 1, 2)
    assert (item.reason, item.min_isr) == (reason, 2)


def test_a_broker_out_of_sync_takes_nothing_away() -> None:
    assert blocked([Partition("t", 0, 2, (1, 2, 3), frozenset({2, 3}), 2)], 1, 2) == []
    assert blocked([Partition("t", 0, 2, (1, 2, 3), frozenset({1, 2, 3}), 2)], 4, 2) == []


def test_a_single_copy_is_never_safe_even_with_a_minimum_of_one() -> None:
    (item,) = blocked([Partition("single", 7, 1, (1,), frozenset({1}), 1)], 1, 2)
    assert str(item) == (
        "single-7 has too few replicas ever to spare one: in sync 1 of 1, min.insync.replicas 1"
    )


def test_the_refusal_names_ten_and_counts_the_rest() -> None:
    items = [Partition("t", n, 1, (1, 2, 3), frozenset({1, 2}), 2) for n in range(14)]
    items.append(Partition("single", 0, 1, (1,), frozenset({1}), 1))
    lines = refusal(blocked(items, 1, 2), "kafka1").splitlines()
    assert lines[0] == "kafka1: not restarted, as 15 partitions cannot spare it:"
    assert lines[1].startswith("    single-0 has too few replicas ever")
    assert sum(line.startswith("    t-") for line in lines) == 9
    assert "    and 5 more" in lines
    assert "reassign-partitions" in lines[-3]
    assert "run again then" in lines[-2]
    assert "--data kafka_allow_unsafe_restart=True" in lines[-1]


def test_the_refusal_gives_only_advice_that_helps() -> None:
    single = blocked([Partition("single", 0, 1, (1,), frozenset({1}), 1)], 1, 2)
    text = refusal(single, "kafka1")
    assert text.startswith("kafka1: not restarted, as 1 partition cannot spare it:")
    assert "back in sync" not in text
    lagging = blocked([Partition("t", 0, 1, (1, 2, 3), frozenset({1, 2}), 2)], 1, 2)
    assert "reassign" not in refusal(lagging, "kafka1")


@given(st.lists(BROKERS, unique=True), st.lists(BROKERS), st.none() | BROKERS)
def test_order_is_a_permutation_with_the_controller_last(
    brokers: list[int], running: list[int], controller: int | None
) -> None:
    order = rolling_order(brokers, running, controller)
    assert sorted(order) == sorted(brokers)
    states = [broker in running for broker in order]
    assert states == sorted(states)
    if controller in brokers and controller in running:
        assert order[-1] == controller


def test_all_brokers_start_together_unless_only_some_have_data() -> None:
    names = ["kafka1", "kafka2", "kafka3"]
    assert first_wave([], dict.fromkeys(names, False)) == names
    assert first_wave([], dict.fromkeys(names, True)) == names
    assert first_wave([], {"kafka1": False, "kafka2": True, "kafka3": True}) == names[1:]


def test_a_new_broker_starts_after_those_that_run() -> None:
    assert first_wave(["kafka1"], {"kafka1": True, "kafka2": False}) == ["kafka1"]
    # Whatever its folder looks like, what runs is not one to be kept waiting.
    assert first_wave(["kafka1"], {"kafka1": False, "kafka2": False}) == ["kafka1"]


def test_partitions_that_count_an_empty_broker_as_in_sync() -> None:
    alone = Partition("b", 0, None, (1,), frozenset({1}))
    shared = Partition("a", 0, 2, (1, 2), frozenset({1, 2}))
    dropped = Partition("a", 1, 2, (1, 2), frozenset({2}))
    assert counted_on([shared, dropped, alone], 1) == [alone, shared]
    assert counted_on([shared, dropped, alone], 3) == []


def test_messages_name_the_broker_and_the_remedy() -> None:
    partitions = [Partition("t", n, None, (1,), frozenset({1})) for n in range(12)]
    assert "kafka1: not started" in lost(partitions, "kafka1")
    assert "t-9 and 2 more" in lost(partitions, "kafka1")
    assert "t-0:" in lost(partitions[:1], "kafka1")
    told = unknown("kafka1", "no answer within 60 s")
    assert "kafka1: not restarted" in told
    assert "no answer within 60 s" in told
    assert "the next run goes on with this broker" in told
    assert "nothing was changed" not in told
    assert "while kafka2 runs" in other_port("kafka1", 9193, 9093, ["kafka2"])
    assert "while kafka1, kafka2 run:" in other_port("kafka1", 9193, 9093, ["kafka1", "kafka2"])
    assert "set it back to 7" in other_id("kafka1", 1, 7)
