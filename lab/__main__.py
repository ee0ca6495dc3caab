"""The embedded lab: ``python -m lab --help``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import click
from rich.console import Console
from rich.table import Table

from lab import lifecycle, network, prerequisites
from lab.describe import describe
from lab.state import MOST_DATA_DISKS, PROJECT, USER, Host, Lab, LabError, current
from roles.custody import identity

_BEGAN = time.monotonic()


def say(message: str) -> None:
    click.echo(f"[{time.monotonic() - _BEGAN:5.1f} s] {message}", err=True)


def within(lab: Lab, command: Sequence[str]) -> list[str]:
    """The command so that it runs in the lab's network and knows the hosts' names."""
    if not network.exists(lab):
        raise lab.not_up()
    return [*network.inside_with_names(lab), *command]


class Group(click.Group):
    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except LabError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--name", default=None, help="Which lab (STRONGBOX_LAB; default 'lab').")
@click.pass_context
def main(context: click.Context, name: str | None) -> None:
    """Hosts to provision, on this machine: real systemd and sshd in a network of their own.

    \b
      python -m lab run            all that `make lab` does
      python -m lab info           where everything is
      python -m lab ssh kafka1     a shell on a host
      python -m lab exec -- CMD    a command in the lab's network
      python -m lab down           removes it without a trace
    """
    if os.geteuid() != 0:
        raise click.ClickException("the lab makes network namespaces and containers: run as root")
    if name is not None:
        os.environ["STRONGBOX_LAB"] = name
    context.obj = current()


Command = TypeVar("Command", bound=Callable[..., object])


def sized(command: Command) -> Command:
    """Options that say what a lab consists of."""
    for option in reversed((
        click.option("--zookeepers", default=3, show_default=True),
        click.option("--brokers", default=3, show_default=True),
        click.option(
            "--driver", type=click.Choice(list(lifecycle.DRIVERS)),
            help="What runs the hosts: uml (a kernel and disks of their own) or nspawn (containers,"
            " faster). A lab keeps its driver; a new one's is STRONGBOX_LAB_DRIVER, or uml.",
        ),
        click.option(
            "--data-disks", type=int,
            help=f"Disks of each broker beside its main one, up to {MOST_DATA_DISKS}.",
        ),
    )):  # fmt: skip
        command = option(command)
    return command


@main.command()
@sized
@click.pass_obj
def up(lab: Lab, zookeepers: int, brokers: int, driver: str | None, data_disks: int | None) -> None:
    """Starts the hosts; those that run stay as they are."""
    lifecycle.up(lab, lambda: lifecycle.plan(lab, zookeepers, brokers, driver, data_disks), say)


@main.command()
@click.option("--purge", is_flag=True, help="The image that hosts start from too.")
@click.pass_obj
def down(lab: Lab, purge: bool) -> None:
    """Removes hosts, network and files."""
    lifecycle.down(lab, say)
    if purge:
        lifecycle.purge(lab, say)
    say(f"lab {lab.name!r} is gone")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def info(lab: Lab, as_json: bool) -> None:
    """Tells where everything is."""
    facts = describe(lab, lifecycle.driver(lab))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    if not facts["hosts"]:
        raise lab.not_up()
    console = Console(highlight=False)
    console.print(f"driver     {facts['driver']['name']}")
    table = Table("host", "address", "role", "state", "disks", box=None, pad_edge=False)
    for host in facts["hosts"]:
        state = "running" if host["running"] else "[red]down[/red]"
        disks = " ".join(disk["name"] for disk in host["disks"])
        table.add_row(host["fqdn"], host["address"], host["role"], state, disks)
    console.print(table)
    for name, servers in facts["listeners"].items():
        console.print(f"{name:10} {servers}", soft_wrap=True)
    for name, client in facts["clients"].items():
        note = "" if client["exists"] else "  (not issued yet)"
        console.print(f"{name:10} {client['folder']}{note}", soft_wrap=True)


@main.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
@click.pass_obj
def execute(lab: Lab, command: tuple[str, ...]) -> None:
    """Runs a command in the lab's network, with the hosts' names known to it."""
    words = within(lab, command)
    os.execvp(words[0], words)


def ssh_command(lab: Lab, host: str, *command: str) -> list[str]:
    address = lab.host(host).address
    if not network.exists(lab):
        raise lab.not_up()
    return [
        *network.inside(lab), "ssh", "-F", "/dev/null", "-i", str(lab.key),
        "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={lab.known_hosts}",
        "-o", "StrictHostKeyChecking=yes", "-o", "LogLevel=ERROR", f"{USER}@{address}", *command,
    ]  # fmt: skip


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def ssh(lab: Lab, host: str, command: tuple[str, ...]) -> None:
    """A shell, or one command, on a host as the user the deploys connect as."""
    words = ssh_command(lab, host, *command)
    os.execvp(words[0], words)


@main.command()
@click.argument("host")
@click.pass_obj
def stop(lab: Lab, host: str) -> None:
    """Shuts one host down."""
    lifecycle.stop_one(lab, lab.host(host), say)


@main.command()
@click.argument("host")
@click.pass_obj
def start(lab: Lab, host: str) -> None:
    """Starts one host that is down and waits for its SSH."""
    lifecycle.start_one(lab, lab.host(host), say)


@main.command()
@click.argument("host")
@click.option("--shuffle-disks", is_flag=True, help="Each disk gets another device name.")
@click.pass_obj
def reboot(lab: Lab, host: str, shuffle_disks: bool) -> None:
    """Shuts one host down in order, starts it and waits for its SSH."""
    lifecycle.reboot_one(lab, lab.host(host), say, shuffle_disks)


@main.command()
@click.argument("host")
@click.pass_obj
def cut(lab: Lab, host: str) -> None:
    """Takes the power from one host: it ends at once, its disks keep what was written."""
    lifecycle.cut_one(lab, lab.host(host), say)


@main.command()
@click.argument("host")
@click.argument("disk")
@click.pass_obj
def unplug(lab: Lab, host: str, disk: str) -> None:
    """Takes a disk that is not in use from a running host."""
    lifecycle.unplug(lab, lab.host(host), disk, say)


@main.command()
@click.argument("host")
@click.argument("disk")
@click.pass_obj
def plug(lab: Lab, host: str, disk: str) -> None:
    """Gives a running host its disk back."""
    lifecycle.plug(lab, lab.host(host), disk, say)


@main.command()
@click.argument("host")
@click.pass_obj
def pid(lab: Lab, host: str) -> None:
    """Prints this machine's process id of the host's first process."""
    click.echo(lifecycle.driver(lab).init_pid(lab.host(host)))


@main.command()
@click.argument("host")
@click.pass_obj
def console(lab: Lab, host: str) -> None:
    """Prints what a host said while it booted."""
    said = lifecycle.driver(lab).console(lab.host(host))
    if not said.exists():
        raise LabError(f"{host} was never started: python -m lab start {host}")
    click.echo(said.read_bytes().replace(b"\r", b""), nl=False)


@main.command(name="prerequisites")
def install_prerequisites() -> None:
    """Installs the Debian packages that the lab needs and this machine lacks."""
    sys.exit(prerequisites.main())


@main.command()
@sized
@click.option("--messages", default=1000, show_default=True, help="Sent through it at the end.")
@click.pass_obj
def run(
    lab: Lab,
    zookeepers: int,
    brokers: int,
    driver: str | None,
    data_disks: int | None,
    messages: int,
) -> None:
    """Hosts, ZooKeeper, Kafka, identities and real messages; again, it changes nothing."""
    _step("Kafka's archive", sys.executable, "-m", "lab.dist")
    say("hosts")
    lifecycle.up(lab, lambda: lifecycle.plan(lab, zookeepers, brokers, driver, data_disks), say)
    strongbox = [sys.executable, "-m", "strongbox"]
    inventory = "inventories/lab.py"
    if not lab.identity.exists():
        say("an operator's identity, for which the volumes' keys will be wrapped")
        identity.create(lab.identity)
    _step("authorities", *strongbox, "ca", "init", "-i", inventory)
    pyinfra = [sys.executable, "-m", "pyinfra", "-y", inventory]
    if any(_is_closed(lab, host) for host in lab.hosts() if lab.disks(host)):
        _step("unlocking", *pyinfra, "deploys/unlock.py")
    _step("provisioning", *pyinfra, "deploys/site.py")
    for name, options in (("admin", ["--operator"]), ("demo", [])):
        if not (lab.clients / name).is_dir():
            _step(f"identity {name}", *strongbox, "client", "-i", inventory, name,
                  "--out", str(lab.clients), *options)  # fmt: skip
    _step(
        f"{messages} messages through the CLIENT listener",
        *within(lab, [
            sys.executable, "-m", "lab.load", "--messages", str(messages),
            "--admin", str(lab.clients / "admin/librdkafka.properties"),
            "--client", str(lab.clients / "demo/librdkafka.properties"),
            "--replicas", str(min(3, brokers)),
        ]),
    )  # fmt: skip
    say("the cluster runs; this is where everything is")
    subprocess.run([sys.executable, "-m", "lab", "info"], cwd=PROJECT, check=True)
    click.echo(
        "\nTry:\n"
        "  python -m lab ssh kafka1 sudo kafka-cli topics --list\n"
        "  python -m lab exec -- python -m lab.load --messages 1000 \\\n"
        f"      --client {lab.clients.relative_to(PROJECT)}/demo/librdkafka.properties\n"
        "  pyinfra inventories/lab.py deploys/site.py --dry --diff\n"
        "  strongbox drift inventories/lab.py deploys/site.py"
    )


def _is_closed(lab: Lab, host: Host) -> bool:
    """Whether the host has volumes that were set up, and has booted since."""
    script = "! test -e /etc/strongbox/volumes || mountpoint -q /srv/strongbox || echo closed"
    said = subprocess.run(
        ssh_command(lab, host.name, script), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    return said.stdout.strip() == "closed"


def _step(what: str, *command: str) -> None:
    say(what)
    result = subprocess.run(command, cwd=PROJECT, env=_environment(), check=False)
    if result.returncode != 0:
        raise LabError(f"{what}: failed with exit code {result.returncode}, see above")


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("PYINFRA_")} | {
        "PYINFRA_PROGRESS": "off"
    }


if __name__ == "__main__":
    main()
