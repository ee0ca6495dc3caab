"""The ``strongbox`` command: what an operator does beside ``pyinfra INVENTORY DEPLOY``."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.table import Table

from strongbox import drift as drifting

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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Authorities, client identities and checks of a cluster provisioned by kafka-strongbox.

    \b
    A new cluster, in order:
      strongbox ca init -i INVENTORY             three authorities, keys encrypted on this machine
      pyinfra INVENTORY deploys/site.py          ZooKeeper and Kafka, every connection TLS
      strongbox client -i INVENTORY admin --operator   identity for administering it
      strongbox client -i INVENTORY NAME         identity for an application
      strongbox drift INVENTORY deploys/site.py  is everything still as declared? (CI, cron)

    Run it in the project's folder, as pyinfra is.
    """


@main.command()
@click.argument("inventory")
@click.argument("deploy")
def drift(inventory: str, deploy: str) -> None:
    """Compares the hosts with what DEPLOY would make of them; changes nothing.

    \b
    Exit code 0  everything is as declared
              1  could not tell: a host is down, or the declaration was refused
              2  drift; each operation that would change something is listed with its hosts

    \b
    Example, as a cron line that mails only when something is wrong:
      0 6 * * *  cd /etc/kafka-strongbox && strongbox drift inventories/prod.py deploys/site.py -q
    """
    console = Console(highlight=False)
    try:
        found = drifting.detect(inventory, deploy)
    except drifting.DriftUnknown as error:
        click.echo(f"strongbox: could not tell: {error}", err=True)
        sys.exit(COULD_NOT_TELL)
    if not found:
        console.print("in step: every host is as declared")
        sys.exit(IN_STEP)
    table = Table("would change", "on", box=None, pad_edge=False)
    for item in found:
        table.add_row(item.operation, " ".join(item.hosts))
    console.print(table)
    console.print(f"drift: {len(found)} operations would change something")
    sys.exit(DRIFTED)


@main.command()
@click.option("--markdown", is_flag=True, help="As the page docs/settings.md.")
def settings(markdown: bool) -> None:
    """Lists every setting of every role with its type, default and meaning."""
    from strongbox import reference

    if markdown:
        click.echo(reference.markdown(), nl=False)
        return
    table = Table("setting", "default", "meaning", box=None, pad_edge=False)
    for row in reference.rows():
        table.add_row(row.key, row.default, row.meaning)
    Console().print(table)
