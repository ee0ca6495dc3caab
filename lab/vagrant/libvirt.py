"""libvirt for the machines: the one that this machine runs, or one of our own where it runs none.

Ours needs no systemd. It lives in a network namespace, with folders of its own mounted over
libvirt's usual ones, so that it leaves nothing behind and no one else's machines are in it.
"""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import time
from pathlib import Path

from lab import network, processes
from lab.state import PROJECT, Lab, LabError

SOCKET = Path("/run/libvirt/libvirt-sock")
_START_S = 30.0
_END_S = 20.0
_RETRY_S = 0.1
# Usual place -> name of ours.
_FOLDERS = {
    "/etc/libvirt": "etc",
    "/var/lib/libvirt": "lib",
    "/var/cache/libvirt": "cache",
    "/var/log/libvirt": "log",
    "/run/libvirt": "run",
}
# Who may use it is decided by who may enter its namespace: root. What emulates a machine runs as
# root too, as its disks lie in a folder that is root's.
_CONFIGURATION = {
    "libvirtd.conf": 'unix_sock_rw_perms = "0700"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\n',
    "qemu.conf": (
        'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nremember_owner = 0\n'
        'namespaces = []\ncgroup_controllers = []\nstdio_handler = "file"\n'
    ),
}


class Libvirt:
    """The libvirt that a lab's machines are in."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.folder = lab.folder / "libvirt"

    @property
    def _record(self) -> Path:
        return self.folder / "pid"

    @property
    def is_ours(self) -> bool:
        return processes.recorded(self._record) is not None

    def inside(self) -> list[str]:
        """Words to put before a command so that it reaches libvirt and the machines."""
        pid = processes.recorded(self._record)
        if pid is None:
            return []
        return [
            "nsenter", f"--net={network.namespace_path(self.lab)}", f"--mount=/proc/{pid}/ns/mnt",
            f"--wdns={PROJECT}",
        ]  # fmt: skip

    def start(self) -> None:
        """Starts one of our own, unless it runs or this machine has one already.

        :raises LabError: when it does not come up, with what it said.
        """
        if self.is_ours or _answers(SOCKET):
            return
        for usual, ours in _FOLDERS.items():
            (self.folder / ours).mkdir(parents=True, exist_ok=True)
            # Stays: removing it would take the mount from another clone's libvirt.
            Path(usual).mkdir(parents=True, exist_ok=True)
        for name, text in _CONFIGURATION.items():
            (self.folder / "etc" / name).write_text(text)
        if not network.exists(self.lab):
            network.run("ip", "netns", "add", self.lab.namespace)
        network.run(*network.inside(self.lab), "ip", "link", "set", "lo", "up")
        mounts = " && ".join(
            shlex.join(["mount", "--bind", str(self.folder / ours), usual])
            for usual, ours in _FOLDERS.items()
        )
        pid_file = shlex.quote(str(self.folder / "libvirtd.pid"))
        with (self.folder / "libvirtd.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *network.inside(self.lab), "unshare", "--mount", "--propagation", "slave",
                    "sh", "-c", f"{mounts} && exec libvirtd --pid-file {pid_file}",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        processes.record(self._record, process.pid)
        deadline = time.monotonic() + _START_S
        # As the process sees it: in the project's folder the path can be too long for a socket.
        while not _answers(Path(f"/proc/{process.pid}/root{SOCKET}")):
            if process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "libvirtd.log").read_text(errors="replace")[-2000:]
                raise LabError(f"libvirtd does not run:\n{said}")
            # Nothing tells when it listens.
            time.sleep(_RETRY_S)

    def stop(self) -> None:
        """Ends ours and whatever runs in its network, machines included; leaves another alone."""
        processes.end_recorded(self._record, _END_S)
        self._record.unlink(missing_ok=True)
        # The network is ours, so what is in it is too: machines, and libvirt's DHCP server.
        for pid in network.users(self.lab):
            left = self.folder / f"left-{pid}"
            processes.record(left, pid)
            processes.end_recorded(left, _END_S)
        network.destroy(self.lab)
        shutil.rmtree(self.folder, ignore_errors=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True
