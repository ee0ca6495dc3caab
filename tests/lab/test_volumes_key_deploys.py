"""The deploys about keys, run by pyinfra on this machine, with a loop device as the host's disk."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.state import PROJECT
from roles.custody.age import AgeCustody
from roles.custody.identity import IdentitySource, create
from roles.volumes.keys.life import look
from roles.volumes.keys.plan import Purpose
from tests.lab.disks import MakeDisk, disk  # noqa: F401
from tests.lab.local_keys import LocalVolume, formatted, local, opens

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
VOLUME = "zk1/main"

_COMPLETE = """\
from pyinfra import host, state
from roles.common.session import begin
from roles.volumes.keys.deploy import complete
from strongbox.site import volume_keys

begin()
complete(volume_keys(state.strongbox_cluster)[host.name], {})
"""

# This machine may have none, and is root already.
_SUDO = """\
#!/bin/sh
while case $1 in -*) ;; *) false ;; esac; do shift; done
exec "$@"
"""


@dataclass
class Controller:
    inventory: Path
    complete: Path
    volume: LocalVolume
    tools: Path

    def pyinfra(self, deploy: str | Path, *options: str, status: int = 0) -> str:
        # With -y a dry run would not look for changes.
        answer = () if "--dry" in options else ("-y",)
        done = subprocess.run(
            [sys.executable, "-m", "pyinfra", *answer, str(self.inventory), str(deploy), *options],
            cwd=PROJECT, env=os.environ | {"PATH": f"{self.tools}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout
        return done.stdout

    def header(self) -> object:
        return look(local, self.volume.keys)


@pytest.fixture
def controller(tmp_path: Path, disk: MakeDisk) -> Controller:  # noqa: F811
    identity = tmp_path / "age"
    custody = AgeCustody([create(identity)], IdentitySource(str(identity), ()))
    volume = formatted(disk(20), custody, tmp_path / "records")
    (tmp_path / "archive.tgz").write_bytes(b"")
    data = {
        "zookeeper_id": 1,
        "zookeeper_archive": str(tmp_path / "archive.tgz"),
        "zookeeper_archive_sha512": "0" * 128,
        "common_cluster": volume.keys.cluster,
        "common_hostname": volume.keys.host,
        "common_addresses": ["10.0.0.1"],
        "tls_authority_dir": str(tmp_path / "ca"),
        "custody_recipients": [create(tmp_path / "second"), *custody._recipients],
        "custody_identity_file": str(identity),
        "custody_records_dir": str(tmp_path / "records"),
        "volumes_layout": {
            "main": {"device": volume.device, "min_gib": 0.001, "max_gib": 1.0},
        },
    }
    inventory = tmp_path / "cluster.py"
    inventory.write_text(f"zookeepers = [('@local', {data!r})]\n")
    deploy = tmp_path / "complete.py"
    deploy.write_text(_COMPLETE)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sudo").write_text(_SUDO)
    (tools / "sudo").chmod(0o755)
    return Controller(inventory, deploy, volume, tools)


def test_rotation(controller: Controller) -> None:
    volume = controller.volume
    before = controller.header()
    planned = controller.pyinfra(controller.complete, "--dry")
    assert controller.header() == before
    assert not list(volume.records.recoveries(volume.keys.context("")))
    done = controller.pyinfra(controller.complete)
    steps = [line.split("done: ")[1] for line in done.splitlines() if "done: " in line]
    assert len(steps) == 5
    assert all(f"{VOLUME}: {step}" in planned for step in steps)
    assert "done:" not in controller.pyinfra(controller.complete)

    old = {purpose: volume.key(purpose) for purpose in Purpose}
    rotate = ("deploys/rotate_volume_keys.py", "--data", "volumes_rotate=all")
    before = controller.header()
    planned = controller.pyinfra(*rotate, "--dry", "--diff")
    assert "Rotation of volume keys" in planned
    assert controller.header() == before
    shown = controller.pyinfra(*rotate, "-vvv", "--debug")
    new = {purpose: volume.key(purpose) for purpose in Purpose}
    for purpose in Purpose:
        assert not opens(volume.device, old[purpose])
        assert opens(volume.device, new[purpose])
        for key in (old[purpose], new[purpose]):
            assert base64.b64encode(key).decode() not in shown
            assert key.hex() not in shown
            assert not key.isascii() or key.decode() not in shown
    # gzip's first bytes: what a fact reads is shown, the header backups on their way here are not.
    facts = sum(shown.count(f"{copy} H4sI") for copy in ("first", "second"))
    assert shown.count("H4sI") == facts > 0


def test_refusals(controller: Controller) -> None:
    controller.pyinfra(controller.complete)
    before = controller.header()
    for deploy, data, said in (
        ("reencrypt_volumes", "", "names no LUKS volume"),
        ("reencrypt_volumes", "volumes_reencrypt_confirm=zk1/none", "names no LUKS volume"),
        ("reencrypt_volumes", f"volumes_reencrypt_confirm={VOLUME}", "is not open"),
        ("restore_header", "", "names no LUKS volume"),
        ("restore_header", f"volumes_restore={VOLUME}", "is intact"),
        ("erase_volumes", "", "nothing is erased without"),
        ("erase_volumes", "volumes_erase_confirm=other", "is no disk of a declared volume"),
        ("rotate_volume_keys", "volumes_keyslot_confirm=zk1/none/4", "names no keyslot"),
        ("rotate_volume_keys", "volumes_rotate=both", "volumes_rotate"),
        ("rotate_volume_keys", "volumes_restor=zk1/main", "did you mean 'volumes_restore'"),
    ):
        options = ("--data", data) if data else ()
        output = controller.pyinfra(f"deploys/{deploy}.py", *options, status=1)
        assert said in output
        assert "Traceback" not in output
    assert controller.header() == before


def test_header_restored_and_erased(controller: Controller) -> None:
    volume = controller.volume
    controller.pyinfra(controller.complete)
    key = volume.key(Purpose.VOLUME)
    with open(volume.device, "r+b") as file:  # noqa: PTH123
        file.write(os.urandom(32768))
        os.fsync(file.fileno())
    refused = controller.pyinfra("deploys/rotate_volume_keys.py", status=1)
    assert "its LUKS header is damaged or missing: restore it" in refused
    restore = ("deploys/restore_header.py", "--data", f"volumes_restore={VOLUME}")
    assert "restore the header from the newest backup" in controller.pyinfra(*restore, "--dry")
    assert not opens(volume.device, key)
    assert "the machine key opens keyslot 0" in controller.pyinfra(*restore)
    assert opens(volume.device, key)

    erase = ("deploys/erase_volumes.py", "--data", f"volumes_erase_confirm={volume.keys.uuid}")
    assert "erase the header" in controller.pyinfra(*erase, "--dry")
    assert opens(volume.device, key)
    assert "no key opens it" in controller.pyinfra(*erase)
    assert not opens(volume.device, key)
    assert "named by its serial" in controller.pyinfra(*erase, status=1)
    serial = look(local, volume.keys).serial
    again = (*erase[:2], f"volumes_erase_confirm={serial}")
    assert "erase the header" not in controller.pyinfra(*again)


def test_custody_that_cannot_unwrap_changes_nothing(controller: Controller) -> None:
    controller.pyinfra(controller.complete)
    before = controller.header()
    own = str(controller.inventory.parent / "age")
    text = controller.inventory.read_text()
    controller.inventory.write_text(text.replace(repr(own), repr(own[:-3] + "second")))
    output = controller.pyinfra("deploys/rotate_volume_keys.py", status=1)
    assert "second" in output
    assert "Traceback" not in output
    assert controller.header() == before
