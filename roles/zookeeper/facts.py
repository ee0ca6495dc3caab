"""What a ZooKeeper host runs: one remote command."""

from __future__ import annotations

from dataclasses import dataclass

from pyinfra.api.command import StringCommand
from pyinfra.api.facts import FactBase
from typing_extensions import override

from roles.common.facts import END, complete
from roles.common.service import Service, parse_service, service_script


@dataclass(frozen=True)
class Observed:
    """The unit, whether the server was ever in a quorum, and srvr's and mntr's answers."""

    service: Service
    has_data: bool
    answer: str


class ZookeeperState(FactBase[Observed | None]):
    """
    The unit's state and the server's own words, asked over mutual TLS.

    + data_dir: folder that holds ``version-2``
    + four_letter: shell command that prints srvr's and mntr's answers; it must not hang
    """

    @override
    def command(self, data_dir: str, four_letter: str) -> StringCommand:
        return StringCommand(
            service_script("zookeeper"),
            f"; epoch=$(cat {data_dir}/version-2/currentEpoch 2>/dev/null || echo 0); "
            # A server that was ever alone stays at epoch 0 and has transactions all the same.
            f'if [ "$epoch" != 0 ] || ls {data_dir}/version-2/log.* >/dev/null 2>&1; '
            "then echo has-data; fi; "
            f"if systemctl is-active --quiet zookeeper; then {{ {four_letter}; }} 2>/dev/null "
            f"| sed 's/^/answer /'; fi; echo; echo {END}",
        )

    @override
    def process(self, output: list[str]) -> Observed | None:
        lines = complete(output)
        if lines is None:
            return None
        answer = [line.removeprefix("answer ") for line in lines if line.startswith("answer ")]
        return Observed(parse_service(lines), "has-data" in lines, "\n".join(answer))
