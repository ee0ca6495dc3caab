"""One real cluster for all these tests: six hosts, provisioned over SSH by site.py."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab.state import PROJECT, Lab

INVENTORY = "inventories/lab.py"
SITE = "deploys/site.py"
Result = subprocess.CompletedProcess[str]


@dataclass
class Cluster:
    """The lab named `test` and what one does with it."""

    lab: Lab
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def hosts(self) -> list[str]:
        return [host["name"] for host in self.info["hosts"]]

    @property
    def brokers(self) -> list[str]:
        return [host["name"] for host in self.info["hosts"] if host["role"] == "brokers"]

    @property
    def zookeepers(self) -> list[str]:
        return [host["name"] for host in self.info["hosts"] if host["role"] == "zookeepers"]

    def address(self, name: str) -> str:
        return next(host["address"] for host in self.info["hosts"] if host["name"] == name)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYINFRA_")}
        return kept | {"STRONGBOX_LAB": self.lab.name, "PYINFRA_PROGRESS": "off"} | more

    def run(self, *command: str, timeout: float = 600, **environment: str) -> Result:
        return subprocess.run(
            command,
            cwd=PROJECT,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )

    def python(self, *arguments: str, timeout: float = 600, **environment: str) -> Result:
        return self.run(sys.executable, *arguments, timeout=timeout, **environment)

    def pyinfra(
        self, *options: str, deploy: str = SITE, timeout: float = 900, **environment: str
    ) -> Result:
        return self.python(
            "-m", "pyinfra", INVENTORY, deploy, *options, timeout=timeout, **environment
        )

    def site(self, *options: str) -> dict[str, Any]:
        """A real run; its results by operation name, as pyinfra's JSON has them."""
        result = self.pyinfra("-y", "--json", *options)
        assert result.returncode == 0, result.stderr[-4000:]
        return dict(json.loads(result.stdout))

    def drift(self) -> Result:
        return self.python("-m", "strongbox", "drift", INVENTORY, SITE)

    def ssh(self, host: str, script: str, check: bool = True) -> str:
        """Runs a script as root on a host; its standard output."""
        result = self.python("-m", "lab", "ssh", host, f"sudo sh -c {shlex.quote(script)}")
        if check:
            assert result.returncode == 0, result.stderr[-2000:]
        return result.stdout

    def within(self, *command: str, timeout: float = 600) -> Result:
        return self.python("-m", "lab", "exec", "--", *command, timeout=timeout)

    def kafka(self, *arguments: str, host: str = "kafka1") -> str:
        return self.ssh(host, f"kafka-cli {shlex.join(arguments)}")

    def load(self, *arguments: str, admin: bool = True) -> list[str]:
        """The command that sends and checks messages; see lab/load.py."""
        operator = ["--admin", str(self.lab.clients / "admin/librdkafka.properties")]
        return [
            sys.executable, "-m", "lab", "exec", "--", sys.executable, "-m", "lab.load",
            "--client", str(self.lab.clients / "demo/librdkafka.properties"),
            *(operator if admin else []), *arguments,
        ]  # fmt: skip

    def start(self, deploy: str, *options: str) -> subprocess.Popen[str]:
        """A run that goes on while the test does something else."""
        return subprocess.Popen(
            [sys.executable, "-m", "pyinfra", INVENTORY, deploy, "-y", *options],
            cwd=PROJECT,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @contextmanager
    def under_load(self, topic: str, done: Path, rate: int) -> Iterator[dict[str, Any]]:
        """Idempotent acks=all messages at that rate, in a second, while the test does something.

        :param done: a path that does not exist; made to end the load.
        :return: the report of lab/load.py, filled at the end.
        """
        report: dict[str, Any] = {}
        load = subprocess.Popen(
            self.load("--topic", topic, "--rate", str(rate), "--messages", "900000",
                      "--until", str(done)),
            cwd=PROJECT, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        try:
            yield report
        finally:
            done.touch()
            stdout, stderr = load.communicate(timeout=300)
        assert stdout, stderr[-2000:]
        report.update(json.loads(stdout))
        print(json.dumps(report), stderr[-500:])

    def pids(self) -> dict[str, str]:
        """Process id and start time of every host's service."""
        return {
            host: self.ssh(
                host,
                "systemctl show -p MainPID,ExecMainStartTimestampMonotonic kafka zookeeper",
            )
            for host in self.hosts
        }


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Six containers: fast, and without volumes."""
    yield from _provisioned("--driver", "nspawn")


@pytest.fixture(scope="module")
def encrypted() -> Iterator[Cluster]:
    """Six hosts with kernels of their own; everything lies on LUKS, a broker's data on two disks
    of its own."""
    yield from _provisioned("--driver", "uml", "--data-disks", "2")


def _provisioned(*options: str) -> Iterator[Cluster]:
    lab = Lab(os.environ.get("STRONGBOX_LAB", "test"))
    made = Cluster(lab)
    result = made.python("-m", "lab", "run", "--messages", "100", *options, timeout=1500)
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    made.info = json.loads(made.python("-m", "lab", "info", "--json").stdout)
    yield made
    if not os.environ.get("STRONGBOX_KEEP_LAB"):
        down = made.python("-m", "lab", "down")
        assert down.returncode == 0, down.stderr


def nothing_lost(report: dict[str, Any]) -> None:
    assert report["sent"] == report["acknowledged"] == report["received"] > 0, report
    assert report["lost"] == report["duplicated"] == report["out_of_order"] == 0, report
    assert report["produce_errors"] == [], report
    assert report["fault"] == "", report


def changed(results: dict[str, Any]) -> dict[str, list[str]]:
    """Operation -> hosts on which a real run changed something, from pyinfra's JSON."""
    return {
        item["name"]: sorted(item["success"])
        for item in results["results"]["operations"]
        if item["success"]
    }


def said(result: Result) -> str:
    """All output of a run that failed as it should: no traceback, exit code 1."""
    output = result.stdout + result.stderr
    assert result.returncode == 1, output[-3000:]
    assert "Traceback" not in output, output[-3000:]
    return output


def write_group_data(folder: Path, group: str, text: str) -> Path:
    """A folder for ``--group-data`` with settings of one group."""
    folder.mkdir(exist_ok=True)
    (folder / f"{group}.py").write_text(text)
    return folder
