"""``strongbox custody``: who can unlock the volumes, and what the controller keeps of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from roles.common.settings import SettingsError
from roles.custody import build, identity, kms_policy, recovery
from roles.custody.kms_policy import PolicyError, Principals
from roles.custody.protocol import CustodyError, KeyContext
from roles.custody.records import RecordError, Records
from roles.custody.recovery import RecoveryKeyError
from roles.custody.settings import CustodySettings
from strongbox.cluster import Cluster
from strongbox.command import OneLine, declared, inventory_option
from strongbox.inventory import read_cluster

_ACCOUNT = "arn:aws:iam::ACCOUNT:role/"


@click.group()
def custody() -> None:
    """Who can unwrap the volumes' keys, and the records kept of them on this machine.

    \b
    local    whoever has an age identity of one of custody_recipients
    aws-kms  whoever the policy of the KMS key custody_kms_key lets

    The records in custody_records_dir (wrapped recovery keys, sealed header backups) open nothing
    by themselves and are safe to commit. See docs/custody.md.
    """


@custody.command()
@click.option("-i", "--inventory", envvar="STRONGBOX_INVENTORY", default="",
              help="Adds to the recipients that this inventory has already.")  # fmt: skip
@click.option("--identity", "path", required=True, type=click.Path(path_type=Path),
              help="File to make, mode 0600. Keep it out of version control.")  # fmt: skip
def init(inventory: str, path: Path) -> None:
    """Makes an age identity; never overwrites one.

    Every operator who must be able to unlock alone makes one, and passes on the recipient only.
    Keep a copy where a fire here does not reach: volumes open with an identity or their recovery
    key, and recovery keys are wrapped to the same recipients.
    """
    try:
        recipient = identity.create(path)
    except CustodyError as error:
        raise OneLine(str(error)) from None
    known: tuple[str, ...] = ()
    if inventory:
        try:
            known = _settings(read_cluster(inventory)).recipients
        except SettingsError:
            click.echo(f"note: {inventory} is not complete yet, so it was not read", err=True)
    click.echo(f"{path}: {recipient}")
    click.echo("in group_data/all.py:")
    click.echo(f"  custody_recipients = {json.dumps([*known, recipient])}")
    click.echo(f"  custody_identity_file = {json.dumps(str(path))}")
    if known:
        click.echo("then run `strongbox custody rewrap`: what is wrapped already is not for it yet")


@custody.command()
@inventory_option
def show(inventory: str) -> None:
    """Lists who can unwrap, and the newest record of every volume; asks nobody for a key."""
    cluster = declared(inventory)
    settings = _settings(cluster)
    keeper = build.custody(settings)
    records = Records(settings.records_dir, keeper)
    table = Table("host", "volume", "recovery key", "header backup", "wrapped", box=None,
                  pad_edge=False)  # fmt: skip
    try:
        for context in _contexts(cluster, records):
            recoveries, headers = records.recoveries(context), records.headers(context)
            table.add_row(
                context.host,
                context.volume,
                f"epoch {recoveries[0].epoch}" if recoveries else "none",
                f"epoch {headers[0].epoch}" if headers else "none",
                ("as declared" if records.is_current(context) else "before: rewrap")
                if recoveries or headers
                else "",
            )
    except RecordError as error:
        raise OneLine(str(error)) from None
    click.echo(keeper.describe())
    click.echo(f"records in {settings.records_dir}")
    Console(highlight=False, width=140).print(table)


@custody.command()
@inventory_option
@click.argument("host")
@click.argument("volume")
@click.option("--epoch", type=click.IntRange(min=1), default=None, help="Default: the newest.")
@click.option("--yes-print", is_flag=True, help="Print it although the output is no terminal.")
def recover(inventory: str, host: str, volume: str, epoch: int | None, yes_print: bool) -> None:
    """Prints the recovery key of a volume, for when nothing else opens it.

    \b
    On the host (rescue system or not):
      cryptsetup open /dev/disk/by-label/strongbox-VOLUME strongbox-VOLUME
    and type it, dashes included. Whoever sees it can open the disk: rotate it afterwards with
    deploys/rotate_volume_keys.py --data volumes_rotate=recovery.
    """
    cluster = declared(inventory)
    settings = _settings(cluster)
    if not (sys.stdout.isatty() or yes_print):
        raise OneLine(
            "the output is no terminal, and whoever reads it can open the volume: add --yes-print"
        )
    keeper = build.custody(settings)
    context = KeyContext(cluster.name, _hostname(cluster, host), volume, "recovery")
    try:
        found = Records(settings.records_dir, keeper).recoveries(context)
        wanted = [item for item in found if epoch in (None, item.epoch)]
        if not wanted:
            raise OneLine(
                f"there is no {context} in {settings.records_dir}"
                + (f" with epoch {epoch}" if found else "")
                + ": `strongbox custody show` lists what there is"
            )
        key = recovery.parse(keeper.unwrap(wanted[0].wrapped, context).decode("ascii", "replace"))
    except RecoveryKeyError as error:
        raise OneLine(f"the record of the {context} holds something else: {error}") from None
    except (RecordError, CustodyError) as error:
        raise OneLine(str(error)) from None
    click.echo(f"{context}, epoch {wanted[0].epoch}; it opens the volume:", err=True)
    click.echo(key.reveal())


@custody.command()
@inventory_option
def rewrap(inventory: str) -> None:
    """Wraps all records under the present recipients or KMS key.

    Run it after a change of custody_recipients or custody_kms_key; it can be stopped and run again
    at any time. What the hosts keep is renewed by deploys/rotate_volume_keys.py. Recipients who
    left could have kept what they could read: run it with --data volumes_rotate=all for them.
    """
    cluster = declared(inventory)
    settings = _settings(cluster)
    records = Records(settings.records_dir, build.custody(settings))
    changed = 0
    try:
        for context in records.contexts(cluster.name):
            count = records.rewrap(context)
            if count:
                click.echo(f"{context.host} {context.volume}: {count} records wrapped anew")
            changed += count
    except (RecordError, CustodyError) as error:
        raise OneLine(f"{error}\n{changed} were wrapped anew; run it again to finish") from None
    if not changed:
        click.echo("nothing to do: every record is wrapped as declared")


@custody.command()
@inventory_option
@click.option("--admin-role", default=f"{_ACCOUNT}strongbox-admin", show_default=True,
              help="Runs the key and can use it for nothing.")  # fmt: skip
@click.option("--controller-role", default=f"{_ACCOUNT}strongbox-controller", show_default=True,
              help="Of whoever runs the deploys.")  # fmt: skip
@click.option("--host-role", default=f"{_ACCOUNT}strongbox-{{host}}", show_default=True,
              help="Of each host's instance profile; {host} becomes its name.")  # fmt: skip
@click.option("--key", "part", flag_value="key", help="Only the policy of the key.")
@click.option("--controller", "part", flag_value="controller", help="Only the controller's.")
@click.option("--host", "only", default="", help="Only that of this host's role.")
def policy(
    inventory: str, admin_role: str, controller_role: str, host_role: str, part: str, only: str
) -> None:
    """Prints least-privilege policies for aws-kms: of the KMS key, the controller and the hosts.

    ACCOUNT in a role becomes the key's account. Only hosts with volumes_unlock = 'boot' get a role.

    \b
    Example:
      strongbox custody policy -i INVENTORY --key >key.json
      aws kms put-key-policy --key-id ARN --policy-name default --policy file://key.json
    """
    cluster = declared(inventory)
    settings = _settings(cluster)
    if settings.kind != "aws-kms":
        raise OneLine("there is no KMS key: custody_kind is 'local'")
    arn = settings.kms_key
    partition, account = arn.split(":")[1], arn.split(":")[4]

    def role(text: str) -> str:
        text = text.replace("ACCOUNT", account)
        return text.replace("arn:aws:", f"arn:{partition}:", 1)

    hosts = {
        node.common.hostname: role(host_role).replace("{host}", node.common.hostname)
        for node in cluster.nodes.values()
        if node.volumes.unlock == "boot" and not node.volumes.unencrypted
    }
    try:
        principals = Principals(role(admin_role), role(controller_role), hosts)
    except PolicyError as error:
        raise OneLine(str(error)) from None
    host_policies = {host: kms_policy.host_policy(arn, cluster.name, host) for host in hosts}
    key = kms_policy.key_policy(arn, cluster.name, principals)
    controller = kms_policy.controller_policy(arn, cluster.name)
    wanted: object = {"key": key, "controller": controller, "hosts": host_policies}
    if only:
        name = _hostname(cluster, only)
        if name not in host_policies:
            raise OneLine(f"{only} needs no role: its volumes_unlock is not 'boot'")
        wanted = host_policies[name]
    elif part:
        wanted = {"key": key, "controller": controller}[part]
    click.echo(json.dumps(wanted, indent=2))


def _settings(cluster: Cluster) -> CustodySettings:
    # They are the same on all hosts.
    return next(iter(cluster.nodes.values())).custody


def _hostname(cluster: Cluster, host: str) -> str:
    """Of a host by its inventory name or its own; of one that has left, the latter."""
    node = cluster.nodes.get(host)
    return node.common.hostname if node else host


def _contexts(cluster: Cluster, records: Records) -> list[KeyContext]:
    """Of every volume that is declared or has a record."""
    wanted = {
        KeyContext(cluster.name, node.common.hostname, volume, "")
        for node in cluster.nodes.values()
        for volume, item in node.volumes.layout.items()
        if item.encryption == "luks"
    }
    known = wanted | set(records.contexts(cluster.name))
    return sorted(known, key=lambda item: (item.host, item.volume))
