"""What only the benchmark needs of the hosts: Python for Ansible's modules, and sshd's own count."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lab import image
from lab.__main__ import ssh_command
from lab.state import PROJECT, Lab, LabError

# python3-apt is what Ansible's apt module asks with.
_PACKAGES = ("python3", "python3-apt")
# Pre-dependencies by hand: dpkg does not order packages.
_INSTALL = """\
set -eu
sudo sh -c 'echo "LogLevel VERBOSE" >/etc/ssh/sshd_config.d/bench.conf'
sudo systemctl reload ssh
if [ ! -e /usr/lib/python3/dist-packages/apt ]; then
work=$(mktemp -d); cd "$work"; tar -xf -
sudo DEBIAN_FRONTEND=noninteractive sh -c 'dpkg -i libpython3.*-minimal_*.deb python3.*-minimal_*.deb
dpkg -i python3-minimal_*.deb; dpkg -i *.deb' >"$work/log" 2>&1 || { tail -5 "$work/log" >&2; exit 1; }
cd /; rm -rf "$work"
fi
/usr/bin/python3 -c 'import apt'
"""
# VERBOSE makes sshd log each session it opens for a command, whichever tool asked for it.
_COUNT = (
    "sudo journalctl --sync; sudo journalctl -q -o cat --no-pager -t sshd | "
    "awk '/^Starting session: (command|subsystem)/ { s++ } /^Accepted publickey/ { c++ } "
    "END { print s + 0, c + 0 }'"
)


@dataclass(frozen=True)
class Sessions:
    """Commands and connections that a host's sshd has served so far."""

    commands: int
    connections: int


def _ssh(lab: Lab, host: str, command: str, stdin: bytes = b"") -> str:
    result = subprocess.run(
        ssh_command(lab, host, command), input=stdin, capture_output=True, check=False
    )
    if result.returncode != 0:
        raise LabError(f"{host}: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout.decode()


def prepare(lab: Lab, hosts: Sequence[str]) -> None:
    """Installs Python on the running hosts, which have no way out, and makes sshd count."""
    archive = _packages()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda host: _ssh(lab, host, _INSTALL, archive), hosts))


def _packages() -> bytes:
    """A tar file of what the image lacks of the packages, fetched by this machine's apt."""
    status = PROJECT / ".lab" / "image" / image.key() / "var/lib/dpkg/status"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "partial").mkdir()
        subprocess.run(
            ["apt-get", "-y", "-qq", "--no-install-recommends", "--download-only",
             "-o", f"Dir::State::status={status}", "-o", f"Dir::Cache::archives={folder}",
             "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root",
             "install", *_PACKAGES],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return subprocess.run(
            ["tar", "-C", folder, "--exclude=partial", "--exclude=lock", "-cf", "-", "."],
            check=True, stdout=subprocess.PIPE,
        ).stdout  # fmt: skip


def sessions(lab: Lab, hosts: Sequence[str]) -> dict[str, Sessions]:
    def count(host: str) -> Sessions:
        commands, connections = _ssh(lab, host, _COUNT).split()
        return Sessions(int(commands), int(connections))

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(hosts, pool.map(count, hosts), strict=True))
