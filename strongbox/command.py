"""What the subcommands of ``strongbox`` share: the inventory, and errors as one line each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from roles.common.settings import SettingsError
from strongbox.cluster import Cluster
from strongbox.inventory import read_cluster
from strongbox.process import take_passphrase

IN_STEP, COULD_NOT_TELL, DRIFTED = 0, 1, 2
inventory_option = click.option(
    "-i",
    "--inventory",
    envvar="STRONGBOX_INVENTORY",
    required=True,
    help="Inventory that declares the cluster, e.g. inventories/lab.py "
    "(or set STRONGBOX_INVENTORY).",
)


class OneLine(click.ClickException):
    """An error shown as one line, exit code 1."""

    def show(self, file: object = None) -> None:
        for line in self.message.splitlines():
            click.echo(f"strongbox: {line}", err=True)


@contextmanager
def _usage_errors_exit_with_1() -> Iterator[None]:
    """click's own exit code for them is 2, which here means drift."""
    try:
        yield
    except click.UsageError as error:
        error.exit_code = COULD_NOT_TELL  # type: ignore[misc]
        raise


class Commands(click.Group):
    """A group of commands whose exit code is never 2 unless they say so."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _usage_errors_exit_with_1():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _usage_errors_exit_with_1():
            return super().invoke(ctx)


def declared(inventory: str) -> Cluster:
    """The cluster of an inventory.

    :raises OneLine: when it is refused.
    """
    try:
        cluster = read_cluster(inventory)
    except SettingsError as error:
        raise OneLine(str(error)) from None
    take_passphrase(cluster)
    return cluster
