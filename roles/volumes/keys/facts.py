"""The LUKS headers of a host's volumes: one remote command, which writes to no device."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api.command import StringCommand
from pyinfra.api.exceptions import FactProcessError
from pyinfra.api.facts import FactBase
from typing_extensions import override

from roles.common.facts import END, complete
from roles.volumes.keys.header import Header, HeaderError, parse
from roles.volumes.keys.script import Script


class KeysState(FactBase[dict[str, Header] | None]):
    """
    Headers by device.

    + devices: of the LUKS volumes
    """

    @override
    def command(self, devices: Sequence[str]) -> StringCommand:
        return StringCommand(Script("keys-look", tuple(devices)).command, "&& echo", END)

    @override
    def process(self, output: list[str]) -> dict[str, Header] | None:
        lines = complete(output)
        try:
            return None if lines is None else parse(lines)
        except HeaderError as error:
            raise FactProcessError(str(error)) from None
