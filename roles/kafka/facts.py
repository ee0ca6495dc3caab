"""What a broker runs, and what the cluster says of its partitions."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pyinfra.api.command import StringCommand
from pyinfra.api.facts import FactBase
from typing_extensions import override

from roles.common.facts import END, complete
from roles.common.redact import mask
from roles.common.service import Service, parse_service, service_script


@dataclass(frozen=True)
class Observed:
    """The unit, and what lies on disk now.

    ``stores`` is the digest over the key and trust stores, ``broker_id`` the one in the data (None
    when that names none), ``internal_port`` the one in the configuration (None without one).
    ``silent`` is whether the unit runs but does not answer on its INTERNAL listener. ``log_dirs``
    are those in the configuration (none without one), ``with_partitions`` those of them that hold
    any. ``has_data`` needs each of them to have been Kafka's before: one that has come back empty
    counts as a loss of all, as nobody can tell which partitions were there.
    """

    service: Service
    stores: str
    has_data: bool = False
    broker_id: int | None = None
    internal_port: int | None = None
    silent: bool = False
    log_dirs: tuple[str, ...] = ()
    with_partitions: tuple[str, ...] = ()


class KafkaState(FactBase[Observed | None]):
    """
    The unit's state, what lies on disk, and whether the broker answers.

    + stores_digest: shell command that prints one SHA-256 over the store files
    + log_dirs: folders that hold ``meta.properties``, for a broker without configuration
    + properties: path of the broker's configuration
    + answers: shell command that succeeds when the broker answers; it must not hang
    """

    @override
    def command(
        self, stores_digest: str, log_dirs: Sequence[str], properties: str, answers: str
    ) -> StringCommand:
        return StringCommand(
            service_script("kafka"),
            f"; printf 'stores-now '; {stores_digest}; "
            f"dirs=$(sed -n 's/^log[.]dirs=//p' {properties} 2>/dev/null | tr , ' '); "
            'for d in $dirs; do echo "log-dir $d"; '
            'for p in "$d"/*-[0-9]*/; do [ ! -d "$p" ] || { echo "partitions $d"; break; }; done; '
            f"done; data=; for d in ${{dirs:-{' '.join(log_dirs)}}}; do m=$d/meta.properties; "
            'if [ -e "$m" ]; then data=${data:-yes}; '
            "sed -n 's/^broker[.]id=/broker-id /p' \"$m\"; else data=no; fi; done; "
            '[ "$data" != yes ] || echo has-data; '
            f"sed -n 's|^listeners=INTERNAL://:\\([0-9]*\\).*|internal-port \\1|p' {properties} "
            "2>/dev/null; "
            f"if systemctl is-active --quiet kafka && ! {answers}; then echo silent; fi; "
            f"echo {END}",
        )

    @override
    def process(self, output: list[str]) -> Observed | None:
        lines = complete(output)
        if lines is None:
            return None
        stores = [line.split()[1] for line in lines if re.match(r"stores-now [0-9a-f]{64}", line)]
        return Observed(
            parse_service(lines),
            stores[0] if stores else "",
            has_data="has-data" in lines,
            broker_id=_number(lines, "broker-id"),
            internal_port=_number(lines, "internal-port"),
            silent="silent" in lines,
            log_dirs=_values(lines, "log-dir"),
            with_partitions=_values(lines, "partitions"),
        )


def _values(lines: list[str], name: str) -> tuple[str, ...]:
    return tuple(line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} "))


def _number(lines: list[str], name: str) -> int | None:
    found = [line.split()[1] for line in lines if re.fullmatch(rf"{name} \d+", line)]
    return int(found[0]) if found else None


@dataclass(frozen=True)
class Described:
    """What ``kafka-topics --describe`` printed; None with the reason when it could not tell."""

    partitions: str | None
    problem: str = ""


class TopicDescriptions(FactBase[Described | None]):
    """What ``kafka-topics --describe`` says of every partition; starts a JVM, so read it rarely."""

    @override
    def command(self, timeout_s: int) -> StringCommand:
        # That it cannot tell is an answer too, which each caller judges: its last words on
        # standard error, without the lines of a stack trace, come after what it printed.
        return StringCommand(
            f"{{ {{ timeout {timeout_s} kafka-cli topics --describe && echo {_ALL} || "
            f'{{ [ $? -ne 124 ] || echo "problem no answer within {timeout_s} s"; }}; }} '
            "2>&1 >&3 | grep -v '^[[:space:]]*at ' | tail -n 1 | sed 's/^/problem /'; } 3>&1; "
            f"echo {END}"
        )

    @override
    def process(self, output: list[str]) -> Described | None:
        lines = complete(output)
        if lines is None:
            return None
        if _ALL in lines:
            return Described("\n".join(lines[: lines.index(_ALL)]))
        said = [line.removeprefix("problem ") for line in lines if line.startswith("problem ")]
        return Described(None, "; ".join(map(_masked, said)) or "it gave no reason")


_ALL = "--all--"


def _masked(line: str) -> str:
    return mask(line.encode()).decode(errors="replace")


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
