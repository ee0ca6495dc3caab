"""Compares a run that changes nothing: deploys/site.py against a playbook in Ansible.

    python -m bench.converge                 3 + 3 hosts; measures one host and all six
    python -m bench.converge --brokers 21    3 + 21 hosts

The hosts are a lab of its own, ``bench``; it is made when it is not up, and taken down afterwards.
"""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

LAB = "bench"
os.environ["STRONGBOX_LAB"] = LAB  # before anything reads which lab it is

from bench import hosts as bench_hosts  # noqa: E402
from bench.export import export  # noqa: E402
from lab import lifecycle  # noqa: E402
from lab.network import inside  # noqa: E402
from lab.state import PROJECT, Lab, current  # noqa: E402
from strongbox.inventory import read_cluster  # noqa: E402

INVENTORY = "inventories/lab.py"
BENCH = PROJECT / "bench"


class BenchError(click.ClickException):
    """The benchmark cannot tell anything; one line with the reason."""


@dataclass(frozen=True)
class Run:
    """One run: seconds on the clock, CPU seconds of the controller, commands and load.

    ``commands`` and ``connections`` are the largest of all hosts, as their sshd counted them;
    ``load`` is the machine's one-minute load average right before.
    """

    wall_s: float
    cpu_s: float
    commands: int
    connections: int
    load: float


@dataclass(frozen=True)
class Result:
    """Medians of one tool on one set of hosts."""

    tool: str
    hosts: int
    runs: Sequence[Run]

    def median(self, of: Callable[[Run], float]) -> float:
        return statistics.median(of(run) for run in self.runs)

    @property
    def wall_s(self) -> float:
        return self.median(lambda run: run.wall_s)

    @property
    def cpu_s(self) -> float:
        return self.median(lambda run: run.cpu_s)


def say(message: str) -> None:
    click.echo(f"[{time.strftime('%H:%M:%S')}] {message}", err=True)


def _environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items()
            if not key.startswith(("PYINFRA_", "ANSIBLE_"))}  # fmt: skip
    return kept | {"PYINFRA_PROGRESS": "off"} | more


def _run(command: Sequence[str], environment: dict[str, str]) -> tuple[str, float, float]:
    """Output, seconds, CPU seconds of the command and all processes it waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    result = subprocess.run(
        command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, text=True, check=False,
    )  # fmt: skip
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode != 0:
        raise BenchError(f"{' '.join(command)} failed:\n{result.stdout[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result.stdout, wall, cpu


def pyinfra(limit: str | None) -> tuple[str, float, float]:
    """One run of site.py.

    :raises BenchError: when it changed something: then it is no run to compare.
    """
    words = [sys.executable, "-m", "pyinfra", "-y", INVENTORY, "deploys/site.py"]
    output, wall, cpu = _run([*words, *(["--limit", limit] if limit else [])], _environment())
    total = re.search(r"Grand total +(\d+) +(\S+) +(\S+) +(\d+)", output)
    if total is None or total[2] != "-" or total[3] != "-":
        raise BenchError(f"site.py changed something:\n{output[-3000:]}")
    return output, wall, cpu


def ansible(lab: Lab, inventory: Path, limit: str | None) -> tuple[str, float, float]:
    """One run of the playbook; its SSH connections end with it, as those of pyinfra do.

    :raises BenchError: when it changed something, or a check in it failed.
    """
    control = inventory.parent / "cp"
    control.mkdir(exist_ok=True)
    words = [*inside(lab), str(Path(sys.executable).parent / "ansible-playbook"), "-i",
             str(inventory), str(BENCH / "ansible/site.yml")]  # fmt: skip
    environment = _environment(
        ANSIBLE_CONFIG=str(BENCH / "ansible/ansible.cfg"),
        ANSIBLE_SSH_CONTROL_PATH_DIR=str(control),
        ANSIBLE_HOME=str(inventory.parent / "home"),
        LC_ALL="C.UTF-8",
    )
    output, wall, cpu = _run([*words, *(["--limit", limit] if limit else [])], environment)
    recap = re.findall(r"changed=(\d+) +unreachable=(\d+) +failed=(\d+)", output)
    if not recap or any(int(number) for host in recap for number in host):
        raise BenchError(f"the playbook changed something:\n{output[-3000:]}")
    for socket in control.iterdir():
        subprocess.run(
            ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "-F", "/dev/null", "any"],
            capture_output=True, check=False,
        )  # fmt: skip
    return output, wall, cpu


def measure(lab: Lab, names: Sequence[str], what: Callable[[], tuple[str, float, float]]) -> Run:
    load = os.getloadavg()[0]
    before = bench_hosts.sessions(lab, names)
    _, wall, cpu = what()
    after = bench_hosts.sessions(lab, names)
    # The count itself is one connection with one command.
    commands = max(after[name].commands - before[name].commands - 1 for name in names)
    connections = max(after[name].connections - before[name].connections - 1 for name in names)
    return Run(wall, cpu, commands, connections, load)


def provision(lab: Lab, zookeepers: int, brokers: int) -> None:
    say(f"{zookeepers} + {brokers} hosts")
    _run([sys.executable, "-m", "lab.dist"], _environment())
    _run([sys.executable, "-m", "lab", "up", "--driver", "nspawn",
          "--zookeepers", str(zookeepers), "--brokers", str(brokers)], _environment())  # fmt: skip
    if not lab.authority_dir.is_dir():
        _run([sys.executable, "-m", "strongbox", "ca", "init", "-i", INVENTORY], _environment())
    say("provisioning")
    words = [sys.executable, "-m", "pyinfra", "-y", INVENTORY, "deploys/site.py"]
    _, wall, _ = _run(words, _environment())
    say(f"provisioned in {wall:.0f} s; Python for Ansible")
    names = [host.name for host in lab.hosts()]
    bench_hosts.prepare(lab, names)


def table(results: Sequence[Result]) -> str:
    lines = [
        "| Hosts | Tool | Commands per host | Connections per host | Wall time | Controller CPU "
        "| Load before |",
        "|---|---|---|---|---|---|---|",
    ]
    slower: dict[int, float] = {}
    busier: dict[int, float] = {}
    for result in results:
        walls = [run.wall_s for run in result.runs]
        spread = f" ({min(walls):.1f} to {max(walls):.1f})" if len(walls) > 1 else ""
        lines.append(
            f"| {result.hosts} | {result.tool} | {max(run.commands for run in result.runs)} "
            f"| {max(run.connections for run in result.runs)} | {result.wall_s:.1f} s{spread} "
            f"| {result.cpu_s:.1f} s | {statistics.median(r.load for r in result.runs):.1f} |"
        )
        if result.tool == "pyinfra":
            slower[result.hosts], busier[result.hosts] = result.wall_s, result.cpu_s
        else:
            lines.append(
                f"| {result.hosts} | **ratio** | | | **{result.wall_s / slower[result.hosts]:.1f}** "
                f"| {result.cpu_s / busier[result.hosts]:.1f} | |"
            )
    return "\n".join(lines)


def compare(
    lab: Lab, inventory: Path, limit: str | None, runs: int, ansible_runs: int
) -> list[Result]:
    names = [limit] if limit else [host.name for host in lab.hosts()]
    # One of each is not counted: file caches, Python's byte code, Ansible's folders on the hosts.
    pyinfra(limit)
    with_pyinfra: list[Run] = []
    with_ansible: list[Run] = []
    # In turns, so that what else the machine does falls on both.
    for turn in range(max(runs, ansible_runs)):
        if turn < runs:
            with_pyinfra.append(measure(lab, names, lambda: pyinfra(limit)))
        if turn < ansible_runs:
            with_ansible.append(measure(lab, names, lambda: ansible(lab, inventory, limit)))
    results = [
        Result("pyinfra", len(names), with_pyinfra),
        Result("ansible-core", len(names), with_ansible),
    ]
    click.echo(table(results))
    return results


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--zookeepers", default=3, show_default=True)
@click.option("--brokers", default=3, show_default=True)
@click.option("--runs", default=3, show_default=True, help="Of site.py on each set of hosts.")
@click.option("--ansible-runs", default=2, show_default=True, help="Of the playbook.")
@click.option("--one/--no-one", default=True, help="Measure one broker on its own as well.")
@click.option("--keep", is_flag=True, help="Leave the lab up.")
def main(
    zookeepers: int, brokers: int, runs: int, ansible_runs: int, one: bool, keep: bool
) -> None:
    """Measures a run that changes nothing, here and with Ansible, and prints a Markdown table."""
    os.chdir(PROJECT)
    lab = current()
    try:
        provision(lab, zookeepers, brokers)
        with tempfile.TemporaryDirectory(prefix="sbb") as folder:
            inventory = export(lab, read_cluster(INVENTORY), Path(folder))
            say("a first run of the playbook, which must find everything as it is")
            ansible(lab, inventory, None)
            results: list[Result] = []
            for limit in ("kafka1", None) if one else (None,):
                results += compare(lab, inventory, limit, runs, ansible_runs)
    finally:
        if not keep:
            lifecycle.down(lab, say)
    click.echo(f"\n{table(results)}")


if __name__ == "__main__":
    main()
