"""Loads a pyinfra inventory with its group_data, without connecting to anything."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from roles.common.settings import SettingsError
from strongbox.cluster import BROKERS, ZOOKEEPERS, Cluster, Declared, load


def declared_cluster(inventory: Any) -> Cluster:
    """The cluster that a loaded pyinfra inventory declares.

    :raises SettingsError: with one line for each problem.
    """
    from pyinfra.api.connectors import get_all_connectors

    _check_groups(inventory)
    keys = {
        key
        for connector in get_all_connectors().values()  # type: ignore[no-untyped-call]
        for key in connector.data_cls.__annotations__
    }
    # --limit narrows what is done, never what is checked: a role needs to know all hosts.
    return load({host.name: Declared(host.groups, host.data.dict()) for host in inventory}, keys)


def _check_groups(inventory: Any) -> None:
    problems = []
    for name, hosts in inventory.groups.items():
        if not hosts and name not in (ZOOKEEPERS, BROKERS):
            close = difflib.get_close_matches(name, [ZOOKEEPERS, BROKERS], n=1)
            hint = f": did you mean {close[0]!r}?" if close else ""
            problems.append(f"group {name!r} has settings but no host{hint}")
    if problems:
        raise SettingsError("\n".join(problems))


def read_cluster(path: str) -> Cluster:
    """Reads an inventory file the way pyinfra does, from the project's folder.

    :raises SettingsError: when there is no such file, or its settings cannot be used.
    """
    if not Path(path).is_file():
        raise SettingsError(f"inventory {path} does not exist (run this in the project's folder)")
    from pyinfra.api.config import Config
    from pyinfra.api.state import State
    from pyinfra.context import ctx_config, ctx_inventory, ctx_state
    from pyinfra_cli.inventory import make_inventory

    config = Config()  # type: ignore[no-untyped-call]
    with ctx_state.use(State()), ctx_config.use(config):
        inventory = make_inventory(path, cwd=str(Path.cwd()))
        with ctx_inventory.use(inventory):
            return declared_cluster(inventory)
