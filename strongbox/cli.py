"""The ``strongbox`` command: what an operator does beside ``pyinfra INVENTORY DEPLOY``."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from roles.tls import authority, client_bundle, passphrase, stores
from roles.tls.authority import AuthorityError, Keyring
from roles.tls.leaf import LeafError
from roles.tls.passphrase import PassphraseError
from roles.tls.plan import summary
from roles.tls.settings import TlsSettings
from strongbox import drift as drifting
from strongbox.cluster import Cluster
from strongbox.command import (
    COULD_NOT_TELL,
    DRIFTED,
    IN_STEP,
    Commands,
    OneLine,
    declared,
    inventory_option,
)
from strongbox.custody_cli import custody
from strongbox.process import no_core_dumps


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
def main() -> None:
    """Authorities, custody, client identities and checks of a cluster made by kafka-strongbox.

    \b
    A new cluster, in order:
      strongbox ca init -i INVENTORY             three authorities, keys encrypted on this machine
      strongbox custody init --identity FILE     an identity that unwraps volume keys (local)
      pyinfra INVENTORY deploys/site.py          ZooKeeper and Kafka, every connection TLS
      strongbox client -i INVENTORY admin --operator   identity for administering it
      strongbox client -i INVENTORY NAME         identity for an application
      strongbox drift INVENTORY deploys/site.py  is everything still as declared? (CI, cron)

    Run it in the project's folder, as pyinfra is.
    """
    no_core_dumps()


main.add_command(custody)


@main.command()
@click.argument("inventory")
@click.argument("deploy")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing when everything is as declared.")
def drift(inventory: str, deploy: str, quiet: bool) -> None:
    """Compares the hosts with what DEPLOY would make of them; changes nothing.

    \b
    Exit code 0  everything is as declared
              1  could not tell: a host is down, or the declaration or the command was refused
              2  drift; each operation that would change something is listed with its hosts

    \b
    Example, as a cron line that mails only when something is wrong:
      0 6 * * *  cd /etc/kafka-strongbox && strongbox drift inventories/prod.py deploys/site.py -q
    """
    console = Console(highlight=False)
    try:
        found = drifting.detect(inventory, deploy, quiet)
    except drifting.DriftUnknown as error:
        click.echo(f"strongbox: could not tell: {error}", err=True)
        sys.exit(COULD_NOT_TELL)
    if not found:
        if not quiet:
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


def _tls(cluster: Cluster) -> TlsSettings:
    return next(iter(cluster.nodes.values())).tls


@main.group()
def ca() -> None:
    """The three authorities of a cluster: cluster, zookeeper and clients.

    \b
    cluster    signs brokers and operators; only the INTERNAL listener trusts it
    zookeeper  signs ensemble members, and brokers as their clients; only ZooKeeper trusts it
    clients    signs applications and the CLIENT listener; only that listener trusts it

    A certificate of one is refused where another is trusted, so an application's certificate opens
    neither ZooKeeper nor the INTERNAL listener. The keys lie in tls_authority_dir on this machine,
    encrypted with age under one passphrase (scrypt); the files are safe to commit and to back up.
    """


@ca.command(name="init")
@inventory_option
def ca_init(inventory: str) -> None:
    """Makes the authorities that are missing; never overwrites one.

    The passphrase comes from tls_passphrase_file, tls_passphrase_command or the environment
    variable that tls_passphrase_env names (STRONGBOX_CA_PASSPHRASE). Keep a copy elsewhere: without
    it no certificate can be issued or renewed.
    """
    cluster = declared(inventory)
    settings = _tls(cluster)
    try:
        secret = passphrase.read(settings.passphrase_source)
        passphrase.require_strong(secret)
        authorities = authority.create(
            settings.authority_dir,
            cluster.name,
            secret,
            datetime.datetime.now(datetime.UTC),
            days=settings.authority_days,
            key_type=settings.key_type,
        )
    except authority.AlreadyThere as error:
        click.echo(f"nothing to do: {error}")
        return
    except (AuthorityError, PassphraseError) as error:
        raise OneLine(str(error)) from None
    _show_authorities(authorities)


@ca.command(name="show")
@inventory_option
def ca_show(inventory: str) -> None:
    """Lists the authorities: generation, days left, fingerprint; needs no passphrase."""
    cluster = declared(inventory)
    try:
        _show_authorities(authority.load(_tls(cluster).authority_dir, cluster.name))
    except AuthorityError as error:
        raise OneLine(str(error)) from None


def _show_authorities(authorities: authority.Authorities) -> None:
    now = datetime.datetime.now(datetime.UTC)
    table = Table("subject", "days left", "sha256", box=None, pad_edge=False)
    for generations in authorities.generations.values():
        for item in generations:
            certificate = item.certificate
            table.add_row(
                certificate.subject.rfc4514_string(),
                str((certificate.not_valid_after_utc - now).days),
                stores.fingerprint(certificate),
            )
    Console(highlight=False, width=140).print(table)


@main.command()
@inventory_option
@click.argument("name")
@click.option("--operator", is_flag=True, help="A person or tool that administers the cluster.")
@click.option("--out", default="clients", show_default=True, type=click.Path(path_type=Path),
              help="Folder in which the folder NAME is made.")  # fmt: skip
@click.option("--days", default=None, type=click.IntRange(1, 825), help="Default: tls_leaf_days.")
@click.option("--renew", is_flag=True, help="Replace the bundle that is there.")
@click.option("--location", default="", help="Where the bundle will lie on the client's machine, "
              "for the paths in its files.")  # fmt: skip
def client(
    inventory: str,
    name: str,
    operator: bool,
    out: Path,
    days: int | None,
    renew: bool,
    location: str,
) -> None:
    """Issues an identity: key, certificate and ready properties for Java and librdkafka.

    \b
    An application NAME becomes the principal User:NAME and connects to the CLIENT listener. It may
    do nothing until ACLs allow it, e.g. on a broker:
      kafka-cli acls --add --allow-principal User:NAME --producer --topic orders
    With --operator it becomes User:NAME@operators and connects to the INTERNAL listener; it is a
    super user when it is admin, or named in kafka_super_users.

    The folder NAME holds private keys: mode 0700, files 0600. It exists only here; hand it over by
    a safe way and delete it.
    """
    cluster = declared(inventory)
    settings = _tls(cluster)
    port = "internal_port" if operator else "client_port"
    bootstrap = [
        f"{node.common.hostname}:{getattr(node.kafka, port)}" for node in cluster.brokers.values()
    ]
    try:
        bundle = client_bundle.create(
            out,
            name,
            authority.load(settings.authority_dir, cluster.name),
            Keyring(lambda: passphrase.read(settings.passphrase_source)),
            datetime.timedelta(days=days or settings.leaf_days),
            datetime.datetime.now(datetime.UTC),
            operator=operator,
            bootstrap=bootstrap,
            location=location,
            renew=renew,
            key_type=settings.key_type,
        )
    except (AuthorityError, PassphraseError, LeafError, client_bundle.BundleError) as error:
        raise OneLine(str(error)) from None
    click.echo(f"{bundle.folder}: {bundle.principal}")
    for line in summary(bundle.certificate):
        click.echo(f"  {line}")
