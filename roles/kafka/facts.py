"""What a broker runs, and what the cluster says of its partitions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from pyinfra.api.command import StringCommand
from pyinfra.api.facts import FactBase
from typing_extensions import override

from roles.common.facts import END, complete
from roles.common.service import Service, parse_service, service_script


@dataclass(frozen=True)
class Observed:
    """The unit and the digest over the key and trust stores as they lie on disk now."""

    service: Service
    stores: str


class KafkaState(FactBase[Observed | None]):
    """
    The unit's state and the present digest of its stores.

    + stores_digest: shell command that prints one SHA-256 over the store files
    """

    @override
    def command(self, stores_digest: str) -> StringCommand:
        return StringCommand(
            service_script("kafka"), f"; printf 'stores-now '; {stores_digest}; echo {END}"
        )

    @override
    def process(self, output: list[str]) -> Observed | None:
        lines = complete(output)
        if lines is None:
            return None
        stores = [line.split()[1] for line in lines if re.match(r"stores-now [0-9a-f]{64}", line)]
        return Observed(parse_service(lines), stores[0] if stores else "")


class TopicDescriptions(FactBase[str | None]):
    """What ``kafka-topics --describe`` says of every partition; starts a JVM, so read it rarely."""

    @override
    def command(self, timeout_s: int) -> StringCommand:
        return StringCommand(
            # Exit code 0 either way: that it cannot tell is an answer, which each caller judges.
            f"timeout {timeout_s} kafka-cli topics --describe 2>/dev/null && echo {END} || :"
        )

    @override
    def process(self, output: list[str]) -> str | None:
        lines = complete(output)
        return None if lines is None else "\n".join(lines)


class ActiveController(FactBase[int | None]):
    """Broker id of the active controller, from ZooKeeper's ``/controller``; starts a JVM."""

    @override
    def command(self, timeout_s: int) -> StringCommand:
        return StringCommand(
            f"timeout {timeout_s} kafka-cli zookeeper-shell get /controller 2>/dev/null; echo {END}"
        )

    @override
    def process(self, output: list[str]) -> int | None:
        for line in complete(output) or []:
            if line.startswith("{") and '"brokerid"' in line:
                return int(json.loads(line)["brokerid"])
        return None
