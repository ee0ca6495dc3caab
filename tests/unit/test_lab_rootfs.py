"""What makes a copy of the image a certain host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab import rootfs
from lab.state import Lab, Plan, plan_hosts

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files are given to other users")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab("unit", tmp_path / ".lab")
    hosts = plan_hosts(1, 1)
    lab.write_plan(Plan("uml", 0, hosts))
    for key in (lab.key, lab.host_key("kafka1")):
        key.parent.mkdir(parents=True, exist_ok=True)
        key.write_text(f"private {key.name}\n")
        key.with_suffix(".pub").write_text(f"public {key.name}\n")
    return lab


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for folder in ("etc/ssh", "etc/systemd/network", "home/deploy/.ssh"):
        (root / folder).mkdir(parents=True)
    os.chown(root / "home/deploy", 1000, 1000)
    return root


def test_name_address_and_keys(lab: Lab, root: Path) -> None:
    rootfs.configure(lab, lab.host("kafka1"), root, "vec0")
    assert (root / "etc/hostname").read_text() == "kafka1\n"
    assert "10.77.0.11 zk1.lab.test zk1" in (root / "etc/hosts").read_text()
    network = (root / "etc/systemd/network/10-lab.network").read_text()
    assert "Name=vec0\n" in network
    assert "Address=10.77.0.101/24\n" in network
    assert "Gateway" not in network
    modes = {
        str(file.relative_to(root)): (file.stat().st_mode & 0o777, file.stat().st_uid)
        for file in root.rglob("*")
        if file.is_file()
    }
    assert modes == {
        "etc/hostname": (0o644, 0),
        "etc/hosts": (0o644, 0),
        "etc/systemd/network/10-lab.network": (0o644, 0),
        "etc/ssh/ssh_host_ed25519_key": (0o600, 0),
        "etc/ssh/ssh_host_ed25519_key.pub": (0o644, 0),
        "home/deploy/.ssh/authorized_keys": (0o600, 1000),
    }
    authorized = (root / "home/deploy/.ssh/authorized_keys").read_text()
    assert authorized == "public id_ed25519\n"


def test_a_link_on_the_host_does_not_lead_out_of_it(lab: Lab, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "machine"
    outside.write_text("the machine's own")
    (root / "etc/hosts").symlink_to(outside)
    rootfs.names(lab, root)
    assert outside.read_text() == "the machine's own"
    assert "kafka1.lab.test" in (root / "etc/hosts").read_text()
