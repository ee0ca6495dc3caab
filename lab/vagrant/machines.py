"""The machines that there are, as the Vagrantfile wrote them down when it made them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lab.state import LabError
from lab.vagrant.plan import Disk, device, records


@dataclass(frozen=True)
class Made:
    """A machine that was made.

    :param provider: ``libvirt`` or ``virtualbox``.
    :param key: file with the private key that the user `user` is let in by.
    :param host_key: public half of its SSH host key, ``ssh-ed25519 AAAA… comment``.
    """

    name: str
    fqdn: str
    role: str
    number: int
    address: str
    disks: tuple[Disk, ...]
    provider: str
    user: str
    key: str
    host_key: str

    def device(self, disk: Disk) -> str:
        return device(self.provider, disk.serial)

    @property
    def known_host(self) -> str:
        """Its line of known_hosts."""
        kind, public, *_ = self.host_key.split()
        return f"{self.address},{self.fqdn},{self.name} {kind} {public}\n"


def read(folder: Path) -> list[Made]:
    """All that were made, ZooKeeper servers first; none before ``vagrant up``.

    :raises LabError: when what was written down cannot be read.
    """
    found = []
    for file in sorted(records(folder).glob("*.json")):
        try:
            data = json.loads(file.read_text())
            disks = tuple(Disk(**disk) for disk in data.pop("disks"))
            found.append(Made(**data, disks=disks))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise LabError(
                f"{file} cannot be read: make that machine anew (vagrant destroy, up)"
            ) from None
    return sorted(found, key=lambda made: (made.role != "zookeepers", made.number))


def write_names(machines: list[Made], known_hosts: Path, etc_hosts: Path) -> None:
    """Makes known_hosts and the names of all machines from what was written down."""
    known_hosts.write_text("".join(made.known_host for made in machines))
    lines = [f"{made.address} {made.fqdn} {made.name}\n" for made in machines]
    etc_hosts.write_text("127.0.0.1 localhost\n" + "".join(lines))
