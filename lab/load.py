"""Real messages through the cluster: an idempotent producer and a consumer that checks every one.

Runs inside the lab's network (``python -m lab exec -- python -m lab.load …``). Bounded in count and
time, and ends by itself. Prints one JSON object: what was sent, received, lost, duplicated, out of
order, failed, and how long deliveries took.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

MAX_SECONDS = 900
READY_S = 60.0


@dataclass
class Report:
    """Counts of messages; latencies in milliseconds from produce call to acknowledgement.

    ``fault`` says why nothing could be counted. ``client_errors`` are what the clients got over by
    themselves, such as a broker that restarted.
    """

    sent: int = 0
    acknowledged: int = 0
    received: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    fault: str = ""
    produce_errors: list[str] = field(default_factory=list)
    client_errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    messages_per_second: float = 0.0
    latency_p50_ms: float = 0.0
    latency_p99_ms: float = 0.0
    latency_max_ms: float = 0.0

    @property
    def good(self) -> bool:
        return 0 < self.sent == self.acknowledged == self.received and not (
            self.fault or self.lost or self.duplicated or self.out_of_order or self.produce_errors
        )


def read_properties(path: Path) -> dict[str, str]:
    """A librdkafka properties file: ``key=value`` lines, ``#`` comments."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def prepare(
    admin: dict[str, str], topic: str, principal: str, partitions: int, replicas: int
) -> None:
    """Makes the topic and allows the principal to write and read it; both may exist already."""
    client = AdminClient(dict(admin))
    made = client.create_topics([NewTopic(topic, partitions, replicas)])[topic]
    try:
        made.result(60)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
    allowed = [
        (ResourceType.TOPIC, topic, AclOperation.WRITE),
        (ResourceType.TOPIC, topic, AclOperation.READ),
        (ResourceType.TOPIC, topic, AclOperation.DESCRIBE),
        (ResourceType.GROUP, topic, AclOperation.READ),
    ]
    bindings = [
        AclBinding(
            kind, name, ResourcePatternType.LITERAL, principal, "*", operation,
            AclPermissionType.ALLOW,
        )
        for kind, name, operation in allowed
    ]  # fmt: skip
    for created in client.create_acls(bindings).values():
        created.result(60)


class _Receiver(threading.Thread):
    """Consumes until everything acknowledged was seen, or nothing came for a while."""

    def __init__(self, client: dict[str, str], topic: str, run: str, partitions: int) -> None:
        super().__init__(daemon=True)
        self.topic, self.run_id = topic, run
        self.seen: dict[int, int] = defaultdict(int)
        self.last: dict[int, int] = {}
        self.out_of_order = 0
        self.errors: list[str] = []
        self.ready = threading.Event()  # set after a fault too
        self.fault = ""
        self.expected: int | None = None
        self.deadline = time.monotonic() + MAX_SECONDS
        self.consumer = Consumer(
            client
            | {
                "group.id": topic,
                "auto.offset.reset": "latest",
                "enable.auto.commit": "false",
                "error_cb": self._error,
            }
        )
        self.partitions = partitions

    def _error(self, error: Any) -> None:
        self.errors.append(str(error))

    def _ends(self) -> list[TopicPartition]:
        """Where each partition ends, once the brokers know the topic and who may read it.

        They learn of both a moment after the request that made them was answered.
        """
        deadline = time.monotonic() + READY_S
        while True:
            try:
                # Asks anew: a client that once heard of no such topic asks again only much later.
                self.consumer.list_topics(self.topic, timeout=10)
                parts = [TopicPartition(self.topic, number) for number in range(self.partitions)]
                for part in parts:
                    part.offset = self.consumer.get_watermark_offsets(part, timeout=10)[1]
                return parts
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                self.consumer.poll(0.2)

    def run(self) -> None:
        try:
            # Offsets are taken before the first message is sent, so none can be missed by a race.
            self.consumer.assign(self._ends())
            self.ready.set()
            self._receive()
        except Exception as error:
            self.fault = str(error)
        finally:
            self.ready.set()
            self.consumer.close()

    def _receive(self) -> None:
        while time.monotonic() < self.deadline:
            message = self.consumer.poll(0.5)
            if message is None:
                if self.expected is not None and len(self.seen) >= self.expected:
                    break
                continue
            if message.error():
                self.errors.append(str(message.error()))
                continue
            value, partition = message.value(), message.partition()
            if value is None or partition is None:
                continue
            run, count, *_ = value.decode().split(":")
            if run != self.run_id:
                continue
            sequence = int(count)
            self.seen[sequence] += 1
            if sequence <= self.last.get(partition, -1) and self.seen[sequence] == 1:
                self.out_of_order += 1
            self.last[partition] = max(sequence, self.last.get(partition, -1))


def run(
    client: dict[str, str],
    topic: str,
    *,
    messages: int,
    partitions: int,
    rate: float = 0.0,
    size: int = 100,
    until: Path | None = None,
    compression: str = "none",
) -> Report:
    """Sends and receives, both at once.

    :param messages: how many at most.
    :param rate: messages for each second, 0 for as fast as possible.
    :param size: bytes of each message's value, about.
    :param compression: codec of the producer, as in ``compression.type``.
    :param until: ends earlier, once this file exists.
    """
    run_id = f"{time.time_ns():x}"
    report = Report()
    receiver = _Receiver(client, topic, run_id, partitions)
    receiver.start()
    receiver.ready.wait(READY_S + 30)
    if receiver.fault or not receiver.ready.is_set():
        report.fault = f"the consumer was not ready: {receiver.fault or 'no answer'}"
        report.client_errors = receiver.errors
        return report
    producer = Producer(
        client
        | {
            "enable.idempotence": "true",
            "acks": "all",
            "linger.ms": "5",
            "compression.type": compression,
            "delivery.timeout.ms": "120000",
            "error_cb": lambda error: report.client_errors.append(str(error)),
        }
    )
    latencies: list[float] = []

    def delivered(started: float) -> Any:
        def callback(error: Any, _message: Any) -> None:
            if error is not None:
                report.produce_errors.append(str(error))
            else:
                report.acknowledged += 1
                latencies.append((time.monotonic() - started) * 1000)

        return callback

    padding = "x" * max(0, size - 30)
    began = time.monotonic()
    while report.sent < messages and time.monotonic() - began < MAX_SECONDS:
        if until is not None and until.exists():
            break
        behind = (time.monotonic() - began) * rate - report.sent if rate else 1.0
        if behind < 1:
            producer.poll((1 - behind) / rate)
            continue
        now = time.monotonic()
        try:
            producer.produce(
                topic,
                f"{run_id}:{report.sent}:{padding}".encode(),
                partition=report.sent % partitions,
                on_delivery=delivered(now),
            )
            report.sent += 1
        except BufferError:
            producer.poll(0.05)
            continue
        producer.poll(0)
    producer.flush(130)
    report.seconds = round(time.monotonic() - began, 2)
    receiver.expected = report.acknowledged
    receiver.deadline = min(receiver.deadline, time.monotonic() + 60)
    receiver.join(70)
    report.fault = receiver.fault
    report.received = len(receiver.seen)
    report.duplicated = sum(count - 1 for count in receiver.seen.values())
    report.lost = report.acknowledged - report.received
    report.out_of_order = receiver.out_of_order
    report.client_errors += receiver.errors
    latencies.sort()
    if latencies:
        report.latency_p50_ms = round(latencies[len(latencies) // 2], 1)
        report.latency_p99_ms = round(latencies[int(len(latencies) * 0.99)], 1)
        report.latency_max_ms = round(latencies[-1], 1)
    report.messages_per_second = round(report.acknowledged / max(report.seconds, 0.001), 1)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--admin", type=Path, help="librdkafka properties of an operator")
    parser.add_argument("--client", type=Path, required=True, help="librdkafka properties")
    parser.add_argument("--principal", default="User:demo", help="who is allowed the topic")
    parser.add_argument("--topic", default="hello")
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--partitions", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.0, help="messages a second, 0: no limit")
    parser.add_argument("--size", type=int, default=100, help="bytes a message")
    parser.add_argument("--compression", default="none", help="gzip, lz4, snappy or zstd")
    parser.add_argument("--until", type=Path, help="end once this file exists")
    arguments = parser.parse_args()
    if arguments.admin:
        prepare(
            read_properties(arguments.admin),
            arguments.topic,
            arguments.principal,
            arguments.partitions,
            arguments.replicas,
        )
    report = run(
        read_properties(arguments.client),
        arguments.topic,
        messages=arguments.messages,
        partitions=arguments.partitions,
        rate=arguments.rate,
        size=arguments.size,
        until=arguments.until,
        compression=arguments.compression,
    )
    print(json.dumps(asdict(report)))
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
