"""Whether a topic still has the messages that `lab.load` sent: read from its beginning.

Prints one line; exit code 0 when all are there.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition

from lab.load import read_properties

_PATIENCE_S = 120.0


def count(client: dict[str, str], topic: str, expected: int) -> int:
    """How many different messages there are, at most as many as expected.

    :raises KafkaException: when the topic cannot be read.
    """
    consumer = Consumer(
        client | {"group.id": topic, "enable.auto.commit": "false", "auto.offset.reset": "earliest"}
    )
    seen: set[bytes] = set()
    try:
        parts = consumer.list_topics(topic, timeout=60).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in parts])
        deadline = time.monotonic() + _PATIENCE_S
        while len(seen) < expected and time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is not None and not message.error() and (value := message.value()):
                seen.add(value)
    finally:
        consumer.close()
    return len(seen)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", type=Path, required=True, help="librdkafka properties")
    parser.add_argument("--topic", default="hello")
    parser.add_argument("--messages", type=int, required=True, help="that were acknowledged")
    arguments = parser.parse_args()
    try:
        found = count(read_properties(arguments.client), arguments.topic, arguments.messages)
    except KafkaException as error:
        print(f"topic {arguments.topic} cannot be read: {error}", file=sys.stderr)
        return 1
    print(f"{found} of {arguments.messages} messages are in topic {arguments.topic}")
    return 0 if found == arguments.messages else 1


if __name__ == "__main__":
    sys.exit(main())
