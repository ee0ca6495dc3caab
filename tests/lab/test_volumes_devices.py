"""The scripts of the volumes role on real disks: what is recognised, refused and formatted.

On loop devices of this machine, whose kernel need not have device-mapper: volumes are formatted
here, not opened.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import struct
import subprocess
import uuid
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from roles.custody.protocol import WrappedKey
from roles.volumes import scripts
from roles.volumes.look import parse
from roles.volumes.names import luks_uuid
from roles.volumes.plan import (
    GIB,
    SMALLEST,
    Action,
    Reason,
    Refusal,
    Seen,
    Wanted,
    Why,
    new_label,
    plan,
)
from roles.volumes.settings import Volume
from roles.volumes.token import Token
from tests.lab.disks import MIB, Disk, MakeDisk, disk  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
Result = subprocess.CompletedProcess[str]
HOST = "kafka1.example"
UUID = luks_uuid("canary", HOST, "main")
OTHER = luks_uuid("canary", "kafka2.example", "main")
OURS = {UUID: "volume 'main' of kafka1", OTHER: "volume 'main' of kafka2"}
KEY = secrets.token_bytes(64)
TOKEN = Token(0, 1, WrappedKey("age", "recipients", "d3JhcHBlZA=="))
STRACE = ("strace", "-f", "-qq", "-o", "/dev/null")
SIZE = 64
MARK_AT = 16 * MIB


def run(name: str, *arguments: str, stdin: str = "", under: tuple[str, ...] = ()) -> Result:
    return subprocess.run(
        [*under, "sh", "-c", scripts.text(name), name, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def declared(made: Disk, **settings: object) -> Wanted:
    values: dict[str, object] = {"min_gib": 0, "max_gib": 1, "filesystem": "ext4"}
    volume = Volume(device=made.path, **(values | settings))  # type: ignore[arg-type]
    return Wanted(HOST, "main", volume, "/srv/strongbox-test-of-devices", UUID)


def look(made: Disk) -> Seen:
    volume = declared(made)
    result = run("look", volume.name, made.path, volume.mapping, volume.mount)
    assert result.returncode == 0, result.stderr
    return parse(result.stdout.splitlines()).volumes["main"]


def why(made: Disk, confirmed: str = "") -> Why | Reason:
    """For what reason the disk would be formatted, or would not."""
    found = plan(declared(made), look(made), OURS, confirmed=confirmed)
    if isinstance(found, Refusal):
        return found.reason
    assert found[0].action is Action.FORMAT
    return found[0].why


def format_disk(made: Disk, reason: str, under: tuple[str, ...] = (), **changes: str) -> Result:
    volume = declared(made)
    values = {
        "why": reason,
        "device": made.path,
        "uuid": UUID,
        "label": new_label("main"),
        "mapping": volume.mapping,
        "serial": str(made.backing),
        "min": "0",
        "max": str(GIB),
    }
    stdin = f"{base64.b64encode(KEY).decode()}\n{TOKEN.to_json()}\n"
    return run("format", *(values | changes).values(), stdin=stdin, under=under)


def luks(made: Disk, *options: str) -> None:
    tool("cryptsetup", "luksFormat", "--batch-mode", "--pbkdf", "pbkdf2",
         "--pbkdf-force-iterations", "1000", "--key-file", "-", *options, made.path,
         stdin="foreign")  # fmt: skip


def tool(*command: str, stdin: str = "") -> str:
    result = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}: {result.stderr}"
    return result.stdout


def backup_gpt(made: Disk) -> None:
    tool("sgdisk", "--new=1:2048:0", made.path)
    made.write(0, bytes(MIB))


def lvm(made: Disk) -> None:
    """A physical volume's label, as lib/label/label.h of LVM2 has it."""
    checked = struct.pack("<I8s32s", 32, b"LVM2 001", b"a" * 32)
    sector = checked + bytes(512 - 20 - len(checked))
    crc = zlib.crc32(sector, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    made.write(512, struct.pack("<8sQI", b"LABELONE", 1, crc) + sector)


def md(made: Disk) -> None:
    """A superblock 1.2, as linux/raid/md_p.h has it."""
    block = struct.pack("<IIII16s", 0xA92B4EFC, 1, 0, 0, uuid.uuid4().bytes).ljust(144, b"\0")
    made.write(4096, (block + struct.pack("<Q", 8)).ljust(256, b"\0"))


def no_header(made: Disk) -> None:
    """LUKS whose header and second header are gone; key material and data are left."""
    luks(made)
    made.write(0, bytes(32768))


def ambivalent(made: Disk) -> None:
    tool("mkfs.ext4", "-q", made.path)
    made.write(0, struct.pack("<4s24xHH", b"hsqs", 4, 0))  # squashfs 4.0


CONTENT: dict[str, tuple[Callable[[Disk], object], Reason]] = {
    "xfs": (lambda made: tool("mkfs.xfs", "-q", made.path), Reason.FILESYSTEM),
    "ext4": (lambda made: tool("mkfs.ext4", "-q", made.path), Reason.FILESYSTEM),
    "swap": (lambda made: tool("mkswap", made.path), Reason.SWAP),
    "gpt": (lambda made: tool("sgdisk", "--new=1:2048:0", made.path), Reason.PARTITION_TABLE),
    "dos": (lambda made: tool("sfdisk", made.path, stdin="start=2048\n"), Reason.PARTITION_TABLE),
    "backup gpt": (backup_gpt, Reason.BACKUP_GPT),
    "lvm": (lvm, Reason.LVM),
    "md": (md, Reason.MD_MEMBER),
    "ambivalent": (ambivalent, Reason.AMBIVALENT),
    "luks": (luks, Reason.FOREIGN_LUKS),
    "luks1": (lambda made: luks(made, "--type", "luks1"), Reason.FOREIGN_LUKS),
    "other cluster": (lambda made: luks(made, "--label", "strongbox-main"), Reason.OTHER_CLUSTER),
    "other host": (lambda made: luks(made, "--uuid", OTHER), Reason.OTHER_VOLUME),
    "first header gone": (
        lambda made: (luks(made), made.write(0, bytes(16384))),
        Reason.FOREIGN_LUKS,
    ),
    "no header": (no_header, Reason.DATA_WITHOUT_SIGNATURE),
    "data at the start": (lambda made: made.write(9, b"x"), Reason.DATA_WITHOUT_SIGNATURE),
    "data before the mark": (
        lambda made: made.write(MARK_AT - 1, b"x"),
        Reason.DATA_WITHOUT_SIGNATURE,
    ),
    "data at the mark": (lambda made: made.write(MARK_AT, b"x"), Reason.DATA_WITHOUT_SIGNATURE),
    "data behind the mark": (
        lambda made: made.write(MARK_AT + 4096, b"x"),
        Reason.DATA_WITHOUT_SIGNATURE,
    ),
    "random data": (
        lambda made: made.write(30 * MIB, secrets.token_bytes(MIB)),
        Reason.DATA_WITHOUT_SIGNATURE,
    ),
    "data in the last byte": (
        lambda made: made.write(SIZE * MIB - 1, b"x"),
        Reason.DATA_WITHOUT_SIGNATURE,
    ),
    "data 4 MiB before the end": (
        lambda made: made.write((SIZE - 4) * MIB, b"x"),
        Reason.DATA_WITHOUT_SIGNATURE,
    ),
}


@pytest.mark.parametrize("content", CONTENT)
def test_a_disk_with_content_stays_byte_for_byte(content: str, disk: MakeDisk) -> None:  # noqa: F811
    fill, reason = CONTENT[content]
    made = disk(400 if content == "xfs" else SIZE)
    fill(made)
    before = made.sha256()
    assert why(made) is reason
    # Whatever the plan thought, the host looks again.
    for excuse in ("empty", "interrupted"):
        refused = format_disk(made, excuse)
        assert refused.returncode == 1 and "not formatted" in refused.stderr, refused.stderr
    ebs = run("mkfs", made.path, UUID, "-", "-", "ext4", UUID)
    assert ebs.returncode == 1 and made.path in ebs.stderr, ebs.stderr
    assert made.sha256() == before


def test_an_empty_disk_is_formatted_as_declared(disk: MakeDisk) -> None:  # noqa: F811
    made = disk(SIZE)
    assert why(made) is Why.EMPTY
    result = format_disk(made, "empty")
    assert result.returncode == 0, result.stderr
    assert base64.b64encode(KEY).decode() not in result.stdout + result.stderr
    header = json.loads(tool("cryptsetup", "luksDump", "--dump-json-metadata", made.path))
    segment = header["segments"]["0"]
    assert (segment["encryption"], segment["sector_size"]) == ("aes-xts-plain64", 4096)
    slot = header["keyslots"]["0"]
    assert (slot["key_size"], slot["kdf"]["type"], slot["kdf"]["iterations"]) == (
        64, "pbkdf2", 1000,
    )  # fmt: skip
    seen = look(made)
    assert seen.luks is not None
    assert (seen.luks.uuid, seen.luks.label) == (UUID, "strongbox-new-main")
    assert seen.luks.token == TOKEN
    opened = subprocess.run(
        ["cryptsetup", "open", "--test-passphrase", "--key-file", "-", made.path],
        input=KEY, capture_output=True, check=False,
    )  # fmt: skip
    assert opened.returncode == 0
    # It has no file system, so it is formatted anew; as soon as its label is final, never again.
    assert why(made) is Why.INTERRUPTED
    tool("cryptsetup", "config", "--label", "strongbox-main", made.path)
    before = made.sha256()
    assert [step.action for step in plan(declared(made), look(made), OURS)] == [  # type: ignore[union-attr]
        Action.OPEN,
        Action.MOUNT,
    ]
    for excuse in ("empty", "interrupted", "wipe"):
        assert format_disk(made, excuse).returncode == 1
    assert made.sha256() == before


def finish(made: Disk, sys: Path, opened: Disk) -> Result:
    """finish.sh with a made-up /sys, in which *opened* stands for the mapping's device."""
    text = scripts.text("finish")
    for path, other in (("/sys/class/block", str(sys)), ('"/dev/$opened"', opened.path)):
        assert path in text
        text = text.replace(path, other)
    arguments = [made.path, UUID, "strongbox-main", declared(made).mapping, "ext4"]
    return subprocess.run(
        ["sh", "-c", text, "finish", *arguments], capture_output=True, text=True, check=False
    )


def test_the_final_label_needs_the_open_file_system(disk: MakeDisk, tmp_path: Path) -> None:  # noqa: F811
    made, opened = disk(SIZE), disk(SIZE)
    assert format_disk(made, "empty").returncode == 0
    before = made.sha256()
    sys = tmp_path / "sys"
    mapping = sys / "dm-0"

    def refused(message: str) -> None:
        result = finish(made, sys, opened)
        assert result.returncode == 1 and message in result.stderr, result.stderr
        assert made.sha256() == before

    sys.mkdir()
    refused("is not open")
    (mapping / "dm").mkdir(parents=True)
    (mapping / "dm/name").write_text("strongbox-main\n")
    (mapping / "dm/uuid").write_text(f"CRYPT-LUKS2-{OTHER.replace('-', '')}-strongbox-main\n")
    refused("is another volume")
    (mapping / "dm/uuid").write_text(f"CRYPT-LUKS2-{UUID.replace('-', '')}-strongbox-main\n")
    (mapping / "slaves/loop4095").mkdir(parents=True)
    refused("is open on another disk")
    (mapping / "slaves" / Path(made.path).name).mkdir()
    refused("holds no ext4")
    tool("mkfs.ext4", "-q", opened.path)
    result = finish(made, sys, opened)
    assert result.returncode == 0, result.stderr
    seen = look(made)
    assert seen.luks is not None and seen.luks.label == "strongbox-main"
    assert format_disk(made, "interrupted").returncode == 1


def test_looking_repairs_nothing(disk: MakeDisk) -> None:  # noqa: F811
    made = disk(SIZE)
    format_disk(made, "empty")
    tool("cryptsetup", "config", "--label", "strongbox-main", made.path)
    made.write(0, bytes(16384))
    before = made.sha256()
    seen = look(made)
    assert made.sha256() == before
    assert seen.luks is not None and seen.luks.torn == "first"
    found = plan(declared(made), seen, OURS)
    assert isinstance(found, list) and found[0].action is Action.REPAIR
    repaired = run("repair", made.path, UUID)
    assert repaired.returncode == 0, repaired.stderr
    seen = look(made)
    assert seen.luks is not None and seen.luks.torn == ""


def test_a_volume_under_another_signature_is_not_formatted(disk: MakeDisk) -> None:  # noqa: F811
    made = disk(SIZE)
    format_disk(made, "empty")
    tool("cryptsetup", "config", "--label", "strongbox-main", made.path)
    made.write(0, bytes(4096))
    md(made)
    before = made.sha256()
    assert why(made, confirmed=f"{HOST}:{made.backing}") is Reason.DAMAGED_HEADER
    assert made.sha256() == before


def test_in_use_or_not_the_declared_disk(disk: MakeDisk, tmp_path: Path) -> None:  # noqa: F811
    mounted = disk(SIZE)
    tool("mkfs.ext4", "-q", mounted.path)
    folder = tmp_path / "mounted"
    folder.mkdir()
    tool("mount", "-o", "ro", mounted.path, str(folder))
    before = mounted.sha256()
    assert look(mounted).exclusive is False
    for confirmed in ("", f"{HOST}:{mounted.backing}"):
        assert why(mounted, confirmed) is Reason.MOUNTED
    for excuse in ("empty", "wipe"):
        assert "mounted" in format_disk(mounted, excuse).stderr
    assert mounted.sha256() == before

    read_only = disk(SIZE, read_only=True)
    assert why(read_only) is Reason.READ_ONLY
    assert format_disk(read_only, "empty").returncode == 1

    empty = disk(SIZE)
    small = declared(empty, min_gib=1, max_gib=2)
    found = plan(small, look(empty), OURS)
    assert isinstance(found, Refusal) and found.reason is Reason.WRONG_SIZE
    assert "bytes; not formatted" in format_disk(empty, "empty", min=str(GIB)).stderr
    assert "not the disk that was looked at" in format_disk(empty, "empty", serial="x").stderr
    assert SMALLEST["xfs"] > SIZE * MIB
    found = plan(declared(empty, filesystem="xfs"), look(empty), OURS)
    assert isinstance(found, Refusal) and found.reason is Reason.TOO_SMALL
    assert empty.sha256() == disk(SIZE).sha256()


def test_swap_in_use(disk: MakeDisk) -> None:  # noqa: F811
    made = disk(SIZE)
    tool("mkswap", made.path)
    listed = Path("/proc/swaps")
    if not listed.exists():
        pytest.skip("this kernel has no swap")
    seen = replace(look(made), swap=True)
    found = plan(declared(made), seen, OURS, confirmed=f"{HOST}:{seen.serial}")
    assert isinstance(found, Refusal) and found.reason is Reason.SWAP_IN_USE


def test_an_absent_or_failing_disk(disk: MakeDisk) -> None:  # noqa: F811
    made = disk(SIZE)
    gone = replace(made, path="/dev/loop4095")
    assert why(gone) is Reason.ABSENT
    assert "the disk is gone" in format_disk(gone, "empty").stderr
    # A loop device over a file that is too short answers with I/O errors.
    with made.backing.open("r+b") as file:
        file.truncate(40 * MIB)
    assert why(made) is Reason.UNREADABLE
    assert format_disk(made, "empty").returncode == 1
    with made.backing.open("r+b") as file:
        file.truncate(0)
    assert why(made) is Reason.UNREADABLE
    assert format_disk(made, "empty").returncode == 1


@pytest.mark.parametrize("content", ["xfs", "backup gpt", "gpt", "luks", "random data", "lvm"])
def test_a_confirmed_disk_is_wiped(content: str, disk: MakeDisk) -> None:  # noqa: F811
    made = disk(400 if content == "xfs" else SIZE)
    CONTENT[content][0](made)
    assert why(made, confirmed=f"{HOST}:{made.backing}") is Why.WIPE_CONFIRMED
    result = format_disk(made, "wipe")
    assert result.returncode == 0, result.stderr
    assert look(made).signatures == ("0x0 crypto_LUKS", "0x4000 crypto_LUKS")
    assert why(made) is Why.INTERRUPTED


@pytest.mark.parametrize("write", [1, 2, 3, 4, 6, 9, 14, 20, 24, 27, 30])
def test_formatting_that_was_killed_begins_again(write: int, disk: MakeDisk) -> None:  # noqa: F811
    """Killed at the given write of each process: of the mark, the header, its copy, the token."""
    made = disk(SIZE)
    inject = f"inject=write,pwrite64:signal=KILL:when={write}"
    cut = format_disk(made, "empty", under=(*STRACE, "-P", made.path, "-e", inject))
    reason = why(made)
    assert reason in (Why.EMPTY, Why.INTERRUPTED), cut.stderr
    again = format_disk(made, {Why.EMPTY: "empty"}.get(reason, "interrupted"))  # type: ignore[arg-type]
    assert again.returncode == 0, again.stderr
    seen = look(made)
    assert seen.luks is not None and seen.luks.token == TOKEN
