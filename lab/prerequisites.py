"""Debian packages that the machine with the lab needs: ``python3 lab/prerequisites.py``,
and with ``vagrant`` after it those for virtual machines too.

Standard library only, as it runs before the virtual environment exists.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping

# Program -> package that has it. A JDK, not a JRE: tests have Java read the stores.
PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "linux.uml": "user-mode-linux",
    "uml_mconsole": "uml-utilities",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mount": "mount",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "openssl": "openssl",
    "tcpdump": "tcpdump",
    "strace": "strace",
    # What the volumes role runs on hosts; its tests run it on loop devices of this machine.
    "cryptsetup": "cryptsetup-bin",
    "mkfs.xfs": "xfsprogs",
    "mkfs.ext4": "e2fsprogs",
    "sgdisk": "gdisk",
    "sfdisk": "fdisk",
    "java": "default-jdk-headless",
    "javac": "default-jdk-headless",
    "keytool": "default-jdk-headless",
    "mvn": "maven",
}
# Beside those, of the machines under Vagrant; only ``make vagrant`` and its like ask for them.
VAGRANT = {
    "vagrant": "vagrant-libvirt",  # depends on vagrant
    "libvirtd": "libvirt-daemon-system",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "dnsmasq": "dnsmasq-base",
}
_LAST = 2000  # characters of apt's output, of which the end says what is wrong


class InstallError(Exception):
    """What the package manager said."""


def missing(programs: Mapping[str, str]) -> list[str]:
    """Packages to install, each once, in order."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    wanted = [
        package for program, package in programs.items() if not shutil.which(program, path=path)
    ]
    return list(dict.fromkeys(wanted))


def install(packages: list[str]) -> None:
    """Installs with the package lists as they are; fetches those only when that does not work."""
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    try:
        _run(command)
    except InstallError:
        _run(["apt-get", "update", "-q"])
        _run(command)


def _run(command: list[str]) -> None:
    print(f"--> {shlex.join(command)}", flush=True)
    result = subprocess.run(
        command,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise InstallError(f"{result.stdout[-_LAST:]}\n{shlex.join(command[:2])} failed")


def main(programs: Mapping[str, str] = PROGRAMS) -> int:
    packages = missing(programs)
    if not packages:
        return 0
    needs = f"the lab needs these Debian packages: {' '.join(packages)}"
    if not shutil.which("apt-get"):
        print(f"{needs}; this machine has no apt-get to install them", file=sys.stderr)
        return 1
    if os.geteuid() != 0:
        print(f"{needs}; install them, or run as root", file=sys.stderr)
        return 1
    print(needs, flush=True)
    try:
        install(packages)
    except InstallError as error:
        print(error, file=sys.stderr)
        return 1
    if packages := missing(programs):
        print(f"still missing after installing: {' '.join(packages)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(PROGRAMS | VAGRANT if sys.argv[1:] == ["vagrant"] else PROGRAMS))
