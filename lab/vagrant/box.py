"""The Vagrant box for libvirt: Debian with a kernel of its own, made here and booted without a
boot loader.

Standard library only, see `lab.vagrant.plan`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from lab import image
from lab.state import USER, LabError

PACKAGES = (*image.PACKAGES, "linux-image-cloud-amd64", "initramfs-tools")
FILE, KERNEL, INITRD = "strongbox.box", "vmlinuz", "initrd.img"
_LABEL = "strongbox-root"
# By label: which disk comes first is not the box's to say.
CMD_LINE = f"root=LABEL={_LABEL} rw console=ttyS0 net.ifnames=0 quiet"
_GIB = 4  # of the root disk, most of it never written
# Everyone has this key's other half. Vagrant takes it out again at the first boot, for one of its
# own (its setting ssh.insert_key). https://github.com/hashicorp/vagrant/tree/main/keys
_INSECURE_KEY = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr+kz4TjGYe7gHzIw+niNltGE"
    "FHzD8+v1I2YJ6oXevct1YeS0o9HZyN1Q9qgCgzUFtdOKLv6IedplqoPkcmF0aYet2PkEDo3MlTBckFXPITAMzF8dJSIFo"
    "9D8HfdOV0IAdx4O7PtixWKn5y2hMNG0zQPyUecp4pzC6kivAIhyfHilFR61RGL+GPXQ2MWZWFYbAGjyiYJnAmCP3NOTd0"
    "jMZEnDkbUvxhMmBYSdETk1rRgm+R4LOzFUGaHqHDLKLX+FIPKcF96hrucXzcWyLbIbEgE98OHlnVYCzRdK8jlqm8tehUc"
    "9c9WhQ== vagrant insecure public key"
)
_SETUP = f"""{image.SETUP}
cat >/home/{USER}/.ssh/authorized_keys <<'END'
{_INSECURE_KEY}
END
chown {USER}:{USER} /home/{USER}/.ssh/authorized_keys
chmod 600 /home/{USER}/.ssh/authorized_keys
cat >/etc/systemd/network/50-eth0.network <<'END'
[Match]
Name=eth0
[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no
[DHCPv4]
ClientIdentifier=mac
UseDNS=no
END
cat >/etc/systemd/system/ssh-host-key.service <<'END'
[Unit]
Description=Makes the machine's SSH host key at its first boot
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
Before=ssh.service
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
[Install]
WantedBy=multi-user.target
END
systemctl enable -q ssh-host-key
systemctl mask -q serial-getty@.service
"""
_BOX_VAGRANTFILE = f"""Vagrant.configure("2") do |config|
  config.ssh.username = "{USER}"
  config.ssh.shell = "sh"
end
"""


def metadata() -> dict[str, object]:
    """metadata.json, as vagrant-libvirt reads it."""
    return {"provider": "libvirt", "format": "qcow2", "virtual_size": _GIB}


def key() -> str:
    """Names the box that this recipe makes."""
    recipe = f"{image.SUITE}{PACKAGES}{_SETUP}{_BOX_VAGRANTFILE}{_LABEL}{_GIB}"
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def build(boxes: Path, say: Callable[[str], None]) -> Path:
    """The box's folder, with `FILE`, `KERNEL` and `INITRD`; made when this recipe has none yet.

    Boxes of earlier recipes go. A broken build leaves nothing.
    """
    folder = boxes / key()
    boxes.mkdir(parents=True, exist_ok=True)
    with image.lock(boxes, say):
        if folder.is_dir():
            return folder
        for old in boxes.iterdir():
            shutil.rmtree(old)
        say("building the Vagrant box (once, about a minute)")
        temporary, root = boxes / "new", boxes / "root"
        try:
            image.bootstrap(root, PACKAGES, _SETUP)
            temporary.mkdir()
            _package(root, temporary, say)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(root, ignore_errors=True)
    return folder


def _package(root: Path, folder: Path, say: Callable[[str], None]) -> None:
    for link, name in (("vmlinuz", KERNEL), ("initrd.img", INITRD)):
        shutil.copyfile((root / link).resolve(strict=True), folder / name)
    say("writing its disk")
    raw, disk = folder / "box.raw", folder / "box.img"
    _run("mke2fs", "-q", "-t", "ext4", "-L", _LABEL, "-d", str(root), str(raw), f"{_GIB}G")
    _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(disk))
    raw.unlink()
    (folder / "metadata.json").write_text(json.dumps(metadata()) + "\n")
    (folder / "Vagrantfile").write_text(_BOX_VAGRANTFILE)
    members = ("metadata.json", "Vagrantfile", disk.name)
    _run("tar", "-C", str(folder), "-cf", str(folder / FILE), *members)
    for member in members:
        (folder / member).unlink()


def _run(*command: str) -> None:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}
    )
    if result.returncode != 0:
        raise LabError(f"{command[0]} failed: {result.stderr.strip()}")
