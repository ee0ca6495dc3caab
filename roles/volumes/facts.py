"""What a host tells of its declared volumes: one remote command, which writes to no device."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.facts import FactBase
from typing_extensions import override

from roles.common.facts import END, complete, shell_words
from roles.volumes import scripts
from roles.volumes.look import Looked, parse


class VolumesState(FactBase[Looked | None]):
    """
    The devices, their content and use, the open mappings, the mount points.

    + volumes: name, device, mapping and mount point of each
    """

    @override
    def command(self, volumes: Sequence[tuple[str, str, str, str]]) -> StringCommand:
        words = [word for volume in volumes for word in volume]
        return StringCommand(
            "sh -c", QuoteString(scripts.text("look")), "look", *shell_words(words), "&& echo", END
        )

    @override
    def process(self, output: list[str]) -> Looked | None:
        lines = complete(output)
        return None if lines is None else parse(lines)
