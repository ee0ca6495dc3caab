"""What a ZooKeeper host runs: one remote command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyinfra.api.command import StringCommand
from pyinfra.api.facts import FactBase
from typing_extensions import override

from roles.common.facts import END, complete
from roles.common.service import Service, parse_service, service_script
from roles.zookeeper.members import Configured
from roles.zookeeper.members import parse as parse_configured


@dataclass(frozen=True)
class Observed:
    """The unit, whether the server was ever in a quorum, and srvr's and mntr's answers.

    ``askable`` is whether the host has the stores to ask with; without them there is no answer.
    """

    service: Service
    has_data: bool
    answer: str
    configured: Configured
    askable: bool


class ZookeeperState(FactBase[Observed | None]):
    """
    The unit's state and the server's own words, asked over mutual TLS.

    + data_dir: folder that holds ``version-2`` and ``myid``
    + config: path of zoo.cfg
    + stores: files that *four_letter* needs
    + four_letter: shell command that prints srvr's and mntr's answers; it must not hang
    """

    @override
    def command(
        self, data_dir: str, config: str, stores: Sequence[str], four_letter: str
    ) -> StringCommand:
        return StringCommand(
            service_script("zookeeper"),
            f"; epoch=$(cat {data_dir}/version-2/currentEpoch 2>/dev/null || echo 0); "
            # A server that was ever alone stays at epoch 0 and has transactions all the same.
            f'if [ "$epoch" != 0 ] || ls {data_dir}/version-2/log.* >/dev/null 2>&1; '
            "then echo has-data; fi; "
            f'echo "configured myid $(cat {data_dir}/myid 2>/dev/null)"; '
            "sed -nE 's/^(server\\.|secureClientPort=)/configured &/p' "
            f"{config} 2>/dev/null; "
            f"for s in {' '.join(stores)}; do [ -s $s ] || echo not-askable; done; "
            f"if systemctl is-active --quiet zookeeper; then {{ {four_letter}; }} 2>/dev/null "
            f"| sed 's/^/answer /'; fi; echo; echo {END}",
        )

    @override
    def process(self, output: list[str]) -> Observed | None:
        lines = complete(output)
        if lines is None:
            return None
        answer = [line.removeprefix("answer ") for line in lines if line.startswith("answer ")]
        mark = "configured "
        configured = [line.removeprefix(mark) for line in lines if line.startswith(mark)]
        return Observed(
            parse_service(lines),
            "has-data" in lines,
            "\n".join(answer),
            parse_configured(configured),
            "not-askable" not in lines,
        )
