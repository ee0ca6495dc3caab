"""Machines with a kernel of their own under Vagrant: ``python -m lab.vagrant --help``."""

from __future__ import annotations

import os
import signal
import sys
import time

import click
from rich.console import Console

from lab.state import LabError
from lab.vagrant import box, plan, run
from lab.vagrant.prove import Proof

_BEGAN = time.monotonic()


def say(message: str) -> None:
    click.echo(f"[{time.monotonic() - _BEGAN:6.1f} s] {message}", err=True)


class Group(click.Group):
    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except LabError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Virtual machines to provision, with disks, reboots and LUKS that are real.

    \b
      python -m lab.vagrant run            all that `make vagrant` does
      python -m lab.vagrant up             the machines alone
      python -m lab.vagrant exec -- CMD    a command where it reaches them, such as vagrant
      python -m lab.vagrant down           removes them without a trace, but for the box
    """
    if os.geteuid() != 0:
        raise click.ClickException("libvirt and its network are root's: run as root")
    context.obj = run.Vagrant(say)


@main.command(name="box")
def build_box() -> None:
    """Builds the Debian box, and prints its folder."""
    click.echo(box.build(plan.lab().boxes, say))


@main.command()
@click.pass_obj
def up(vagrant: run.Vagrant) -> None:
    """Makes and starts the machines; those that run stay as they are."""
    vagrant.up()


@main.command()
@click.pass_obj
def down(vagrant: run.Vagrant) -> None:
    """Removes the machines and their disks."""
    vagrant.down()
    say("the machines are gone")


@main.command(name="run")
@click.option("--messages", default=1000, show_default=True, help="Sent before and after.")
@click.option("--keep", is_flag=True, help="Leave the machines as they are at the end.")
@click.pass_obj
def prove(vagrant: run.Vagrant, messages: int, keep: bool) -> None:
    """Machines, a cluster on encrypted volumes, messages, reboots, the messages again; then away.

    They are taken down after a failure too.
    """
    # So that what follows is done when the process is told to end, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    proof = Proof(vagrant, messages)
    try:
        proof.run()
    finally:
        if not keep:
            say("taking the machines down")
            vagrant.down()
    proof.report(Console(highlight=False))


@main.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
@click.pass_obj
def execute(vagrant: run.Vagrant, command: tuple[str, ...]) -> None:
    """Runs a command where it reaches the machines and knows their names."""
    words = [*vagrant.words(names=True), *command]
    os.execvpe(words[0], words, vagrant.environment())


if __name__ == "__main__":
    main()
