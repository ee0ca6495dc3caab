"""The life of a volume's keys on a host with a kernel of its own, while the volume is in use."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.state import PROJECT, Lab
from roles.custody.age import AgeCustody
from roles.custody.identity import IdentitySource, create
from roles.custody.protocol import WrappedKey
from roles.custody.records import Records
from roles.volumes.keys import header, tokens
from roles.volumes.keys.life import Life, VolumeKeys
from roles.volumes.keys.plan import KeyToken, Purpose
from roles.volumes.keys.script import Result as ScriptResult
from roles.volumes.keys.script import Script

pytestmark = [
    pytest.mark.own_kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="tap devices need root"),
]
HOST, DISK = "zk1", "/dev/disk/by-id/lab-main"
MOUNT = "/srv/strongbox"
Result = subprocess.CompletedProcess[str]

_INVENTORY = """\
import runpy
globals().update(
    {{k: v for k, v in runpy.run_path({lab!r}).items() if not k.startswith("_")}}
)
custody = {custody!r}
zookeepers = [(name, data | custody) for name, data in zookeepers]
"""


def until(condition: Callable[[], bool], what: str, patience_s: float = 180) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.5)


@dataclass
class Guest:
    """One host with one volume, and the controller's side of its keys."""

    lab: Lab
    inventory: Path
    custody: AgeCustody
    records: Records
    keys: VolumeKeys

    def tool(self, *arguments: str, stdin: str = "") -> Result:
        return subprocess.run(
            [sys.executable, "-m", "lab", "--name", self.lab.name, *arguments],
            cwd=PROJECT, input=stdin, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def ssh(self, command: str) -> str:
        result = self.tool("ssh", HOST, command)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def started(self, deploy: str, *options: str) -> subprocess.Popen[str]:
        # With -y a dry run would not look for changes.
        answer = () if "--dry" in options else ("-y",)
        return subprocess.Popen(
            [sys.executable, "-m", "pyinfra", *answer, str(self.inventory), deploy, *options],
            cwd=PROJECT, env=os.environ | {"STRONGBOX_LAB": self.lab.name}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def pyinfra(self, deploy: str, *options: str, status: int = 0) -> str:
        run = self.started(deploy, *options)
        output = run.communicate(timeout=300)[0]
        assert run.returncode == status, output
        return output

    def run_script(self, script: Script) -> ScriptResult:
        """As `roles.volumes.keys.operations.on_host`, over the lab's own ssh."""
        done = self.tool("ssh", HOST, f"sudo {script.command}", stdin=script.input)
        return ScriptResult(done.returncode, done.stdout.splitlines(), done.stderr.splitlines())

    def header(self) -> header.Header:
        found = self.run_script(Script("keys-look", (DISK,)))
        assert found.status == 0, found.errors
        return header.parse(found.output)[DISK]

    def key(self, purpose: Purpose) -> bytes:
        token = tokens.seen(self.header()).current(purpose)
        assert token is not None
        return Life(self.keys, self.run_script, self.custody, self.records).key_of(token)

    def opens(self, key: bytes) -> bool:
        """Whether a key opens any keyslot, as cryptsetup itself says."""
        opened = self.tool(
            "ssh", HOST,
            f"base64 -d | sudo cryptsetup open --test-passphrase --key-file - {DISK}",
            stdin=base64.b64encode(key).decode(),
        )  # fmt: skip
        return opened.returncode == 0

    def slots_opened_by(self, key: bytes) -> list[int]:
        found = self.header()
        life = Life(self.keys, self.run_script, _Fixed(key), self.records)
        wrapped = WrappedKey("fixed", "-", "AAAA")
        return [
            slot
            for slot in sorted(found.keyslots)
            if life.opens(found, KeyToken(0, Purpose.VOLUME, 1, slot, wrapped=wrapped))
        ]


class _Fixed(AgeCustody):
    """Unwraps to one key, to try a key that no token has any more."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def unwrap(self, wrapped: WrappedKey, context: Any) -> bytes:
        return self._key


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    lab = Lab("keylife")
    folder = tmp_path_factory.mktemp("controller")
    custody = AgeCustody([create(folder / "age")], IdentitySource(str(folder / "age"), ()))
    inventory = folder / "lab.py"  # the name gives the hosts what group_data/lab.py says
    settings = {
        "custody_recipients": [custody.describe().split("(")[1].rstrip(")")],
        "custody_identity_file": str(folder / "age"),
        "custody_records_dir": str(folder / "records"),
    }
    inventory.write_text(
        _INVENTORY.format(lab=str(PROJECT / "inventories" / "lab.py"), custody=settings)
    )
    keys = VolumeKeys("lab", f"{HOST}.lab.test", "main", DISK)
    made = Guest(lab, inventory, custody, Records(folder / "records", custody), keys)
    up = made.tool("up", "--driver", "uml", "--zookeepers", "1", "--brokers", "0")
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield made
    finally:
        made.tool("down")


def test_life_of_the_keys_of_a_volume_in_use(guest: Guest) -> None:
    """One after the other, as the host is dear: set up, rotated, re-encrypted through a power cut,
    header lost and restored, erased."""
    planned = guest.pyinfra("tests/lab/volumes_only.py", "--dry")
    done = guest.pyinfra("tests/lab/volumes_only.py")
    for step in ("escrow a new recovery key", "add the new recovery key", "seal a backup"):
        assert step in planned
        assert f"done: {step}" in done
    asked = guest.ssh("findmnt -n -o SOURCE " + MOUNT).strip()
    assert asked == "/dev/mapper/strongbox-main"
    assert "done:" not in guest.pyinfra("tests/lab/volumes_only.py")
    _rotation_while_it_is_written_to(guest)
    _refused(guest)
    _reencryption_through_a_power_cut(guest)
    _header_restored(guest)
    _erased(guest)


def _rotation_while_it_is_written_to(guest: Guest) -> None:
    old = {purpose: guest.key(purpose) for purpose in Purpose}
    guest.ssh(
        f"sudo sh -c 'umask 077; cd {MOUNT}; (n=0; while :; do n=$((n + 1)); echo $n >>written || "
        "echo failed >>/run/write-failed; sync written; sleep 0.1; done) >/dev/null 2>&1 & "
        "echo $! >/run/writer'"
    )
    before = int(guest.ssh(f"sudo tail -n 1 {MOUNT}/written"))
    shown = guest.pyinfra("deploys/rotate_volume_keys.py", "-vvv", "--data", "volumes_rotate=all")
    assert "Rotation of volume keys" in shown
    for purpose in Purpose:
        assert guest.slots_opened_by(old[purpose]) == []
        assert len(guest.slots_opened_by(guest.key(purpose))) == 1
        _assert_not_shown(shown, old[purpose], guest.key(purpose))
    # The start of anything that gzip made: what a fact reads is shown, a header backup is not.
    facts = sum(shown.count(f"{copy} H4sI") for copy in ("first", "second"))
    assert shown.count("H4sI") == facts > 0
    assert int(guest.ssh(f"sudo tail -n 1 {MOUNT}/written")) > before
    guest.ssh("sudo kill $(sudo cat /run/writer) && ! test -e /run/write-failed")


def _assert_not_shown(shown: str, *keys: bytes) -> None:
    for key in keys:
        assert base64.b64encode(key).decode() not in shown
        assert key.hex() not in shown
        assert not key.isascii() or key.decode() not in shown


def _refused(guest: Guest) -> None:
    for deploy, options, said in (
        ("reencrypt_volumes", (), "names no LUKS volume"),
        ("reencrypt_volumes", ("volumes_reencrypt_confirm=zk1/none",), "names no LUKS volume"),
        ("restore_header", ("volumes_restore=zk1.lab.test/main",), "is intact"),
        ("erase_volumes", (), "nothing is erased without"),
        ("erase_volumes", ("volumes_erase_confirm=lab-other",), "is no disk of a declared volume"),
        ("erase_volumes", ("volumes_erase_confirm=lab-main",), "is open"),
    ):
        data = [word for option in options for word in ("--data", option)]
        assert said in guest.pyinfra(f"deploys/{deploy}.py", *data, status=1)


def _reencryption_through_a_power_cut(guest: Guest) -> None:
    digests = guest.header().metadata["digests"]
    guest.ssh(f"sudo sh -c 'umask 077; echo canary-of-reencryption >{MOUNT}/canary; sync'")
    confirm = ("--data", f"volumes_reencrypt_confirm={guest.keys.name}")
    run = guest.started("deploys/reencrypt_volumes.py", *confirm)
    until(
        lambda: any("reencrypt" in item for item in guest.header().requirements),
        "the re-encryption began",
    )
    # Some of the data is under the new volume key now, some under the old.
    until(lambda: len(guest.header().metadata["segments"]) > 2, "data is re-encrypted")
    assert guest.tool("cut", HOST).returncode == 0
    run.kill()
    run.communicate()
    assert guest.tool("start", HOST).returncode == 0
    assert guest.header().requirements
    assert "re-encryption was begun" in guest.pyinfra("deploys/rotate_volume_keys.py", status=1)
    assert "open it with" in guest.pyinfra("deploys/reencrypt_volumes.py", *confirm, status=1)
    guest.pyinfra("tests/lab/volumes_only.py", "--data", "x_step=unlock")
    assert "canary-of-reencryption" in guest.ssh(f"sudo cat {MOUNT}/canary")
    guest.pyinfra("deploys/reencrypt_volumes.py", *confirm)
    after = guest.header()
    assert not after.requirements
    assert after.metadata["digests"] != digests
    for purpose in Purpose:
        assert len(guest.slots_opened_by(guest.key(purpose))) == 1
    assert "canary-of-reencryption" in guest.ssh(f"sudo cat {MOUNT}/canary")


def _header_restored(guest: Guest) -> None:
    restore = ("deploys/restore_header.py", "--data", f"volumes_restore={guest.keys.name}")
    whole = guest.header()
    # While it is open, so that nothing is lost even when somebody notices in time only.
    guest.ssh(f"sudo dd if=/dev/urandom of={DISK} bs=32K count=1 conv=notrunc,fsync status=none")
    assert guest.header().newest is None
    assert "restore the header from the newest backup" in guest.pyinfra(*restore, "--dry")
    assert guest.header().newest is None
    assert "the machine key opens keyslot" in guest.pyinfra(*restore)
    assert guest.header().metadata == whole.metadata
    assert guest.tool("reboot", HOST).returncode == 0
    guest.pyinfra("tests/lab/volumes_only.py", "--data", "x_step=unlock")
    assert "canary-of-reencryption" in guest.ssh(f"sudo cat {MOUNT}/canary")


def _erased(guest: Guest) -> None:
    keys = [guest.key(purpose) for purpose in Purpose]
    image = guest.records.open_header(
        guest.keys.context("header"),
        guest.records.headers(guest.keys.context("header"))[0].path,
    )
    assert header.read_backup(image) is not None
    guest.ssh(f"sudo umount {MOUNT} && sudo cryptsetup close strongbox-main")
    erase = ("deploys/erase_volumes.py", "--data", "volumes_erase_confirm=lab-main")
    assert "erase the header" in guest.pyinfra(*erase, "--dry")
    assert guest.header().whole
    guest.pyinfra(*erase)
    assert guest.header().newest is None
    assert not any(guest.opens(key) for key in keys)
    assert guest.records.headers(guest.keys.context("header")) == []
    assert "erase the header" not in guest.pyinfra(*erase)
