"""What a lab is made of: its hosts, their addresses, and where its files lie.

Pure but for reading and writing ``.lab/NAME/lab.json`` and the lock on that folder.
That file: ``{"driver": NAME, "data_disks": COUNT, "hosts": [HOST, ...]}``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
DOMAIN = "lab.test"
NETWORK = "10.77.0"
PREFIX_LENGTH = 24
GATEWAY = f"{NETWORK}.1"  # the lab's own end of the bridge; nothing is routed beyond it
USER, USER_ID = "deploy", 1000
MOST_ZOOKEEPERS, MOST_BROKERS, MOST_DATA_DISKS = 9, 50, 4
#: Drivers: containers, and hosts with a kernel and disks of their own.
NSPAWN, UML = "nspawn", "uml"
MAIN_GIB, DATA_GIB = 2.0, 1.5
# Folders of `.lab` that all labs share.
IMAGES, ARCHIVES, BOXES = "image", "dist", "box"

VAGRANT = "vagrant"  # the lab that lab.vagrant keeps


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
    if not 1 <= zookeepers <= MOST_ZOOKEEPERS or not 0 <= brokers <= MOST_BROKERS:
        raise LabError(
            f"a lab has 1 to {MOST_ZOOKEEPERS} ZooKeeper servers and 0 to {MOST_BROKERS} brokers"
        )
    return [
        Host(f"{short}{number}", role, number, f"{NETWORK}.{base + number}")
        for short, role, base, count in (
            ("zk", "zookeepers", 10, zookeepers),
            ("kafka", "brokers", 100, brokers),
        )
        for number in range(1, count + 1)
    ]


@dataclass(frozen=True)
class Disk:
    """A disk of a host beside the one that it boots from."""

    name: str
    gib: float
    #: The disk's whole content on this machine.
    image: Path

    @property
    def serial(self) -> str:
        return f"lab-{self.name}"

    @property
    def link(self) -> str:
        """What it is called on the host, whatever order disks are found in."""
        return f"/dev/disk/by-id/{self.serial}"


@dataclass(frozen=True)
class Plan:
    """What a lab consists of, as its file keeps it."""

    driver: str
    data_disks: int
    hosts: list[Host]


@dataclass(frozen=True)
class Lab:
    """A lab by name; several, of several clones of the project, live side by side."""

    name: str
    root: Path = PROJECT / ".lab"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]{0,7}", self.name):
            raise LabError(f"lab name {self.name!r}: 1 to 8 of a-z and 0-9, a letter first")
        if self.name in (IMAGES, ARCHIVES, BOXES):
            raise LabError(f"lab name {self.name!r} is taken: all labs share that folder")

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def images(self) -> Path:
        return self.root / IMAGES

    @property
    def boxes(self) -> Path:
        return self.root / BOXES

    @property
    def namespace(self) -> str:
        """Name of its network namespace, and the end of its machines' names."""
        digest = hashlib.sha256(str(self.root.parent).encode()).hexdigest()[:6]
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
    def identity(self) -> Path:
        """The age identity that unwraps the volumes' keys."""
        return self.folder / "custody-identity"

    @property
    def recipient(self) -> str:
        """Whom keys are wrapped to; empty before `lab run` has made an identity."""
        try:
            first = self.identity.read_text().splitlines()[0]
        except (FileNotFoundError, IndexError):
            return ""
        return first.removeprefix("# public key: ")

    @property
    def records(self) -> Path:
        """Wrapped recovery keys and sealed header backups."""
        return self.folder / "custody"

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

    def host_key(self, host: str) -> Path:
        """Private half of the key by which the host's SSH server is known."""
        return self.host_folder(host) / "keys" / "ssh_host_ed25519_key"

    def plan(self) -> Plan | None:
        """What it consists of; None when it was never up.

        :raises LabError: when its file is not what this version writes.
        """
        file = self.folder / "lab.json"
        try:
            kept = json.loads(file.read_text())
            hosts = [Host(**item) for item in kept.pop("hosts")]
            return Plan(**kept, hosts=hosts)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError, KeyError):
            raise LabError(
                f"{file} is not readable as a lab's state: 'python -m lab down' removes the lab"
            ) from None

    def hosts(self) -> list[Host]:
        """The hosts it has, none when it was never up."""
        plan = self.plan()
        return plan.hosts if plan else []

    def disks(self, host: Host) -> list[Disk]:
        """The host's disks, ``main`` first; none in a lab whose hosts are containers."""
        plan = self.plan()
        if plan is None or plan.driver != UML:
            return []
        count = plan.data_disks if host.role == "brokers" else 0
        sizes = {"main": MAIN_GIB} | {f"data{i}": DATA_GIB for i in range(1, count + 1)}
        folder = self.host_folder(host.name) / "disks"
        return [Disk(name, gib, folder / f"{name}.img") for name, gib in sizes.items()]

    def leftovers(self) -> list[Host]:
        """Every host that has a folder, known to ``lab.json`` or not: what taking down must end."""
        folder = self.folder / "hosts.d"
        names = sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []
        return [Host(name, "", 0, "") for name in names]

    def write_plan(self, plan: Plan) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{host.address} {host.fqdn} {host.name}\n" for host in plan.hosts]
        self.etc_hosts.write_text("127.0.0.1 localhost\n" + "".join(lines))
        temporary = self.folder / "lab.json.new"
        temporary.write_text(json.dumps(asdict(plan), indent=1) + "\n")
        temporary.replace(self.folder / "lab.json")

    def host(self, name: str) -> Host:
        """The host by its short or its full name."""
        hosts = self.hosts()
        for host in hosts:
            if name in (host.name, host.fqdn):
                return host
        if not hosts:
            raise self.not_up()
        raise LabError(f"lab {self.name!r} has no host {name!r}; 'python -m lab info' lists them")

    def not_up(self) -> LabError:
        return LabError(
            f"lab {self.name!r} is not up: start it with 'python -m lab up' or 'make lab'"
        )

    @contextmanager
    def lock(self, say: Callable[[str], None]) -> Iterator[None]:
        """Keeps other processes from changing the lab. Makes its folder.

        The lock is on the folder itself, so it leaves nothing behind and ends with the process.
        """
        while True:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    say(f"another command is at work on lab {self.name!r}: waiting for it")
                    fcntl.flock(handle, fcntl.LOCK_EX)
                # Whoever had the lock may have removed the folder, and its lock with it.
                if self.folder.is_dir() and os.path.samestat(os.fstat(handle), self.folder.stat()):
                    yield
                    return
            finally:
                os.close(handle)


def current() -> Lab:
    """The lab that the environment names (STRONGBOX_LAB), ``lab`` otherwise."""
    name = os.environ.get("STRONGBOX_LAB") or "lab"
    if name == VAGRANT:
        raise LabError(f"lab name {name!r} is taken: it is that of the machines under Vagrant")
    return Lab(name)
