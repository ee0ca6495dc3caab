"""What the volumes leave on the root disk, and the script that keeps other lines as they are."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from roles.common.plan import ManagedFile
from roles.volumes import files, scripts
from roles.volumes.files import VolumesHost
from roles.volumes.look import Looked, parse
from roles.volumes.names import luks_uuid
from roles.volumes.plan import MountPoint
from roles.volumes.settings import Volume, VolumesSettings

EBS = "vol-0123456789abcdef0"


def no_custody() -> Any:
    raise AssertionError("custody was asked")


def host(unlock: str = "controller", **layout: Volume) -> VolumesHost:
    main = Volume(device="/dev/disk/by-id/main", min_gib=9, max_gib=11)
    settings = VolumesSettings(
        layout={"main": main, **layout},
        unlock=unlock,  # type: ignore[arg-type]
    )
    return VolumesHost(
        "payments", "kafka1.example", "/srv/strongbox", settings, no_custody, {}, "kafka"
    )


DATA = Volume(device="/dev/disk/by-id/data0", min_gib=9, max_gib=11, filesystem="ext4")
ON_EBS = Volume(
    device="/dev/disk/by-id/ebs", min_gib=9, max_gib=11, encryption="ebs", ebs_volume=EBS
)
UUID = luks_uuid("payments", "kafka1.example", "main")


def test_what_the_controller_opens_is_in_no_table() -> None:
    assert files.fstab(host()) == []
    assert files.crypttab(host(), {"main": False}) == []


def test_what_opens_at_boot() -> None:
    boot = host("boot", data0=DATA)
    rotational = {"main": False, "data0": True}
    assert files.crypttab(boot, rotational) == [
        f"strongbox-main UUID={UUID} /run/strongbox/key.sock luks,_netdev,nofail,headless=true,"
        "discard,no-read-workqueue,no-write-workqueue",
        f"strongbox-data0 UUID={luks_uuid('payments', 'kafka1.example', 'data0')} "
        "/run/strongbox/key.sock luks,_netdev,nofail,headless=true",
    ]
    options = "noatime,nodev,noexec,nosuid,_netdev,nofail,x-systemd.device-timeout=infinity 0 0"
    assert files.fstab(boot) == [
        f"/dev/mapper/strongbox-main /srv/strongbox xfs {options}",
        f"/dev/mapper/strongbox-data0 /srv/strongbox-data0 ext4 {options}",
    ]


def test_ebs_is_mounted_at_boot_by_its_uuid() -> None:
    ebs = host(data0=ON_EBS)
    uuid = luks_uuid("payments", "kafka1.example", "data0")
    assert [line.split()[:3] for line in files.fstab(ebs)] == [
        [f"UUID={uuid}", "/srv/strongbox-data0", "xfs"]
    ]


def test_the_guard_knows_every_volume() -> None:
    wanted = files.wanted(host(data0=ON_EBS))
    texts = {item.path: item.content for item in wanted if isinstance(item, ManagedFile)}
    assert texts[files.DECLARED].decode().splitlines()[1:] == [
        "luks /srv/strongbox strongbox-main",
        f"ebs /srv/strongbox-data0 {EBS}",
    ]
    assert texts[files.GUARD].startswith(b"#!/bin/sh\n")


def test_a_unit_waits_for_the_volumes_it_writes_to() -> None:
    node = host(data0=DATA, data1=DATA.model_copy(update={"device": "/dev/loop7"}))
    folders = ["/srv/strongbox/kafka/tls", "/srv/strongbox-data0/kafka"]
    mounts, command = files.guard(node, folders)
    assert mounts == ("/srv/strongbox", "/srv/strongbox-data0")
    assert command == f"{files.GUARD} {' '.join(folders)}"
    plain = VolumesHost(
        "c", "h", "/srv", VolumesSettings(unencrypted=True), no_custody, {}, "kafka"
    )
    assert files.guard(plain, folders) == ((), "")


def test_packages() -> None:
    assert files.packages(host().settings) == ("cryptsetup-bin", "xfsprogs")
    assert files.packages(VolumesSettings(unencrypted=True)) == ()


def test_known_volumes_are_named() -> None:
    known = files.known_volumes("payments", {"kafka1.example": host().settings})
    assert known == {UUID: "volume 'main' of kafka1.example"}


# The block in fstab and crypttab -----------------------------------------------------------------


def put(path: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    text = scripts.text("block").replace("systemctl daemon-reload", "echo reloaded")
    return subprocess.run(
        ["sh", "-c", text, "block", str(path)],
        input="\n".join(lines) + "\n", capture_output=True, text=True, check=False,
    )  # fmt: skip


BEGIN, END = "# strongbox volumes: begin", "# strongbox volumes: end"


def test_the_block_is_put_changed_and_removed(tmp_path: Path) -> None:
    table = tmp_path / "fstab"
    others = "# by hand\n/dev/sda1 / ext4 defaults 0 1\n\n"
    table.write_text(others)
    table.chmod(0o600)
    assert put(table, "one", "two").stdout == "reloaded\n"
    assert table.read_text() == f"{others}{BEGIN}\none\ntwo\n{END}\n"
    table.write_text(table.read_text() + "added later\n")
    put(table, "three")
    assert table.read_text() == f"{others}added later\n{BEGIN}\nthree\n{END}\n"
    assert table.stat().st_mode & 0o777 == 0o600
    put(table)
    assert table.read_text() == f"{others}added later\n"
    assert list(tmp_path.iterdir()) == [table]


def test_a_table_that_is_not_there_is_made(tmp_path: Path) -> None:
    put(tmp_path / "crypttab", "one")
    assert (tmp_path / "crypttab").read_text() == f"{BEGIN}\none\n{END}\n"


@pytest.mark.parametrize(
    "text",
    [f"{BEGIN}\nx\n", f"{END}\nx\n{BEGIN}\n", f"{BEGIN}\n{END}\n{BEGIN}\n{END}\n", f"{END}\n"],
)
def test_half_a_block_is_left_to_a_person(text: str, tmp_path: Path) -> None:
    table = tmp_path / "fstab"
    table.write_text(text)
    result = put(table, "one")
    assert result.returncode == 1 and "by hand" in result.stderr
    assert table.read_text() == text
    assert list(tmp_path.iterdir()) == [table]


def test_a_link_is_left_to_a_person(tmp_path: Path) -> None:
    (tmp_path / "fstab").symlink_to("/etc/fstab")
    assert put(tmp_path / "fstab", "one").returncode == 1


# What look.sh prints -----------------------------------------------------------------------------

LINES = """\
verified vol-1
block /etc/fstab UUID=1 /srv/strongbox xfs noatime 0 0
block /etc/fstab UUID=2 /srv/strongbox-data0 xfs noatime 0 0
volume main
kernel vdb
kind disk
bytes 10737418240
read-only 0
rotational 0
serial A B
holder dm-0
exclusive no
blkid 0
probe UUID=3
probe TYPE=crypto_LUKS
signature 0x0 crypto_LUKS
mapping dm-0
mapping-uuid CRYPT-LUKS2-3-strongbox-main
mapping-on vdb
mapping-mounted /srv/strongbox
mapping-blkid 0
mapping-probe UUID=4
mapping-probe TYPE=xfs
mount-point mounted dm-0 rw,noatime
volume data0
absent /dev/disk/by-id/x
mount-point empty
"""


def test_what_a_host_tells() -> None:
    looked = parse(LINES.splitlines())
    main, data = looked.volumes["main"], looked.volumes["data0"]
    assert looked.verified_ebs == {"vol-1"}
    assert [line.split()[0] for line in looked.blocks["/etc/fstab"]] == ["UUID=1", "UUID=2"]
    assert (main.kernel, main.serial, main.uuid, main.type) == ("vdb", "A B", "3", "crypto_LUKS")
    assert main.mapping is not None
    assert (main.mapping.on, main.mapping.filesystem) == (("vdb",), "xfs")
    assert main.mount_point == MountPoint("mounted", "dm-0", frozenset({"rw", "noatime"}))
    assert main.unknown == () and data.unknown == () and data.kernel == ""


@pytest.mark.parametrize(
    "text", ["volume main\n", "volume main\nkernel vdb\n", "volume main\nkernel vdb\nbytes 1\n",
             "volume main\nabsent x\nunknown y\n", LINES.replace("blkid 0\n", ""),
             LINES.replace("mapping-uuid", "luks !!\nmapping-uuid")]
)  # fmt: skip
def test_what_is_missing_is_unknown(text: str) -> None:
    assert parse(text.splitlines()).volumes["main"].unknown != ()


def test_nothing_was_looked_at() -> None:
    assert parse([]) == Looked({})
