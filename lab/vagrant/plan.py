"""The machines that the environment asks for: ``python3 -m lab.vagrant.plan`` prints them as JSON.

The Vagrantfile makes what this says, and inventories/vagrant.py declares it, so it is said once.
Standard library only: Vagrant runs it with the machine's own Python.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.state import VAGRANT, Lab, LabError
from lab.vagrant import box

DOMAIN = "vagrant.test"
FEWEST, MOST = 2, 6
MOST_DATA_DISKS = 4
_SERIAL_LENGTH = 20  # of a virtio disk's serial; QEMU cuts what is longer
_PREFIX = "STRONGBOX_VAGRANT_"


@dataclass(frozen=True)
class Disk:
    """
    :param name: of the volume that it becomes; ``main`` or ``data1``, ``data2``, …
    :param serial: what the disk says it is; the machine has it under /dev/disk/by-id.
    """

    name: str
    serial: str
    gib: int


@dataclass(frozen=True)
class Machine:
    name: str
    fqdn: str
    role: str
    number: int
    address: str
    disks: tuple[Disk, ...]


@dataclass(frozen=True)
class Box:
    """
    :param file: the box made here; empty for one that Vagrant has or fetches by its name.
    :param kernel: booted without a boot loader, as the box made here has none; else empty.
    """

    name: str
    file: str = ""
    kernel: str = ""
    initrd: str = ""
    cmd_line: str = ""


@dataclass(frozen=True)
class Plan:
    """
    :param accelerator: ``kvm``, or ``qemu`` for plain emulation. VirtualBox takes no notice.
    :param folder: where the machines' addresses and keys are written down.
    """

    box: Box
    accelerator: str
    memory_mib: int
    cpus: int
    machines: tuple[Machine, ...]
    hosts_file: str
    folder: str


def lab() -> Lab:
    """Whose folder, authorities and network namespace the machines use."""
    return Lab(VAGRANT)


def records(folder: Path) -> Path:
    """Where the Vagrantfile writes down, one file a machine, how each is reached."""
    return folder / "machines.d"


def read(environment: Mapping[str, str]) -> Plan:
    """
    :raises LabError: for a variable that cannot be used.
    """
    known = {
        f"{_PREFIX}{name}"
        for name in (
            "MACHINES", "ZOOKEEPERS", "MEMORY_MIB", "CPUS", "DISK_GIB", "DATA_DISKS", "NETWORK",
            "BOX", "ACCELERATOR",
        )
    }  # fmt: skip
    unknown = sorted(name for name in environment if name.startswith(_PREFIX) and name not in known)
    if unknown:
        raise LabError(f"{unknown[0]} is not a variable: there are {', '.join(sorted(known))}")
    count = _number(environment, "MACHINES", FEWEST, FEWEST, MOST)
    zookeepers = _number(environment, "ZOOKEEPERS", 1 if count < 5 else 3, 1, count - 1)
    accelerator = environment.get(f"{_PREFIX}ACCELERATOR") or "kvm"
    if accelerator not in ("kvm", "qemu"):
        raise LabError(f"{_PREFIX}ACCELERATOR is {accelerator!r}: it is kvm or qemu")
    machines = _machines(
        zookeepers,
        count - zookeepers,
        _network(environment),
        _number(environment, "DISK_GIB", 4, 1, 1024),
        _number(environment, "DATA_DISKS", 0, 0, MOST_DATA_DISKS),
    )
    return Plan(
        box=_box(environment.get(f"{_PREFIX}BOX", "")),
        accelerator=accelerator,
        memory_mib=_number(environment, "MEMORY_MIB", 1536, 1024, 65536),
        cpus=_number(environment, "CPUS", 2, 1, 64),
        machines=machines,
        hosts_file="127.0.0.1 localhost\n"
        + "".join(f"{item.address} {item.fqdn} {item.name}\n" for item in machines),
        folder=str(lab().folder),
    )


def _number(environment: Mapping[str, str], name: str, default: int, fewest: int, most: int) -> int:
    text = environment.get(f"{_PREFIX}{name}") or str(default)
    if not re.fullmatch(r"[0-9]{1,6}", text) or not fewest <= int(text) <= most:
        raise LabError(f"{_PREFIX}{name} is {text!r}: it is a number from {fewest} to {most}")
    return int(text)


def _network(environment: Mapping[str, str]) -> ipaddress.IPv4Network:
    """VirtualBox lets host-only networks be in 192.168.56.0/21 only, unless told otherwise."""
    text = environment.get(f"{_PREFIX}NETWORK") or "192.168.56.0/24"
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError:
        network = None
    if network is None or network.prefixlen != 24 or not network.is_private:
        raise LabError(
            f"{_PREFIX}NETWORK is {text!r}: it is a private IPv4 network such as 192.168.56.0/24"
        )
    return network


def _machines(
    zookeepers: int, brokers: int, network: ipaddress.IPv4Network, gib: int, data_disks: int
) -> tuple[Machine, ...]:
    """A machine keeps its address, whatever the number of machines."""
    found = []
    for short, role, base, count, extra in (
        ("zk", "zookeepers", 10, zookeepers, 0),
        ("kafka", "brokers", 100, brokers, data_disks),
    ):
        for number in range(1, count + 1):
            name = f"{short}{number}"
            volumes = ["main", *(f"data{index}" for index in range(1, extra + 1))]
            disks = tuple(Disk(volume, serial(name, volume), gib) for volume in volumes)
            address = str(network[base + number])
            found.append(Machine(name, f"{name}.{DOMAIN}", role, number, address, disks))
    return tuple(found)


def serial(machine: str, volume: str) -> str:
    text = f"sb-{machine}-{volume}"
    assert len(text) <= _SERIAL_LENGTH, text
    return text


def device(provider: str, disk_serial: str) -> str:
    """The disk's stable name on the machine."""
    kind = "ata-VBOX_HARDDISK_" if provider == "virtualbox" else "virtio-"
    return f"/dev/disk/by-id/{kind}{disk_serial}"


def _box(name: str) -> Box:
    if name:
        return Box(name)
    folder = lab().boxes / box.key()
    return Box(
        name=f"strongbox-{box.key()}",
        file=str(folder / box.FILE),
        kernel=str(folder / box.KERNEL),
        initrd=str(folder / box.INITRD),
        cmd_line=box.CMD_LINE,
    )


def main() -> int:
    try:
        print(json.dumps(asdict(read(os.environ))))
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
