"""What ``make vagrant`` does: a cluster on encrypted volumes, and that it outlives a reboot."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from lab.state import PROJECT, LabError
from lab.vagrant import machines
from lab.vagrant.machines import Made
from lab.vagrant.run import Vagrant

INVENTORY, SITE, UNLOCK = "inventories/vagrant.py", "deploys/site.py", "deploys/unlock.py"
_CLIENTS: dict[str, list[str]] = {"admin": ["--operator"], "demo": []}


@dataclass
class Proof:
    """The steps, each with the seconds that it took."""

    vagrant: Vagrant
    messages: int
    took: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def _step(self, what: str) -> Iterator[None]:
        self.vagrant.say(what)
        began = time.monotonic()
        yield
        self.took.append((what, time.monotonic() - began))

    def _python(self, *arguments: str, names: bool = False) -> None:
        self.vagrant.run(sys.executable, *arguments, names=names)

    def run(self) -> None:
        """
        :raises LabError: at the first step that fails.
        """
        with self._step("Kafka's archive"):
            # Not where the machines are, as there is no way out of there.
            archive = [sys.executable, "-m", "lab.dist"]
            if subprocess.run(archive, cwd=PROJECT, check=False).returncode != 0:
                raise LabError("lab.dist failed, see above")
        with self._step("machines"):
            self.vagrant.up()
        made = machines.read(self.vagrant.lab.folder)
        brokers = sum(item.role == "brokers" for item in made)
        with self._step("authorities and identities"):
            self._python("-m", "strongbox", "ca", "init", "-i", INVENTORY)
            for name, options in _CLIENTS.items():
                self._python(
                    "-m", "strongbox", "client", "-i", INVENTORY, name,
                    "--out", str(self.vagrant.lab.clients), *options,
                )  # fmt: skip
        with self._step("provisioning"):
            self._python("-m", "pyinfra", "-y", INVENTORY, SITE)
        with self._step("a second run, which changes nothing"):
            self._unchanged()
        with self._step(f"{self.messages} messages"):
            self._load(brokers)
            self._kept(self.messages)
        for item in made:
            with self._step(f"reboot of {item.name}"):
                self._reboot(item)
        with self._step("unlocking"):
            self._python("-m", "pyinfra", "-y", INVENTORY, UNLOCK)
        with self._step("messages are still there, and more go through"):
            self._kept(self.messages)
            self._load(brokers)
            self._kept(2 * self.messages)
        with self._step("a run after the reboot, which changes nothing"):
            self._unchanged()

    def _unchanged(self) -> None:
        result = subprocess.run(
            [
                *self.vagrant.words(), sys.executable, "-m", "pyinfra", "-y", "--json",
                INVENTORY, SITE,
            ],
            cwd=PROJECT, env=self.vagrant.environment(), stdout=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
        if result.returncode != 0:
            raise LabError(f"pyinfra failed with exit code {result.returncode}, see above")
        if found := changed(result.stdout):
            raise LabError(f"a run on a cluster in step changed something: {', '.join(found)}")

    def _load(self, brokers: int) -> None:
        clients = self.vagrant.lab.clients
        self._python(
            "-m", "lab.load", "--messages", str(self.messages),
            "--admin", str(clients / "admin/librdkafka.properties"),
            "--client", str(clients / "demo/librdkafka.properties"),
            "--replicas", str(min(3, brokers)),
            names=True,
        )  # fmt: skip

    def _kept(self, messages: int) -> None:
        client = self.vagrant.lab.clients / "demo/librdkafka.properties"
        self._python(
            "-m", "lab.vagrant.kept", "--client", str(client), "--messages", str(messages),
            names=True,
        )  # fmt: skip

    def _reboot(self, item: Made) -> None:
        """Shuts it down in order, and starts it again."""
        before = self.vagrant.ssh(item, "cat /proc/sys/kernel/random/boot_id")
        self.vagrant.run("vagrant", "--no-tty", "reload", item.name)
        after = self.vagrant.ssh(item, "cat /proc/sys/kernel/random/boot_id")
        if before == after:
            raise LabError(f"{item.name} did not reboot")

    def report(self, console: Console) -> None:
        table = Table("step", "seconds", box=None, pad_edge=False)
        for what, seconds in self.took:
            table.add_row(what, f"{seconds:.0f}")
        console.print(table)


def changed(results: str) -> list[str]:
    """Names of the operations that changed something, from pyinfra's JSON of a real run.

    :raises LabError: when that is no such JSON.
    """
    try:
        operations = json.loads(results)["results"]["operations"]
        return [item["name"] for item in operations if item["success"]]
    except (ValueError, KeyError, TypeError):
        raise LabError("pyinfra printed no results that can be read") from None
