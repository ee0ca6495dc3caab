"""What `up` and `down` do, with a driver that only notes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from lab import lifecycle, network, nspawn, processes, uml
from lab.describe import describe
from lab.driver import HostDriver
from lab.nspawn import Nspawn
from lab.state import Disk, Host, Lab, LabError, plan_hosts
from lab.uml import Uml


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

    def room_for(self, hosts: Sequence[Host]) -> None:
        if len(hosts) > self.most:
            raise LabError("no room")

    def create(self, host: Host) -> None:
        self.done.append(f"create {host.name}")

    def start(self, host: Host, *, shuffle_disks: bool = False) -> None:
        self.done.append(f"{'shuffle' if shuffle_disks else 'start'} {host.name}")
        self.alive.add(host.name)

    def renew_names(self, host: Host) -> None:
        self.done.append(f"names {host.name}")

    def is_running(self, host: Host) -> bool:
        return host.name in self.alive

    def stop(self, host: Host) -> None:
        self.done.append(f"stop {host.name}")
        self.alive.discard(host.name)

    def cut(self, host: Host) -> None:
        self.done.append(f"cut {host.name}")
        self.alive.discard(host.name)

    def plug(self, host: Host, disk: Disk) -> None:
        self.done.append(f"plug {host.name} {disk.name}")

    def unplug(self, host: Host, disk: Disk) -> None:
        self.done.append(f"unplug {host.name} {disk.name}")

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
    monkeypatch.setattr(lifecycle, "DRIVERS", {"noted": lambda _: noted})
    monkeypatch.setattr(lifecycle, "DEFAULT_DRIVER", "noted")
    monkeypatch.delenv("STRONGBOX_LAB_DRIVER", raising=False)
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
    asked = partial(lifecycle.plan, lab, zookeepers, brokers, None, None)
    lifecycle.up(lab, asked, lambda _: None)
    return driver.done


def test_both_are_drivers(lab: Lab) -> None:
    drivers: list[HostDriver] = [Nspawn(lab), Uml(lab)]  # mypy compares the signatures
    assert [lifecycle.DRIVERS[driver.name] for driver in drivers] == [Nspawn, Uml]
    assert [driver.own_kernel for driver in drivers] == [False, True]


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
    hosts = plan_hosts(1, 10)
    Nspawn(lab).room_for(hosts[:10])
    with pytest.raises(LabError, match=r"98 of 128 in use.*sysctl fs.inotify.max_user_instances="):
        Nspawn(lab).room_for(hosts)


def test_a_machine_with_too_little_memory_is_told_with_the_remedy(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable: {(704 + 1536) * 1024} kB\n")
    monkeypatch.setattr(uml, "_MEMINFO", meminfo)
    Uml(lab).room_for(plan_hosts(1, 1))
    with pytest.raises(LabError, match=r"2944 MiB of memory, 2240 MiB are free: .*--driver nspawn"):
        Uml(lab).room_for(plan_hosts(2, 1))


def make(lab: Lab, driver: str | None = None, data_disks: int | None = None) -> None:
    lab.write_plan(lifecycle.plan(lab, 1, 1, driver, data_disks))


def test_a_new_lab_s_driver_is_asked_for_or_the_environment_s_or_the_default(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STRONGBOX_LAB_DRIVER", raising=False)
    assert lifecycle.plan(lab, 1, 1, None, None).driver == "uml"
    monkeypatch.setenv("STRONGBOX_LAB_DRIVER", "nspawn")
    assert lifecycle.plan(lab, 1, 1, None, None).driver == "nspawn"
    assert lifecycle.plan(lab, 1, 1, "uml", 2).data_disks == 2
    monkeypatch.setenv("STRONGBOX_LAB_DRIVER", "xen")
    with pytest.raises(LabError, match="no driver 'xen'; there are nspawn, uml"):
        lifecycle.plan(lab, 1, 1, None, None)


def test_a_lab_keeps_driver_and_disks_and_others_are_refused(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(lab, "uml", 2)
    monkeypatch.setenv("STRONGBOX_LAB_DRIVER", "nspawn")
    kept = lifecycle.plan(lab, 2, 2, None, None)
    assert (kept.driver, kept.data_disks, len(kept.hosts)) == ("uml", 2, 4)
    assert lifecycle.driver(lab).name == "uml"
    for driver, disks in (("nspawn", 0), (None, 1)):
        with pytest.raises(
            LabError, match=r"lab 'unit' has driver uml \(data disks: 2\).*lab down"
        ):
            lifecycle.plan(lab, 1, 1, driver, disks)


@pytest.mark.parametrize(
    ("driver", "disks", "message"),
    [("nspawn", 1, "--driver uml"), ("uml", 5, "0 to 4 data disks"), ("uml", -1, "0 to 4")],
)
def test_disks_that_cannot_be_are_refused(lab: Lab, driver: str, disks: int, message: str) -> None:
    with pytest.raises(LabError, match=message):
        lifecycle.plan(lab, 1, 1, driver, disks)


def test_a_host_keeps_its_device_names_until_they_are_shuffled(lab: Lab) -> None:
    make(lab, "uml", 3)
    drive, host = Uml(lab), lab.host("kafka1")
    drive.create(host)
    first = drive.letters(host, shuffle=False)
    assert first == {"main": "b", "data1": "c", "data2": "d", "data3": "e"}
    for _ in range(20):
        before = drive.letters(host, shuffle=False)
        after = drive.letters(host, shuffle=True)
        assert after.keys() == before.keys()
        assert not set(after.values()) & {*before.values(), "a"}
        assert drive.letters(host, shuffle=False) == after


def test_disks_keep_their_content_when_a_host_is_made_again(lab: Lab) -> None:
    make(lab, "uml", 1)
    host = lab.host("kafka1")
    Uml(lab).create(host)
    sizes = {disk.name: disk.image.stat().st_size for disk in lab.disks(host)}
    assert sizes == {"main": 2 * 1024**3, "data1": 3 * 1024**3 // 2}
    lab.disks(host)[1].image.write_bytes(b"kept")
    Uml(lab).create(host)
    assert lab.disks(host)[1].image.read_bytes() == b"kept"


def test_a_disk_that_is_not_there_is_told_from_those_that_are(lab: Lab) -> None:
    make(lab, "uml", 1)
    with pytest.raises(LabError, match="kafka1 has no disk 'data2', it has main, data1"):
        lifecycle.unplug(lab, lab.host("kafka1"), "data2", lambda _: None)
    with pytest.raises(LabError, match="kafka1 does not run: python -m lab start kafka1"):
        lifecycle.unplug(lab, lab.host("kafka1"), "data1", lambda _: None)


def test_containers_have_no_disks(lab: Lab) -> None:
    make(lab, "nspawn")
    with pytest.raises(
        LabError, match="has no disk 'main', it has none: its lab has driver nspawn"
    ):
        lifecycle.plug(lab, lab.host("kafka1"), "main", lambda _: None)


def test_a_reboot_stops_and_starts(lab: Lab, driver: Noted) -> None:
    up(lab, driver, 1, 1)
    driver.done.clear()
    lifecycle.reboot_one(lab, lab.host("kafka1"), lambda _: None)
    lifecycle.reboot_one(lab, lab.host("kafka1"), lambda _: None, shuffle_disks=True)
    lifecycle.cut_one(lab, lab.host("kafka1"), lambda _: None)
    assert driver.done == [
        "stop kafka1", "create kafka1", "start kafka1",
        "stop kafka1", "create kafka1", "shuffle kafka1", "cut kafka1",
    ]  # fmt: skip


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
        "role": "brokers", "running": True, "disks": [],
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
