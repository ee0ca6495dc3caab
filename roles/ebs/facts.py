"""What a host has of EBS volumes: NVMe disks by serial, mounts, and what was verified before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.facts import FactBase
from typing_extensions import override

from roles.common.facts import END, complete, shell_words
from roles.ebs.plan import NvmeDisk

ROOT = ""
_SCRIPTS = Path(__file__).parent / "scripts"


def script(name: str, *arguments: str) -> StringCommand:
    """One of the role's scripts, for root, with its arguments; its text is an argument of sh."""
    text = (_SCRIPTS / name).read_text()
    return StringCommand("sh -c", QuoteString(text), QuoteString(name), *shell_words(arguments))


@dataclass(frozen=True)
class Seen:
    """
    :param mounted: device by mount point, of those asked for.
    :param verified: ARN of the key by volume id, as /etc/strongbox/ebs-verified has it.
    """

    disks: tuple[NvmeDisk, ...]
    mounted: Mapping[str, str]
    running: bool
    verified: Mapping[str, str]


def parse(lines: Sequence[str]) -> Seen:
    rows = [line.split("\t") for line in lines]
    return Seen(
        tuple(NvmeDisk(*row[1:]) for row in rows if row[0] == "nvme" and len(row) == 4),
        {row[1]: row[2] for row in rows if row[0] == "mounted" and len(row) == 3},
        ["running"] in rows,
        {row[1]: row[2] for row in rows if row[0] == "verified" and len(row) == 3},
    )


class HostDisks(FactBase[Seen | None]):
    """
    NVMe disks, mounts, the unit's state and the verified volumes.

    + unit: systemd unit that uses the volumes
    + targets: mount points to look at
    """

    @override
    def command(self, unit: str, targets: Sequence[str]) -> StringCommand:
        return StringCommand(script("look.sh", ROOT, unit, *targets), "&& echo", END)

    @override
    def process(self, output: list[str]) -> Seen | None:
        lines = complete(output)
        return None if lines is None else parse(lines)


class Succeeds(FactBase[bool | None]):
    """
    Whether a shell command succeeds.

    + what: the command; it must not hang
    """

    @override
    def command(self, what: str) -> StringCommand:
        return StringCommand(f"if {what}; then echo yes; else echo no; fi; echo {END}")

    @override
    def process(self, output: list[str]) -> bool | None:
        lines = complete(output)
        return None if lines is None else "yes" in lines
