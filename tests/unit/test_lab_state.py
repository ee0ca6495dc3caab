"""Names, addresses and the file that a lab is kept in."""

from __future__ import annotations

import ipaddress
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import state
from lab.state import MOST_BROKERS, MOST_ZOOKEEPERS, Host, Lab, LabError, Plan, plan_hosts

SIZES = (st.integers(1, MOST_ZOOKEEPERS), st.integers(0, MOST_BROKERS))


@given(*SIZES)
def test_names_and_addresses_are_unique_and_in_the_network(zookeepers: int, brokers: int) -> None:
    hosts = plan_hosts(zookeepers, brokers)
    assert len(hosts) == zookeepers + brokers
    assert len({host.name for host in hosts}) == len(hosts)
    addresses = {ipaddress.ip_address(host.address) for host in hosts}
    assert len(addresses) == len(hosts)
    assert ipaddress.ip_address(state.GATEWAY) not in addresses
    network = ipaddress.ip_network(f"{state.NETWORK}.0/{state.PREFIX_LENGTH}")
    assert addresses <= set(network.hosts())


@given(*SIZES, *SIZES)
def test_a_host_is_the_same_in_every_size(a: int, b: int, c: int, d: int) -> None:
    one, other = ({host.name: host for host in plan_hosts(*size)} for size in ((a, b), (c, d)))
    assert all(one[name] == other[name] for name in one.keys() & other.keys())


def test_hosts_are_named_and_numbered_by_role() -> None:
    assert plan_hosts(2, 1) == [
        Host("zk1", "zookeepers", 1, "10.77.0.11"),
        Host("zk2", "zookeepers", 2, "10.77.0.12"),
        Host("kafka1", "brokers", 1, "10.77.0.101"),
    ]
    assert plan_hosts(1, 0)[0].fqdn == "zk1.lab.test"


@pytest.mark.parametrize("size", [(0, 3), (MOST_ZOOKEEPERS + 1, 3), (3, -1), (3, MOST_BROKERS + 1)])
def test_sizes_that_cannot_be_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(LabError, match="1 to 9 ZooKeeper servers"):
        plan_hosts(*size)


@pytest.mark.parametrize("name", ["", "Lab", "9lives", "a-b", "a b", "../x", "x" * 9, "lab\n"])
def test_names_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="1 to 8 of a-z"):
        Lab(name)


@pytest.mark.parametrize("name", ["image", "dist", "box"])
def test_a_lab_cannot_be_named_like_a_shared_folder(name: str) -> None:
    """Taking it down would remove what the other labs use."""
    with pytest.raises(LabError, match="taken"):
        Lab(name)


def test_labs_of_two_clones_and_two_names_have_their_own_namespaces(tmp_path: Path) -> None:
    labs = [Lab(name, tmp_path / clone / ".lab") for name in "ab" for clone in ("one", "two")]
    assert len({lab.namespace for lab in labs}) == 4
    longest = Lab("x" * 8, tmp_path / ".lab").namespace
    # The longest that systemd takes as a machine's name.
    assert len(f"kafka{MOST_BROKERS}-{longest}") <= 64


def test_hosts_come_back_from_the_file(tmp_path: Path) -> None:
    lab = Lab("unit", tmp_path)
    assert lab.hosts() == []
    hosts = plan_hosts(1, 2)
    lab.write_plan(Plan("uml", 2, hosts))
    assert lab.hosts() == hosts
    assert lab.plan() == Plan("uml", 2, hosts)
    assert lab.host("kafka2") == lab.host("kafka2.lab.test") == hosts[2]
    assert lab.etc_hosts.read_text().splitlines() == [
        "127.0.0.1 localhost",
        "10.77.0.11 zk1.lab.test zk1",
        "10.77.0.101 kafka1.lab.test kafka1",
        "10.77.0.102 kafka2.lab.test kafka2",
    ]
    assert not list(tmp_path.rglob("*.new"))


def test_disks_are_named_whatever_the_kernel_calls_them(tmp_path: Path) -> None:
    lab = Lab("unit", tmp_path)
    zk1, kafka1 = plan_hosts(1, 1)
    assert lab.disks(kafka1) == []
    lab.write_plan(Plan("uml", 2, [zk1, kafka1]))
    assert [disk.name for disk in lab.disks(zk1)] == ["main"]
    assert [disk.link for disk in lab.disks(kafka1)] == [
        "/dev/disk/by-id/lab-main", "/dev/disk/by-id/lab-data1", "/dev/disk/by-id/lab-data2",
    ]  # fmt: skip
    assert len({disk.image for host in (zk1, kafka1) for disk in lab.disks(host)}) == 4
    lab.write_plan(Plan("nspawn", 0, [zk1, kafka1]))
    assert lab.disks(kafka1) == []


def test_a_host_that_is_not_there_is_told_from_a_lab_that_is_not_up(tmp_path: Path) -> None:
    lab = Lab("unit", tmp_path)
    with pytest.raises(LabError, match="lab 'unit' is not up: start it with 'python -m lab up'"):
        lab.host("kafka1")
    lab.write_plan(Plan("nspawn", 0, plan_hosts(1, 1)))
    with pytest.raises(LabError, match="no host 'kafka2'; 'python -m lab info' lists them"):
        lab.host("kafka2")


@pytest.mark.parametrize(
    "text", ["", "[", '{"hosts": 1}', "[1]", json.dumps([{"name": "zk1"}]), "null", '{"hosts": []}']
)
def test_a_state_that_cannot_be_read_names_the_remedy(tmp_path: Path, text: str) -> None:
    lab = Lab("unit", tmp_path)
    lab.folder.mkdir()
    (lab.folder / "lab.json").write_text(text)
    with pytest.raises(LabError, match="'python -m lab down' removes the lab"):
        lab.hosts()


def test_hosts_that_the_file_does_not_know_are_found_by_their_folders(tmp_path: Path) -> None:
    lab = Lab("unit", tmp_path)
    assert lab.leftovers() == []
    lab.host_folder("kafka7").mkdir(parents=True)
    assert [host.name for host in lab.leftovers()] == ["kafka7"]


def test_the_environment_chooses_the_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRONGBOX_LAB", "bench")
    assert state.current() == Lab("bench")
    monkeypatch.setenv("STRONGBOX_LAB", "")
    assert state.current() == Lab("lab")
    monkeypatch.delenv("STRONGBOX_LAB")
    assert state.current() == Lab("lab")
    monkeypatch.setenv("STRONGBOX_LAB", "vagrant")
    with pytest.raises(LabError, match="that of the machines under Vagrant"):
        state.current()


def test_who_waits_for_a_lab_that_is_taken_down_gets_a_new_one(tmp_path: Path) -> None:
    """A lock on the removed folder would not keep anyone out."""
    lab = Lab("unit", tmp_path)
    waits, entered, leave = threading.Event(), threading.Event(), threading.Event()

    def second() -> None:
        with lab.lock(lambda _: waits.set()):
            entered.set()
            assert leave.wait(10)

    thread = threading.Thread(target=second)
    with lab.lock(print):
        thread.start()
        assert waits.wait(10)
        assert not entered.is_set()
        lab.folder.rmdir()
    assert entered.wait(10)
    told = threading.Event()

    def third() -> None:
        with lab.lock(lambda _: told.set()):
            pass

    other = threading.Thread(target=third)
    other.start()
    assert told.wait(10), "the second one's lock keeps nobody out"
    leave.set()
    thread.join(10)
    other.join(10)
    assert not other.is_alive()
