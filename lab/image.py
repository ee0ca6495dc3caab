"""The root image of the lab's hosts: Debian with systemd, sshd and a Java runtime, made once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.state import USER, USER_ID, LabError

SUITE = "bookworm"
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "iproute2", "procps", "openssl",
    "ca-certificates", "curl", "netcat-openbsd", "openjdk-17-jre-headless",
    # Of use only to hosts with a kernel of their own; one image for both is less to build.
    "udev", "kmod", "cryptsetup-bin", "dmsetup", "xfsprogs", "e2fsprogs", "python3",
)  # fmt: skip
# Hosts have no way out, so nothing may try; what is not needed must not take CPU from the brokers.
# Units that watch a path cost an inotify instance each, of which the machine has few for all hosts.
SETUP = f"""
set -eu
useradd --uid {USER_ID} --create-home --shell /bin/bash {USER}
install -d -m 700 -o {USER} -g {USER} /home/{USER}/.ssh
echo '{USER} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{USER}
chmod 440 /etc/sudoers.d/{USER}
rm -f /etc/ssh/ssh_host_*
cat >/etc/ssh/sshd_config.d/lab.conf <<'END'
HostKey /etc/ssh/ssh_host_ed25519_key
UseDNS no
PasswordAuthentication no
PermitRootLogin no
MaxSessions 50
MaxStartups 100
END
mkdir -p /var/log/journal
systemctl enable -q systemd-networkd ssh
systemctl mask -q apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer dpkg-db-backup.timer motd-news.timer getty.target console-getty.service \
  systemd-resolved.service systemd-timesyncd.service systemd-networkd-wait-online.service \
  systemd-logind.service systemd-homed.service \
  systemd-ask-password-console.path systemd-ask-password-wall.path
: >/etc/machine-id
rm -f /etc/resolv.conf
rm -rf /var/cache/apt/* /var/lib/apt/lists/* /usr/share/doc /usr/share/man
"""
_WORDS_OF_FAILURE = 2000


def key() -> str:
    """Names the image that this recipe makes."""
    return hashlib.sha256(f"{SUITE}{PACKAGES}{SETUP}".encode()).hexdigest()[:12]


def record(host_folder: Path) -> Path:
    """Where a host keeps the key of the image it was made from."""
    return host_folder / "image"


def build(images: Path, say: Callable[[str], None]) -> Path:
    """The image's folder; made when this recipe has none yet. A broken build leaves nothing.

    :param images: the folder of all labs' images.
    """
    image = images / key()
    images.mkdir(parents=True, exist_ok=True)
    with lock(images, say):
        if not image.is_dir():
            say("building the hosts' Debian image (once, about two minutes)")
            remove_unused(images)
            bootstrap(image, PACKAGES, SETUP)
    return image


def bootstrap(image: Path, packages: Sequence[str], setup: str) -> None:
    """Makes the folder a Debian root. A failure leaves nothing.

    :param setup: shell script that runs inside it as root.
    """
    temporary = image.with_suffix(".new")
    # Ends with this process, however that ends, and takes its mounts with it.
    alone = [
        "setpriv", "--pdeathsig", "KILL",
        "unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc",
    ]  # fmt: skip
    command = [
        "mmdebstrap", "--variant=minbase", "--mode=root", "--quiet",
        f"--include={','.join(packages)}",
        f'--customize-hook=chroot "$1" sh -c {shlex.quote(setup)}',
        SUITE, str(temporary),
    ]  # fmt: skip
    try:
        result = subprocess.run([*alone, *command], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise LabError(f"mmdebstrap failed:\n{result.stderr[-_WORDS_OF_FAILURE:]}")
        temporary.rename(image)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def used(images: Path) -> dict[str, list[str]]:
    """Image key -> names of the labs that have hosts made from it."""
    found: dict[str, list[str]] = {}
    for file in sorted(images.parent.glob("*/hosts.d/*/image")):
        labs = found.setdefault(file.read_text(), [])
        if file.parts[-4] not in labs:
            labs.append(file.parts[-4])
    return found


def remove_unused(images: Path, *needed: str) -> None:
    """Removes images that no host was made from, and what an interrupted build has left.

    A disk image (`lab.disk_image`) is named after the key of the image it was made from, and keeps
    that too.

    :param needed: names of images that stay all the same.
    """
    kept = {*used(images), *needed}
    kept |= {name.partition("-")[0] for name in kept}
    for item in images.iterdir():
        if item.name not in kept:
            if item.is_dir():
                shutil.rmtree(item)
            else:
                item.unlink()


def purge(images: Path, say: Callable[[str], None]) -> None:
    """Removes the images; those that a lab's hosts run from stay, and are told."""
    if not images.is_dir():
        return
    with lock(images, say):
        remove_unused(images)
        for name, labs in used(images).items():
            say(f"image {name} stays: used by lab {', '.join(labs)}")
    if not any(images.iterdir()):
        images.rmdir()


@contextmanager
def lock(images: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keeps other processes from changing the images. The folder exists."""
    handle = os.open(images, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another command builds an image: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
