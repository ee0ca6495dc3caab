"""What `up` and `down` do, with a driver that only notes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lab import lifecycle, network, nspawn, processes
from lab.describe import describe
from lab.driver import HostDriver
from lab.nspawn import Nspawn
from lab.state import Host, Lab, LabError


class Noted:
    """Hosts that run because it was said so."""

    name = "noted"
    own_kernel = True

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.alive: set[str] = set()
        self.done: list[str] = []
        self.most = 100

    def prepare(self, say: Callable[[str], None]) -> None:
        self.done.append("prepare")

    def room_for(self, hosts: int) -> None:
        if hosts > self.most:
            raise LabError("no room")

    def create(self, host: Host) -> None:
        self.done.append(f"create {host.name}")

    def start(self, host: Host) -> None:
        self.done.append(f"start {host.name}")
        self.alive.add(host.name)

    def renew_names(self, host: Host) -> None:
        self.done.append(f"names {host.name}")

    def is_running(self, host: Host) -> bool:
        return host.name in self.alive

    def stop(self, host: Host) -> None:
        self.done.append(f"stop {host.name}")
        self.alive.discard(host.name)

    def destroy(self, host: Host) -> None:
        self.done.append(f"destroy {host.name}")
        self.alive.discard(host.name)

    def init_pid(self, host: Host) -> int:
        raise LabError("none")

    def console(self, host: Host) -> Path:
        return self.lab.host_folder(host.name) / "console.log"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab("unit", tmp_path / ".lab")


@pytest.fixture
def driver(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Noted:
    noted = Noted(lab)
    monkeypatch.setattr(lifecycle, "driver", lambda _: noted)
    monkeypatch.setattr(network, "create", lambda _: None)
    monkeypatch.setattr(network, "destroy", lambda _: None)
    monkeypatch.setattr(network, "enter", lambda _: None)
    monkeypatch.setattr(network, "exists", lambda _: True)

    def answers(drive: HostDriver, host: Host, _given_up: object) -> None:
        if not drive.is_running(host):
            raise LabError(f"{host.name} did not answer")

    monkeypatch.setattr(lifecycle, "_answers", answers)
    return noted


def up(lab: Lab, driver: Noted, zookeepers: int, brokers: int) -> list[str]:
    driver.done.clear()
    lifecycle.up(lab, zookeepers, brokers, lambda _: None)
    return driver.done


def test_nspawn_is_a_driver(lab: Lab) -> None:
    driver: HostDriver = Nspawn(lab)  # mypy compares the signatures
    assert lifecycle.DRIVERS[driver.name] is Nspawn


def test_from_nothing_every_host_is_made_and_started(lab: Lab, driver: Noted) -> None:
    assert up(lab, driver, 1, 2) == [
        "prepare",
        "create zk1", "start zk1",
        "create kafka1", "start kafka1",
        "create kafka2", "start kafka2",
    ]  # fmt: skip
    assert lab.folder.stat().st_mode & 0o777 == 0o700
    assert lab.passphrase.stat().st_mode & 0o777 == 0o600
    known = lab.known_hosts.read_text().splitlines()
    assert [line.split()[0] for line in known] == [
        "10.77.0.11,zk1.lab.test,zk1",
        "10.77.0.101,kafka1.lab.test,kafka1",
        "10.77.0.102,kafka2.lab.test,kafka2",
    ]
    assert len({line.split()[2] for line in known}) == 3


def test_again_nothing_is_touched(lab: Lab, driver: Noted) -> None:
    up(lab, driver, 1, 1)
    kept = {file: file.read_bytes() for file in lab.folder.rglob("*") if file.is_file()}
    assert up(lab, driver, 1, 1) == ["prepare", "names zk1", "names kafka1"]
    assert {file: file.read_bytes() for file in lab.folder.rglob("*") if file.is_file()} == kept


def test_a_host_that_is_down_is_started_and_the_others_stay(lab: Lab, driver: Noted) -> None:
    up(lab, driver, 1, 2)
    driver.alive.remove("kafka1")
    assert up(lab, driver, 1, 2) == [
        "prepare", "names zk1", "create kafka1", "start kafka1", "names kafka2",
    ]  # fmt: skip


def test_another_size_adds_and_removes(lab: Lab, driver: Noted) -> None:
    up(lab, driver, 1, 3)
    keys = lab.host_key("kafka1").read_text()
    assert up(lab, driver, 2, 1) == [
        "prepare", "destroy kafka2", "destroy kafka3",
        "names zk1", "create zk2", "start zk2", "names kafka1",
    ]  # fmt: skip
    assert [host.name for host in lab.hosts()] == ["zk1", "zk2", "kafka1"]
    assert lab.host_key("kafka1").read_text() == keys
    assert "kafka2" not in lab.known_hosts.read_text() + lab.etc_hosts.read_text()


def test_without_room_nothing_changes(lab: Lab, driver: Noted) -> None:
    up(lab, driver, 1, 1)
    driver.most = 1
    with pytest.raises(LabError, match="no room"):
        up(lab, driver, 3, 3)
    assert driver.done == ["prepare"]
    assert [host.name for host in lab.hosts()] == ["zk1", "kafka1"]
    assert up(lab, driver, 1, 2)[-2:] == ["create kafka2", "start kafka2"]


def test_a_machine_that_is_full_is_told_with_the_remedy(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit = tmp_path / "max_user_instances"
    limit.write_text("128\n")
    monkeypatch.setattr(nspawn, "_INOTIFY_LIMIT", limit)
    monkeypatch.setattr(processes, "inotify_instances", lambda: 98)
    Nspawn(lab).room_for(10)
    with pytest.raises(LabError, match=r"98 of 128 in use.*sysctl fs.inotify.max_user_instances="):
        Nspawn(lab).room_for(11)


def test_a_host_that_does_not_answer_is_named(
    lab: Lab, driver: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(host: Host) -> bool:
        return host.name != "kafka1" and host.name in driver.alive

    monkeypatch.setattr(driver, "is_running", silent)
    with pytest.raises(LabError, match="kafka1 did not answer"):
        up(lab, driver, 1, 2)


def test_down_ends_hosts_that_no_state_names(lab: Lab, driver: Noted) -> None:
    up(lab, driver, 1, 1)
    (lab.folder / "lab.json").write_text("cut o")
    lab.host_folder("kafka9").mkdir()
    driver.done.clear()
    lifecycle.down(lab, lambda _: None)
    assert sorted(driver.done) == ["destroy kafka1", "destroy kafka9", "destroy zk1"]
    assert not lab.folder.exists()


def test_down_of_a_lab_that_never_was_leaves_nothing(lab: Lab, driver: Noted) -> None:
    lifecycle.down(lab, lambda _: None)
    assert driver.done == []
    assert not lab.folder.exists()


def test_keys_that_were_cut_off_are_made_again(lab: Lab, driver: Noted) -> None:
    up(lab, driver, 1, 1)
    lab.key.with_suffix(".pub").unlink()
    lab.host_key("zk1").unlink()
    up(lab, driver, 1, 1)
    assert lab.key.with_suffix(".pub").exists()
    assert lab.host_key("zk1").exists()


def test_a_client_is_told_everything(lab: Lab, driver: Noted) -> None:
    up(lab, driver, 1, 2)
    driver.alive.remove("kafka2")
    (lab.clients / "demo").mkdir(parents=True)
    (lab.clients / "demo/keystore.pem").touch()
    facts = describe(lab, driver)
    assert facts["namespace"] == lab.namespace
    assert facts["driver"] == {"name": "noted", "own_kernel": True}
    assert facts["listeners"] == {
        "CLIENT": "kafka1.lab.test:9094,kafka2.lab.test:9094",
        "INTERNAL": "kafka1.lab.test:9093,kafka2.lab.test:9093",
        "zookeeper": "zk1.lab.test:2182",
    }
    assert {host["name"]: host["running"] for host in facts["hosts"]} == {
        "zk1": True, "kafka1": True, "kafka2": False,
    }  # fmt: skip
    assert facts["hosts"][1] == {
        "name": "kafka1", "fqdn": "kafka1.lab.test", "address": "10.77.0.101",
        "role": "brokers", "running": True,
    }  # fmt: skip
    assert facts["ssh"] == {
        "user": "deploy", "port": 22, "key": str(lab.key), "known_hosts": str(lab.known_hosts),
    }  # fmt: skip
    clients = facts["clients"]
    assert clients["demo"] == {
        "folder": str(lab.clients / "demo"), "exists": True, "listener": "CLIENT",
        "files": {"keystore.pem": str(lab.clients / "demo/keystore.pem")},
    }  # fmt: skip
    assert not clients["admin"]["exists"]
    assert clients["admin"]["listener"] == "INTERNAL"
