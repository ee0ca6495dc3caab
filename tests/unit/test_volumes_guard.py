"""The start guard, run by a shell over a made-up /sys and /proc."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from roles.kafka import files as kafka_files
from roles.volumes import scripts
from roles.zookeeper import files as zookeeper_files
from strongbox.cluster import Declared, load
from strongbox.site import site

EBS = "vol-0123456789abcdef0"
RECIPIENT = "age1zxra6wa6x2nncsg6kl9drcfhyucw75uz8v9e2xwh5npqps9avu2qln0hjr"
CRYPT = "CRYPT-LUKS2-0-strongbox-main"


@dataclass
class Host:
    """Folders below *root* stand for the host's; its file system has the number *number*."""

    root: Path
    number: str

    @property
    def mount(self) -> Path:
        return self.root / "srv/strongbox"

    @property
    def folder(self) -> Path:
        return self.mount / "kafka/data"

    def declare(self, line: str) -> None:
        (self.root / "etc/strongbox/volumes").write_text(f"# comment\n{line}\n")

    def device(self, **files: str) -> Path:
        """The device behind the mount point, with these attributes (``dm__uuid`` is dm/uuid)."""
        device = self.root / f"sys/dev/block/{self.number}"
        for name, text in files.items():
            path = device / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        device.mkdir(parents=True, exist_ok=True)
        return device

    def mounted(self, number: str = "", *, over: Path | None = None) -> None:
        """The volume at the mount point; and over a folder, which stays the same, a tmpfs."""
        entries = [
            "22 1 254:0 / / rw - ext4 /dev/r rw",
            f"36 35 {number or self.number} / {self.mount} rw,noatime shared:1 - xfs /dev/x rw",
        ]
        if over:
            entries.append(f"37 36 0:99 / {over} rw shared:2 - tmpfs tmpfs rw")
        text = "".join(f"{entry}\n" for entry in entries)
        (self.root / "proc/self/mountinfo").write_text(text)

    def guard(self, *folders: Path) -> subprocess.CompletedProcess[str]:
        text = scripts.guard().decode()
        for path in ("/etc/strongbox", "/sys/", "/proc/self"):
            text = text.replace(path, f"{self.root}{path}")
        text = text.replace('stat -c %U "$verified"', "echo root")
        script = self.root / "guard"
        script.write_text(text)
        names = [str(item) for item in folders or (self.folder,)]
        return subprocess.run(["sh", script, *names], capture_output=True, text=True, check=False)

    def refusal(self, *folders: Path) -> str:
        result = self.guard(*folders)
        assert result.returncode == 1, result
        assert result.stderr.startswith("strongbox guard: ") and result.stderr.count("\n") == 1
        return result.stderr


@pytest.fixture
def host(tmp_path: Path) -> Host:
    device = os.stat(tmp_path).st_dev  # noqa: PTH116
    made = Host(tmp_path.resolve(), f"{os.major(device)}:{os.minor(device)}")
    for folder in ("etc/strongbox", "sys/class/block", "sys/dev/block", "proc/self"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text("22 1 254:0 / / rw - ext4 /dev/root rw\n")
    made.folder.mkdir(parents=True)
    made.declare(f"luks {made.mount} strongbox-main")
    return made


def test_a_mounted_luks_volume(host: Host) -> None:
    host.device(dm__uuid=CRYPT, dm__name="strongbox-main")
    host.mounted()
    assert host.guard().returncode == 0
    assert host.guard(host.mount, host.folder).returncode == 0


def test_a_plain_folder(host: Host) -> None:
    assert "is a plain folder: strongbox-main is closed" in host.refusal()


def test_open_but_not_mounted(host: Host) -> None:
    name = host.root / "sys/class/block/dm-0/dm/name"
    name.parent.mkdir(parents=True)
    name.write_text("strongbox-main\n")
    assert "strongbox-main is open but not mounted" in host.refusal()


def test_a_folder_outside_of_all_volumes(host: Host) -> None:
    assert "lies in no declared volume" in host.refusal(host.root / "var/lib/kafka")
    assert "lies in no declared volume" in host.refusal(host.root / "srv/strongbox2/kafka")


def test_no_folder_and_no_declaration(host: Host) -> None:
    assert subprocess.run(["sh", host.root / "none"], check=False).returncode != 0
    (host.root / "etc/strongbox/volumes").unlink()
    assert "run deploys/site.py" in host.refusal()


def test_a_device_that_is_not_encrypted(host: Host) -> None:
    host.device(serial="disk0")
    host.mounted()
    assert "is not dm-crypt" in host.refusal()


def test_lvm_on_luks_counts_and_lvm_on_a_disk_does_not(host: Host) -> None:
    device = host.device(dm__uuid="LVM-x", dm__name="strongbox-main")
    (device / "slaves/dm-1/dm").mkdir(parents=True)
    (device / "slaves/dm-1/dm/uuid").write_text(f"{CRYPT}\n")
    host.mounted()
    assert host.guard().returncode == 0
    (device / "slaves/sdb").mkdir()
    assert "is not dm-crypt" in host.refusal()


def test_another_mapping_at_the_mount_point(host: Host) -> None:
    host.device(dm__uuid=CRYPT, dm__name="home")
    host.mounted()
    assert "another device than /dev/mapper/strongbox-main" in host.refusal()


def test_another_file_system_over_the_folder(host: Host) -> None:
    host.device(dm__uuid=CRYPT, dm__name="strongbox-main")
    host.mounted("250:99")
    assert "is in another file system" in host.refusal()


def unit_folders(role: str, tmp_path: Path) -> list[str]:
    """The guard's arguments in the unit of a host, which has its data on `main`."""
    archive = tmp_path / "archive.tgz"
    archive.touch()
    data = {
        "common_cluster": "canary",
        "custody_recipients": [RECIPIENT],
        "volumes_layout": {"main": {"device": "/dev/loop0", "min_gib": 1, "max_gib": 2}},
    }
    declared = {
        f"{kind}{number}": Declared(
            (group,),
            data
            | {
                "common_hostname": f"{kind}{number}.example",
                "common_addresses": [f"10.77.0.{start + number}"],
                key: number,
                f"{kind}_archive": str(archive),
                f"{kind}_archive_sha512": "0" * 128,
            },
        )
        for kind, group, key, start in (
            ("zookeeper", "zookeepers", "zookeeper_id", 10),
            ("kafka", "brokers", "kafka_broker_id", 20),
        )
        for number in (1, 2, 3)
    }
    found = site(load(declared), f"{role}1")
    wanted = (
        kafka_files.wanted(found.broker)
        if found.broker
        else zookeeper_files.wanted(found.zookeeper)  # type: ignore[arg-type]
    )
    (unit,) = [item for item in wanted if item.path.endswith(".service")]
    (line,) = [
        line for line in unit.content.decode().splitlines()  # type: ignore[union-attr]
        if line.startswith("ExecStartPre=+")
    ]  # fmt: skip
    return line.split()[1:]


@pytest.mark.parametrize("role", ["kafka", "zookeeper"])
def test_nothing_is_mounted_below_what_the_unit_writes_to(
    role: str, host: Host, tmp_path: Path
) -> None:
    names = unit_folders(role, tmp_path)
    root = f"/srv/strongbox/{role}"
    assert {root, *(f"{root}/{name}" for name in ("data", "logs", "tmp", "tls"))} <= set(names)
    folders = [Path(f"{host.root}{name}") for name in names]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    host.device(dm__uuid=CRYPT, dm__name="strongbox-main")
    host.mounted()
    assert host.guard(*folders).returncode == 0
    for below in (*folders[1:], folders[1] / "topic-0", folders[1] / "a/b"):
        host.mounted(over=below)
        refused = host.refusal(*folders)
        assert f"another file system mounted in it, on {below}: unmount that" in refused
    host.mounted(over=Path(f"{folders[0]}2/data"))
    assert host.guard(*folders).returncode == 0


def test_a_folder_that_is_missing(host: Host) -> None:
    host.device(dm__uuid=CRYPT, dm__name="strongbox-main")
    host.mounted()
    assert "is not there" in host.refusal(host.mount / "kafka/tmp")


def test_a_link_that_leads_out(host: Host) -> None:
    host.device(dm__uuid=CRYPT, dm__name="strongbox-main")
    host.mounted()
    outside = host.root / "var"
    outside.mkdir()
    (host.mount / "link").symlink_to(outside)
    assert "lies in no declared volume" in host.refusal(host.mount / "link")


def test_ebs(host: Host) -> None:
    host.declare(f"ebs {host.mount} {EBS}")
    assert "is not mounted" in host.refusal()
    device = host.device(device__serial=EBS.replace("-", ""))
    host.mounted()
    assert "is not verified as encrypted" in host.refusal()
    verified = host.root / "etc/strongbox/ebs-verified"
    verified.write_text(f"{EBS}1 arn:aws:kms:x\n")
    assert "is not verified as encrypted" in host.refusal()
    verified.write_text(f"vol-1 arn:aws:kms:x\n{EBS} arn:aws:kms:x\n")
    assert host.guard().returncode == 0
    (device / "device/serial").write_text("vol0ffffffffffffffff\n")
    assert "is not the EBS volume" in host.refusal()
