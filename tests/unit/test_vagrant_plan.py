"""Which machines the environment asks for."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.state import PROJECT, LabError
from lab.vagrant import box, plan

sizes = st.tuples(st.integers(plan.FEWEST, plan.MOST), st.integers(0, plan.MOST_DATA_DISKS))


def read(**variables: object) -> plan.Plan:
    return plan.read({f"STRONGBOX_VAGRANT_{name}": str(value) for name, value in variables.items()})


def test_the_smallest_cluster_is_what_one_gets_without_asking() -> None:
    assert [machine.name for machine in read().machines] == ["zk1", "kafka1"]
    assert read().accelerator == "kvm"


@pytest.mark.parametrize(("machines", "zookeepers"), [(2, 1), (3, 1), (4, 1), (5, 3), (6, 3)])
def test_an_odd_number_of_zookeepers_and_the_rest_brokers(machines: int, zookeepers: int) -> None:
    roles = [machine.role for machine in read(MACHINES=machines).machines]
    assert roles.count("zookeepers") == zookeepers
    assert roles.count("brokers") == machines - zookeepers


@given(sizes)
def test_names_addresses_and_serials_are_unique_and_fit(size: tuple[int, int]) -> None:
    machines = read(MACHINES=size[0], DATA_DISKS=size[1]).machines
    disks = [disk for machine in machines for disk in machine.disks]
    assert len({machine.name for machine in machines}) == len(machines) == size[0]
    assert len({machine.address for machine in machines}) == len(machines)
    assert len({disk.serial for disk in disks}) == len(disks)
    assert all(len(disk.serial) <= 20 for disk in disks), "QEMU cuts what is longer"
    network = ipaddress.ip_network("192.168.56.0/24")
    assert {ipaddress.ip_address(machine.address) for machine in machines} <= set(network.hosts())
    for machine in machines:
        extra = size[1] if machine.role == "brokers" else 0
        names = [disk.name for disk in machine.disks]
        assert names == ["main", *(f"data{number}" for number in range(1, extra + 1))]


@given(sizes, sizes)
def test_a_machine_is_the_same_in_every_size(one: tuple[int, int], other: tuple[int, int]) -> None:
    first, second = (
        {item.name: (item.address, item.disks[0]) for item in read(MACHINES=size[0]).machines}
        for size in (one, other)
    )
    assert all(first[name] == second[name] for name in first.keys() & second.keys())


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MACHINES", "1", "a number from 2 to 6"),
        ("MACHINES", "7", "a number from 2 to 6"),
        ("MACHINES", "two", "a number from 2 to 6"),
        ("MACHINES", "-2", "a number from 2 to 6"),
        ("MACHINES", "\uff13", "a number from 2 to 6"),
        ("ZOOKEEPERS", "0", "a number from 1 to 1"),
        ("ZOOKEEPERS", "2", "a number from 1 to 1"),
        ("MEMORY_MIB", "512", "a number from 1024"),
        ("CPUS", "0", "a number from 1"),
        ("DISK_GIB", "0", "a number from 1"),
        ("DATA_DISKS", "5", "a number from 0 to 4"),
        ("NETWORK", "192.168.56.0", "a private IPv4 network"),
        ("NETWORK", "192.168.56.1/24", "a private IPv4 network"),
        ("NETWORK", "192.168.0.0/16", "a private IPv4 network"),
        ("NETWORK", "8.8.8.0/24", "a private IPv4 network"),
        ("NETWORK", "fd00::/24", "a private IPv4 network"),
        ("ACCELERATOR", "tcg", "it is kvm or qemu"),
        ("MACHINE", "3", "is not a variable: there are .*_MACHINES"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(variable: str, value: str, said: str) -> None:
    with pytest.raises(LabError, match=said) as caught:
        read(**{variable: value})
    assert f"STRONGBOX_VAGRANT_{variable} is" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_variable_is_none() -> None:
    assert read(MACHINES="", BOX="", ACCELERATOR="") == read()


def test_another_network_moves_every_address() -> None:
    addresses = [machine.address for machine in read(NETWORK="10.9.8.0/24").machines]
    assert addresses == ["10.9.8.11", "10.9.8.101"]


def test_machines_know_each_other_by_name() -> None:
    assert read().hosts_file.splitlines() == [
        "127.0.0.1 localhost",
        "192.168.56.11 zk1.vagrant.test zk1",
        "192.168.56.101 kafka1.vagrant.test kafka1",
    ]


def test_the_box_made_here_boots_without_a_loader_and_another_does_not() -> None:
    ours, other = read().box, read(BOX="debian/bookworm64").box
    assert ours.name == f"strongbox-{box.key()}"
    assert {ours.file, ours.kernel, ours.initrd} == {
        f"{plan.lab().boxes}/{box.key()}/{name}" for name in (box.FILE, box.KERNEL, box.INITRD)
    }
    assert "root=LABEL=" in ours.cmd_line
    assert (other.name, other.file, other.kernel) == ("debian/bookworm64", "", "")


def test_a_disk_is_named_by_its_serial() -> None:
    assert plan.device("libvirt", "sb-zk1-main") == "/dev/disk/by-id/virtio-sb-zk1-main"
    assert plan.device("virtualbox", "sb-zk1-main").startswith("/dev/disk/by-id/ata-VBOX_HARDDISK_")


def command(**variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if "VAGRANT" not in key}
    # As Vagrant runs it: the interpreter alone, no package of the virtual environment.
    return subprocess.run(
        [sys.executable, "-S", "-m", "lab.vagrant.plan"],
        cwd=PROJECT, env=environment | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_vagrant_reads_it_as_json() -> None:
    result = command()
    assert result.returncode == 0, result.stderr
    assert [machine["name"] for machine in json.loads(result.stdout)["machines"]] == [
        "zk1",
        "kafka1",
    ]


def test_vagrant_is_told_one_line_when_it_cannot_be() -> None:
    result = command(STRONGBOX_VAGRANT_CPUS="none")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == "STRONGBOX_VAGRANT_CPUS is 'none': it is a number from 1 to 64\n"


def test_the_vagrantfile_is_ruby() -> None:
    ruby = shutil.which("ruby")
    if ruby is None:
        pytest.skip("ruby is not installed: make vagrant-box installs it with Vagrant")
    result = subprocess.run(
        [ruby, "-wc", "Vagrantfile"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("provider", "cpus", "said"),
    [
        ("libvirt", "2", "validated successfully"),
        ("virtualbox", "2", "validated successfully"),
        ("libvirt", "none", "STRONGBOX_VAGRANT_CPUS is 'none': it is a number from 1 to 64"),
    ],
)
def test_vagrant_takes_it_or_says_what_is_wrong(
    provider: str, cpus: str, said: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    vagrant = shutil.which("vagrant")
    if vagrant is None:
        pytest.skip("vagrant is not installed: make vagrant-box installs it")
    # Not tmp_path, whose name is too long for what Vagrant makes in it.
    home = tmp_path_factory.mktemp("v")
    # Vagrant reads a provider's part only where it is installed, which it tells by this program.
    stand_in = home / "VBoxManage"
    stand_in.write_text("#!/bin/sh\necho 7.0.20r163906\n")
    stand_in.chmod(0o755)
    result = subprocess.run(
        [vagrant, "validate"],
        cwd=PROJECT,
        env={key: value for key, value in os.environ.items() if "VAGRANT" not in key}
        | {
            "PATH": f"{home}:{os.environ['PATH']}",
            "VAGRANT_HOME": str(home / "home"),
            "VAGRANT_DOTFILE_PATH": str(home / "dot"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_DEFAULT_PROVIDER": provider,
            "STRONGBOX_VAGRANT_CPUS": cpus,
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said in result.stdout + result.stderr
    assert (result.returncode == 0) == (cpus == "2")
