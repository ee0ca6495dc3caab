"""In which order brokers restart, and which partitions forbid it.

Pure: works on the output of ``kafka-topics --describe``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

_SHOWN = 10


class DescribeError(Exception):
    """Output that is not a complete ``kafka-topics --describe``; nothing is decided on it."""


@dataclass(frozen=True)
class Partition:
    """A partition as the controller sees it.

    ``leader`` is None while it is offline; ``min_isr`` None when the topic does not say, as it is
    then the brokers' default.
    """

    topic: str
    number: int
    leader: int | None
    replicas: tuple[int, ...]
    isr: frozenset[int]
    min_isr: int | None = None

    def __str__(self) -> str:
        return f"{self.topic}-{self.number}"


_MIN_ISR = re.compile(r"(?:^|,)min\.insync\.replicas=(\d+)(?=,|$)")


def parse(output: str) -> list[Partition]:
    """Reads what ``kafka-topics --describe`` prints.

    :raises DescribeError: for a line that is none of its, a number that is missing, or a topic
        with fewer partitions than it has: a cut-off answer must not pass for a short one.
    """
    partitions: list[Partition] = []
    expected: dict[str, int] = {}
    min_isr: dict[str, int] = {}
    for line in output.splitlines():
        if not line.strip():
            continue
        fields = _fields(line)
        topic = fields.get("Topic", "")
        if not topic:
            raise DescribeError(f"not a line of kafka-topics --describe: {line.strip()[:80]!r}")
        if "PartitionCount" in fields:
            expected[topic] = _number(fields, "PartitionCount", line)
            found = _MIN_ISR.search(fields.get("Configs", ""))
            if found:
                min_isr[topic] = int(found[1])
        else:
            partitions.append(_partition(topic, fields, min_isr.get(topic), line))
    for topic, count in expected.items():
        seen = {partition.number for partition in partitions if partition.topic == topic}
        if len(seen) != count:
            raise DescribeError(f"topic {topic} has {count} partitions, {len(seen)} are described")
    return partitions


def _fields(line: str) -> dict[str, str]:
    """``Name: value`` pairs between tabs; a value may be empty and may hold colons."""
    fields = {}
    for item in line.strip("\r\n").split("\t"):
        name, colon, value = item.partition(":")
        if colon:
            fields[name.strip()] = value.strip()
    return fields


def _number(fields: dict[str, str], name: str, line: str) -> int:
    try:
        return int(fields[name])
    except (KeyError, ValueError):
        raise DescribeError(f"no {name} in {line.strip()[:80]!r}") from None


def _brokers(fields: dict[str, str], name: str, line: str) -> tuple[int, ...]:
    try:
        return tuple(int(item) for item in fields[name].split(",") if item)
    except (KeyError, ValueError):
        raise DescribeError(f"no {name} in {line.strip()[:80]!r}") from None


def _partition(topic: str, fields: dict[str, str], min_isr: int | None, line: str) -> Partition:
    if "Leader" not in fields:
        raise DescribeError(f"no Leader in {line.strip()[:80]!r}")
    offline = fields["Leader"] in ("none", "-1", "")
    replicas = _brokers(fields, "Replicas", line)
    if not replicas:
        raise DescribeError(f"no Replicas in {line.strip()[:80]!r}")
    return Partition(
        topic,
        _number(fields, "Partition", line),
        None if offline else _number(fields, "Leader", line),
        replicas,
        frozenset(_brokers(fields, "Isr", line)),
        min_isr,
    )


class Reason(Enum):
    """Why a partition forbids the restart of a broker that has a copy of it."""

    AT_LIMIT = "has no in-sync replica to spare"
    BELOW_LIMIT = "has too few in-sync replicas already"
    OFFLINE = "is offline"
    NEVER_SAFE = "has too few replicas ever to spare one"


@dataclass(frozen=True)
class Blocked:
    """A partition that would have fewer than ``min_isr`` in-sync replicas."""

    partition: Partition
    min_isr: int
    reason: Reason

    @property
    def may_pass(self) -> bool:
        """Whether waiting can help: some replica may still be catching up."""
        return self.reason is not Reason.NEVER_SAFE

    def __str__(self) -> str:
        partition = self.partition
        return (
            f"{partition} {self.reason.value}: in sync {len(partition.isr)} of "
            f"{len(partition.replicas)}, min.insync.replicas {self.min_isr}"
        )


def blocked(partitions: Iterable[Partition], broker: int, default_min_isr: int) -> list[Blocked]:
    """Partitions that would fall (further) below their min.insync.replicas without *broker*.

    A broker that is not in a partition's in-sync replicas takes nothing from it. Sorted so that
    those that will never pass come first.
    """
    found = []
    for partition in partitions:
        min_isr = default_min_isr if partition.min_isr is None else partition.min_isr
        # A min.insync.replicas of 0 does not exist, but an offline partition always is a loss.
        needed = max(min_isr, 1)
        if broker not in partition.isr or len(partition.isr) - 1 >= needed:
            continue
        found.append(Blocked(partition, min_isr, _reason(partition, needed)))
    return sorted(
        found, key=lambda item: (item.may_pass, item.partition.topic, item.partition.number)
    )


def _reason(partition: Partition, needed: int) -> Reason:
    if len(set(partition.replicas)) <= needed:
        return Reason.NEVER_SAFE
    if partition.leader is None:
        return Reason.OFFLINE
    return Reason.AT_LIMIT if len(partition.isr) >= needed else Reason.BELOW_LIMIT


def refusal(found: Sequence[Blocked], broker: str) -> str:
    """The message for the operator: which partitions, at most ten of them, and what to do."""
    count = len(found)
    lines = [
        f"{broker}: not restarted, as {count} partition{'s' if count != 1 else ''} cannot spare it:"
    ]
    lines += [f"    {item}" for item in found[:_SHOWN]]
    if count > _SHOWN:
        lines.append(f"    and {count - _SHOWN} more")
    if any(not item.may_pass for item in found):
        lines.append(
            "    A partition with too few replicas never can: give the topic more replicas "
            "(kafka-cli reassign-partitions) or, if it has several, a lower min.insync.replicas "
            "(kafka-cli configs)."
        )
    if any(item.may_pass for item in found):
        lines.append("    The others can once their replicas are back in sync: run again then.")
    lines.append(
        "    To restart all the same, while these refuse writes or are offline: "
        "--data kafka_allow_unsafe_restart=True"
    )
    return "\n".join(lines)


def unknown(broker: str, problem: str) -> str:
    """The message when nobody could tell which partitions can spare the broker."""
    return (
        f"{broker}: not restarted, as kafka-cli could not tell whether its partitions can spare "
        f"it: {problem}\n"
        f"    {broker} goes on with what it started with; its new configuration and certificates "
        "are in place. Once `sudo kafka-cli topics --describe` works there, run again: the next "
        "run goes on with this broker.\n"
        "    To restart it all the same: --data kafka_allow_unsafe_restart=True"
    )


def other_id(broker: str, declared: int, found: int) -> str:
    """The message for a broker whose data belongs to another id."""
    return (
        f"{broker}: kafka_broker_id is {declared}, but its data folder is that of broker {found}, "
        f"and Kafka would not start with it: set it back to {found}. A broker with another number "
        "is a new one: to have it, move all partitions away from this one (kafka-cli "
        "reassign-partitions), stop Kafka there and empty its data folder."
    )


def left_out(broker: str, folders: Sequence[str]) -> str:
    """The message for folders that the configuration no longer names, with partitions in them."""
    return (
        f"{broker}: {', '.join(folders)} hold{'s' if len(folders) == 1 else ''} partitions and "
        "would no longer be read: declare the volume again, or first move its partitions to "
        "another broker (kafka-cli reassign-partitions)."
    )


def other_port(brokers: str, declared: int, present: int, running: Sequence[str]) -> str:
    """The message for a port that cannot change while brokers run."""
    return (
        f"{brokers}: kafka_internal_port cannot change from {present} to {declared} while "
        f"{', '.join(running)} run{'s' if len(running) == 1 else ''}: kafka-cli, and with it the "
        "gate before each restart, would look for all brokers on the new port. Set it back to "
        f"{present}, or stop all brokers first (sudo systemctl stop kafka on each) and run again."
    )


def first_wave(running: Collection[str], has_data: Mapping[str, bool]) -> list[str]:
    """Brokers that start before the others do: those that have data, if any has.

    After a loss of power, ZooKeeper still counts every broker as in sync. One that starts beside
    the others with an empty folder, because its volume is not mounted, may become leader again,
    and its followers then throw away what they have.

    :param running: have data, or none has.
    :param has_data: of every broker.
    """
    full = [name for name, has in has_data.items() if has or name in running]
    return sorted(full or has_data)


def counted_on(partitions: Iterable[Partition], broker: int) -> list[Partition]:
    """Partitions that count the broker as in sync, those that have no other first."""
    found = [partition for partition in partitions if broker in partition.isr]
    return sorted(found, key=lambda item: (len(item.isr), item.topic, item.number))


def not_asked(broker: str, problem: str) -> str:
    """The message for an empty broker when nobody could tell who counts it as in sync."""
    return (
        f"{broker}: not started, as its data folder is empty, and kafka-cli could not tell whether "
        f"partitions still count it as in sync: {problem}\n"
        "    Start the brokers that have data first, then run again."
    )


def empty_after_all(broker: str) -> str:
    """The message for a broker whose volumes turned out to be empty once they were open."""
    return (
        f"{broker}: not started, as its volumes are open now and hold no data: run "
        "deploys/site.py, which starts such a broker after the others"
    )


def lost(found: Sequence[Partition], broker: str) -> str:
    """The message for an empty broker that alone was in sync in the partitions *found*."""
    names = ", ".join(str(partition) for partition in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return (
        f"{broker}: not started, as its data folder is empty, and it alone has all records of "
        f"{names}{more}: all other copies would be cut down to its own, so mount its volume or "
        "restore the folder, and run again. To give those records up: sudo systemctl start kafka "
        "there, and run again."
    )


def rolling_order(
    brokers: Collection[int], running: Collection[int], controller: int | None
) -> list[int]:
    """Broker ids in the order in which they are restarted: those that don't serve first, as they
    cost nothing, and the active controller last, as its restart moves that role.

    :param running: those that serve.
    :param controller: None when there is none or it is not known.
    """

    def rank(broker: int) -> tuple[int, int]:
        if broker not in running:
            return (0, broker)
        return (2 if broker == controller else 1, broker)

    return sorted(brokers, key=rank)
