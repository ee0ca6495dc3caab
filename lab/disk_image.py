"""The root disk of hosts with a kernel of their own: the image, that kernel's modules, `guest`."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

from lab import image
from lab.state import LabError

MODULES = Path("/usr/lib/uml/modules")
GUEST = Path(__file__).with_name("guest")
SIZE = "6G"  # sparse, and hosts keep only what they change
# Overlay and mounts are in a mount namespace of this shell, so they end with it.
_SCRIPT = """
set -eu
image=$1 modules=$2 guest=$3 disk=$4 size=$5
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o "lowerdir=$image,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root
mkdir -p /mnt/root/usr/lib/modules /mnt/root/usr/lib/lab/host
cp -r "$modules" /mnt/root/usr/lib/modules/
cp -r "$guest/." /mnt/root/
chroot /mnt/root depmod "${modules##*/}"
# Of no use to these hosts; a process costs much to start here.
chroot /mnt/root systemctl --quiet mask \
  modprobe@configfs.service modprobe@efi_pstore.service modprobe@fuse.service \
  modprobe@loop.service sys-kernel-config.mount sys-fs-fuse-connections.mount \
  sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount \
  proc-sys-fs-binfmt_misc.automount systemd-binfmt.service systemd-network-generator.service \
  systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-pstore.service
# What Ctrl+Alt+Del does, which the lab presses: like the power button, not like reset.
ln -s /lib/systemd/system/poweroff.target /mnt/root/etc/systemd/system/ctrl-alt-del.target
mke2fs -q -t ext4 -L root -d /mnt/root "$disk" "$size"
"""


def release() -> str:
    """The kernel's version, which its modules' folder is named by.

    :raises LabError: when it is not installed.
    """
    found = sorted(MODULES.iterdir()) if MODULES.is_dir() else []
    if len(found) != 1:
        raise LabError(
            f"{MODULES} must hold the modules of one kernel, it has {len(found)}: "
            "apt-get install --no-install-recommends user-mode-linux"
        )
    return found[0].name


def name() -> str:
    """Names the disk that this recipe makes, after the image's key."""
    recipe = hashlib.sha256(f"{release()}{SIZE}{_SCRIPT}".encode())
    for file in sorted(item for item in GUEST.rglob("*") if item.is_file()):
        recipe.update(f"{file.relative_to(GUEST)}\0".encode() + file.read_bytes())
    return f"{image.key()}-{recipe.hexdigest()[:12]}.ext4"


def build(images: Path, say: Callable[[str], None]) -> Path:
    """The disk's file; made when this recipe has none yet. A broken build leaves nothing."""
    disk = images / name()
    root = image.build(images, say)
    with image.lock(images, say):
        if not disk.exists():
            say("making the hosts' root disk (once, a few seconds)")
            image.remove_unused(images, disk.name)
            temporary = disk.with_suffix(".new")
            try:
                _make(root, temporary)
                temporary.rename(disk)
            finally:
                temporary.unlink(missing_ok=True)
    return disk


def _make(root: Path, disk: Path) -> None:
    words = [str(root), str(MODULES / release()), str(GUEST), str(disk), SIZE]
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode != 0:
        raise LabError(f"the hosts' root disk could not be made: {result.stderr.strip()}")
