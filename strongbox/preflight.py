"""Hooks into pyinfra, installed by the project's config.py.

pyinfra has no place of its own for a check of the whole inventory before it connects, so its
`connect_all` is wrapped. Inventories without our groups are left alone.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import click
import gevent
import pyinfra_cli.cli as pyinfra_cli
from pyinfra.api.exceptions import PyinfraError
from pyinfra.connectors.ssh import SSHConnector

from roles.common.session import RunOptions
from roles.common.settings import SettingsError
from strongbox.cluster import BROKERS, ZOOKEEPERS
from strongbox.inventory import declared_cluster
from strongbox.process import no_core_dumps, take_passphrase
from strongbox.site import archive_problems

INTERRUPTED = 130


class PreflightError(PyinfraError):
    """The run was refused before any host was contacted."""


def install() -> None:
    """Checks settings and options before connecting, and makes Ctrl-C exit with 130, not 0."""
    no_core_dumps()
    signal.signal(signal.SIGINT, _interrupted)
    # pyinfra prints the message of its own errors; gevent would print a traceback before that.
    hub = gevent.get_hub()
    if PyinfraError not in hub.NOT_ERROR:
        hub.NOT_ERROR = (*hub.NOT_ERROR, PyinfraError)
    if getattr(pyinfra_cli.connect_all, "strongbox", False):
        return
    connect_all = pyinfra_cli.connect_all

    def checked(state: Any) -> None:
        if ZOOKEEPERS in state.inventory.groups or BROKERS in state.inventory.groups:
            _check(state)
        connect_all(state)

    checked.strongbox = True  # type: ignore[attr-defined]
    pyinfra_cli.connect_all = checked


def _interrupted(_signal: int, _frame: Any) -> None:
    click.echo("interrupted: run the same command again to finish", err=True)
    sys.stdout.flush()
    # Not sys.exit: it is caught by whichever greenlet happens to run, and pyinfra then exits with
    # 0. Closing the connections ends the locks on the hosts.
    os._exit(INTERRUPTED)


def _check(state: Any) -> None:
    params = click.get_current_context().params
    for option, reason in (
        ("no_wait", "it exits with 0 even when every host failed"),
        ("serial", "the deploys order hosts themselves and wait for each other at barriers"),
    ):
        if params.get(option):
            raise PreflightError(f"--{option.replace('_', '-')} cannot be used here: {reason}")
    cluster, problems = None, []
    try:
        cluster = declared_cluster(state.inventory)
    except SettingsError as error:
        problems += str(error).splitlines()
    problems += _host_keys(state.inventory)
    if cluster is not None:
        take_passphrase(cluster)
        problems += archive_problems(cluster)
    if problems:
        raise PreflightError(
            "the inventory was refused, no host was contacted:\n"
            + "\n".join(f"    {line}" for line in problems)
        )
    state.strongbox_cluster = cluster
    state.strongbox_options = RunOptions(dry=bool(params.get("dry")))


def _host_keys(inventory: Any) -> list[str]:
    """pyinfra's default believes whoever answers first, and beats what ~/.ssh/config says."""
    weaker: dict[str, list[str]] = {}
    for host in inventory:
        if isinstance(host.connector, SSHConnector):
            checking = host.connector.data["ssh_strict_host_key_checking"]
            if checking != "yes":
                weaker.setdefault(checking, []).append(host.name)
    return [
        f"{', '.join(sorted(names))}: ssh_strict_host_key_checking is {checking!r}, so another "
        'machine could take the host\'s place: set it to "yes" in group_data/all.py, and put the '
        "host's key into known_hosts: ssh-keyscan prints it, ssh-keygen -lf its fingerprint, to "
        "be compared with the one that the host's console shows"
        for checking, names in weaker.items()
    ]
