"""What a lab is made of: its hosts, their addresses, and where its files lie.

Pure but for reading and writing ``.lab/NAME/lab.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
DOMAIN = "lab.test"
NETWORK = "10.77.0"
PREFIX_LENGTH = 24
GATEWAY = f"{NETWORK}.1"  # the lab's own end of the bridge; nothing is routed beyond it
USER = "deploy"
MOST_HOSTS = 60
ROLES = {"zk": "zookeepers", "kafka": "brokers"}


class LabError(Exception):
    """One line for the person at the terminal, with the remedy."""


@dataclass(frozen=True)
class Host:
    """A host of the lab. ``number`` counts within its role, from 1; ``role`` is its group."""

    name: str
    role: str
    number: int
    address: str

    @property
    def fqdn(self) -> str:
        return f"{self.name}.{DOMAIN}"


def plan_hosts(zookeepers: int, brokers: int) -> list[Host]:
    """The hosts of a lab of that size; a host keeps its address whatever the size.

    :raises LabError: for sizes that cannot be.
    """
    if not 1 <= zookeepers <= 9 or not 0 <= brokers <= MOST_HOSTS - 10:
        raise LabError("a lab has 1 to 9 ZooKeeper servers and 0 to 50 brokers")
    return [
        Host(f"{short}{number}", role, number, f"{NETWORK}.{base + number}")
        for short, role, base, count in (
            ("zk", "zookeepers", 10, zookeepers),
            ("kafka", "brokers", 100, brokers),
        )
        for number in range(1, count + 1)
    ]


@dataclass(frozen=True)
class Lab:
    """A lab by name; several, of several clones of the project, live side by side."""

    name: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]{0,7}", self.name):
            raise LabError(f"lab name {self.name!r}: 1 to 8 of a-z and 0-9, a letter first")

    @property
    def folder(self) -> Path:
        return PROJECT / ".lab" / self.name

    @property
    def namespace(self) -> str:
        """Name of its network namespace, and the start of its machines' names."""
        digest = hashlib.sha256(str(PROJECT).encode()).hexdigest()[:6]
        return f"sb-{self.name}-{digest}"

    @property
    def key(self) -> Path:
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def passphrase(self) -> Path:
        return self.folder / "ca-passphrase"

    @property
    def authority_dir(self) -> Path:
        return self.folder / "ca"

    @property
    def clients(self) -> Path:
        return self.folder / "clients"

    @property
    def etc_hosts(self) -> Path:
        return self.folder / "hosts"

    def host_folder(self, host: str) -> Path:
        return self.folder / "hosts.d" / host

    def hosts(self) -> list[Host]:
        """The hosts it has, none when it was never up."""
        try:
            return [Host(**item) for item in json.loads((self.folder / "lab.json").read_text())]
        except FileNotFoundError:
            return []

    def write_hosts(self, hosts: list[Host]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / "lab.json.new"
        temporary.write_text(json.dumps([asdict(host) for host in hosts], indent=1))
        temporary.replace(self.folder / "lab.json")
        lines = [f"{host.address} {host.fqdn} {host.name}\n" for host in hosts]
        self.etc_hosts.write_text("127.0.0.1 localhost\n" + "".join(lines))

    def host(self, name: str) -> Host:
        for host in self.hosts():
            if host.name == name:
                return host
        raise LabError(f"lab {self.name!r} has no host {name!r}; 'python -m lab info' lists them")


def current() -> Lab:
    """The lab that the environment names (STRONGBOX_LAB), ``lab`` otherwise."""
    return Lab(os.environ.get("STRONGBOX_LAB", "lab"))
