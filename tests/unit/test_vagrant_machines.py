"""What the Vagrantfile writes down about machines, and what becomes of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab.state import LabError
from lab.vagrant import identity, machines, plan, probe, prove

HOST_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKwFkfgPWy4VWgyz8fD4GpoUTwU5OVCvPjR2OmkZkggK root@vm"
)


def write(folder: Path, **changes: Any) -> Path:
    record = {
        "name": "kafka1", "fqdn": "kafka1.vagrant.test", "role": "brokers", "number": 1,
        "address": "192.168.56.101", "provider": "libvirt", "user": "deploy",
        "disks": [{"name": "main", "serial": "sb-kafka1-main", "gib": 4}],
        "key": "/keys/kafka1", "host_key": HOST_KEY,
    } | changes  # fmt: skip
    file = plan.records(folder) / f"{record['name']}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(record))
    return file


def test_none_before_the_first_is_made(tmp_path: Path) -> None:
    assert machines.read(tmp_path) == []


def test_servers_come_first_and_in_order(tmp_path: Path) -> None:
    for name, role, number in (
        ("kafka2", "brokers", 2), ("kafka1", "brokers", 1), ("zk1", "zookeepers", 1),
    ):  # fmt: skip
        write(tmp_path, name=name, role=role, number=number)
    assert [made.name for made in machines.read(tmp_path)] == ["zk1", "kafka1", "kafka2"]


def test_a_disk_is_known_by_its_serial_under_either_provider(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, name="kafka2", number=2, provider="virtualbox")
    first, second = machines.read(tmp_path)
    assert first.device(first.disks[0]) == "/dev/disk/by-id/virtio-sb-kafka1-main"
    assert second.device(second.disks[0]) == "/dev/disk/by-id/ata-VBOX_HARDDISK_sb-kafka1-main"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"disks": [{"name": "main"}]}', "null"])
def test_a_record_that_cannot_be_read_is_named_with_the_remedy(tmp_path: Path, text: str) -> None:
    file = write(tmp_path)
    file.write_text(text)
    with pytest.raises(LabError, match=r"kafka1\.json cannot be read: make that machine anew"):
        machines.read(tmp_path)


def test_what_it_does_not_know_is_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path, sudo_password="canary")
    with pytest.raises(LabError, match="cannot be read"):
        machines.read(tmp_path)


def test_ssh_finds_the_machine_by_its_key(tmp_path: Path) -> None:
    write(tmp_path)
    known, names = tmp_path / "known_hosts", tmp_path / "hosts"
    machines.write_names(machines.read(tmp_path), known, names)
    found = subprocess.run(
        ["ssh-keygen", "-F", "192.168.56.101", "-f", str(known)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0
    assert HOST_KEY.split()[1] in found.stdout
    assert "192.168.56.101 kafka1.vagrant.test kafka1\n" in names.read_text()


def test_secrets_are_made_once_and_are_nobody_elses(tmp_path: Path) -> None:
    lab = plan.Lab("unit", tmp_path)
    identity.create(lab)
    files = (lab.passphrase, lab.identity)
    before = [file.read_text() for file in files]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert lab.folder.stat().st_mode & 0o777 == 0o700
    assert "AGE-SECRET-KEY-1" in before[1]
    assert lab.recipient.startswith("age1")
    identity.create(lab)
    assert [file.read_text() for file in files] == before


def test_a_run_that_changed_nothing_is_told_from_one_that_did() -> None:
    def results(*success: list[str]) -> str:
        items = [{"name": f"step {n}", "success": hosts} for n, hosts in enumerate(success)]
        return json.dumps({"results": {"operations": items}})

    assert prove.changed(results([], [])) == []
    assert prove.changed(results([], ["zk1"])) == ["step 1"]


@pytest.mark.parametrize("text", ["", "{}", '{"results": {"operations": [{}]}}', "[]", "null"])
def test_results_that_cannot_be_read_are_no_sign_of_no_change(text: str) -> None:
    with pytest.raises(LabError, match="no results"):
        prove.changed(text)


@pytest.mark.parametrize(
    ("script", "patience_s", "booted"),
    [
        (f"echo '[ 1.0] {probe.BOOTED}'", 60, True),
        (f"echo '[ 1.0] {probe.BOOTED}'; exit 1", 60, True),
        (f"echo '[ 1.0] {probe.BOOTED}'; exec sleep 300", 60, True),
        ("echo 'Linux version 6.1'", 60, False),
        ("echo 'failed to initialize kvm' >&2; exit 1", 60, False),
        ("exec sleep 300", 0.1, False),
    ],
)
def test_only_a_kernel_that_started_its_first_process_has_booted(
    script: str, patience_s: float, booted: bool
) -> None:
    assert probe.says(["sh", "-c", script], probe.BOOTED, patience_s) == booted


def test_without_the_device_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_KVM", tmp_path / "kvm")
    monkeypatch.setattr(probe, "says", lambda *_: pytest.fail("it was started"))
    assert probe.accelerator(tmp_path, tmp_path) == "qemu"
