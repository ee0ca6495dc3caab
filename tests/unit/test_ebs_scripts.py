"""The scripts for hosts, with a /sys of their own and programs that only note their arguments."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from roles.ebs import facts
from roles.ebs.plan import NvmeDisk

SCRIPTS = Path(facts.__file__).parent / "scripts"
EBS = "Amazon Elastic Block Store"
OLD, NEW, TARGET = "vol0000000a", "vol0000000b", "/srv/strongbox"
LINK = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_"
# What each program answers, from the environment, and that it was called.
STUB = """#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
case $(basename "$0") in
  findmnt)
    case "$*" in
      *--mountpoint*) [ -n "$MOUNTED" ] && ! grep -q ^umount "$CALLS" || exit 1; echo "$MOUNTED" ;;
      *) [ -n "$ELSEWHERE" ] || exit 1; echo "$ELSEWHERE" ;;
    esac ;;
  systemctl)
    case "$*" in
      is-active*) [ -n "$RUNS" ] || { echo inactive; exit 3; }; echo active ;;
    esac ;;
  blkid) echo "$HAS" ;;
esac
"""


@dataclass
class Host:
    root: Path
    answers: dict[str, str]

    def disk(self, name: str, serial: str, model: str = EBS) -> None:
        device = self.root / "sys/block" / name / "device"
        device.mkdir(parents=True)
        (device.parent / "holders").mkdir()
        (device / "serial").write_text(f"{serial}\n")
        (device / "model").write_text(f"{model:<40}\n")

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        calls = self.root / "calls"
        calls.write_text("")
        environment = {"PATH": f"{self.root}/bin:{os.environ['PATH']}", "CALLS": str(calls)}
        return subprocess.run(
            ["sh", "-c", (SCRIPTS / name).read_text(), name, str(self.root), *arguments],
            env=environment | self.answers,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        return [line.split()[0] for line in (self.root / "calls").read_text().splitlines()]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "bin").mkdir()
    names = ("findmnt", "systemctl", "umount", "mount", "blkid", "blockdev", "sync", "flock")
    for name in names:
        stub = tmp_path / "bin" / name
        stub.write_text(STUB)
        stub.chmod(0o755)
    for folder in ("run", "etc/systemd/system", "etc/strongbox"):
        (tmp_path / folder).mkdir(parents=True)
    made = Host(tmp_path, {"MOUNTED": "", "ELSEWHERE": "", "RUNS": "", "HAS": "xfs"})
    made.disk("nvme0n1", "AWS22AAAA", "Amazon EC2 NVMe Instance Storage")
    made.disk("nvme1n1", OLD)
    return made


def look(host: Host) -> facts.Seen:
    result = host.run("look.sh", "kafka", TARGET)
    assert result.returncode == 0, result.stderr
    return facts.parse(result.stdout.splitlines())


def test_look(host: Host) -> None:
    (host.root / "sys/block/sda").mkdir()
    seen = look(host)
    assert seen.disks == (
        NvmeDisk("nvme0n1", "AWS22AAAA", "Amazon EC2 NVMe Instance Storage"),
        NvmeDisk("nvme1n1", OLD, EBS),
    )
    assert (seen.mounted, seen.running, seen.verified) == ({}, False, {})
    host.answers |= {"MOUNTED": "/dev/nvme1n1", "RUNS": "yes"}
    lines = "vol-0000000a arn:aws:kms:x\nnonsense\nvol-0000000a not-a-key\n"
    (host.root / "etc/strongbox/ebs-verified").write_text(lines)
    seen = look(host)
    assert seen.mounted == {TARGET: "/dev/nvme1n1"}
    assert seen.running
    assert seen.verified == {"vol-0000000a": "arn:aws:kms:x"}


def test_a_cut_off_look_is_not_an_empty_host() -> None:
    fact = facts.HostDisks()
    assert fact.process(["nvme\tnvme1n1\tvol1\tx"]) is None
    assert fact.process([facts.END]) == facts.Seen((), {}, False, {})
    assert facts.Succeeds().process(["yes"]) is None
    assert facts.Succeeds().process(["no", facts.END]) is False


def test_wait(host: Host) -> None:
    assert host.run("wait.sh", OLD, "0").returncode == 0
    late = host.run("wait.sh", NEW, "0")
    assert late.returncode == 1
    assert f"no NVMe disk with the serial {NEW} came within 0 s" in late.stderr


def unmount(host: Host) -> subprocess.CompletedProcess[str]:
    return host.run("unmount.sh", TARGET, OLD, "kafka")


def test_unmount(host: Host) -> None:
    assert unmount(host).returncode == 0
    assert "umount" not in host.calls
    host.answers["MOUNTED"] = "/dev/nvme1n1"
    result = unmount(host)
    assert result.returncode == 0, result.stderr
    assert host.calls[-3:] == ["umount", "findmnt", "blockdev"]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"RUNS": "yes"}, "kafka runs; nothing was unmounted"),
        ({"MOUNTED": "/dev/nvme0n1"}, f"has the serial AWS22AAAA, expected {OLD}"),
        ({"MOUNTED": "/dev/mapper/strongbox-main"}, "is not an NVMe disk"),
    ],
)
def test_unmount_refuses(host: Host, answers: dict[str, str], said: str) -> None:
    host.answers |= {"MOUNTED": "/dev/nvme1n1", **answers}
    result = unmount(host)
    assert result.returncode == 1
    assert said in result.stderr
    assert "umount" not in host.calls


def test_a_volume_in_use_elsewhere_is_told(host: Host) -> None:
    host.answers |= {"MOUNTED": "/dev/nvme1n1", "ELSEWHERE": "/mnt"}
    result = unmount(host)
    assert result.returncode == 1
    assert "is still mounted or used elsewhere" in result.stderr


def mount(host: Host) -> subprocess.CompletedProcess[str]:
    return host.run("mount.sh", TARGET, NEW, "xfs", "kafka")


def test_mount(host: Host) -> None:
    host.disk("nvme2n1", NEW)
    result = mount(host)
    assert result.returncode == 0, result.stderr
    done = (host.root / "calls").read_text().splitlines()
    assert done[-1] == f"mount -t xfs -o noatime,nodev,nosuid,noexec /dev/nvme2n1 {TARGET}"
    host.answers["MOUNTED"] = "/dev/nvme2n1"
    assert mount(host).returncode == 0
    assert "mount" not in host.calls


def test_the_new_volume_is_named_where_the_old_one_was(host: Host) -> None:
    fstab = host.root / "etc/fstab"
    fstab.write_text(f"/dev/root / ext4\n{LINK}{OLD} {TARGET} xfs\n")
    declared = host.root / "etc/strongbox/volumes"
    declared.write_text(f"# KIND\nebs {TARGET} vol-0000000a\nebs {TARGET}-data1 vol-0000000a\n")
    other = host.root / "etc/systemd/system/other.mount"
    other.write_text("What=/dev/root\n")
    for _ in range(2):
        result = host.run("rename.sh", TARGET, NEW, OLD)
        assert result.returncode == 0, result.stderr
        assert fstab.read_text() == f"/dev/root / ext4\n{LINK}{NEW} {TARGET} xfs\n"
        # As the start guard reads it, for this mount point.
        assert declared.read_text() == (
            f"# KIND\nebs {TARGET} vol-0000000b\nebs {TARGET}-data1 vol-0000000a\n"
        )
        assert other.read_text() == "What=/dev/root\n"
    assert host.calls == ["systemctl"]


@pytest.mark.parametrize(
    ("answers", "serial", "said"),
    [
        ({"RUNS": "yes"}, NEW, "kafka runs"),
        ({"MOUNTED": "/dev/nvme1n1"}, NEW, "/dev/nvme1n1 is mounted there already"),
        ({"HAS": "ext4"}, NEW, "has ext4, expected xfs"),
        ({}, "vol0000000c", f"no NVMe disk has the serial {NEW}"),
    ],
)
def test_mount_refuses(host: Host, answers: dict[str, str], serial: str, said: str) -> None:
    host.disk("nvme2n1", serial)
    host.answers |= answers
    result = mount(host)
    assert result.returncode == 1
    assert said in result.stderr
    assert "mount" not in host.calls
