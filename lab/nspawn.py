"""Hosts as systemd-nspawn containers: real systemd and sshd, the machine's kernel."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from lab import cgroups, image, processes, rootfs
from lab.network import BRIDGE, inside, run
from lab.state import NSPAWN, Disk, Host, Lab, LabError

_SHUTDOWN_S = 30.0
_DESTROY_S = 5.0  # nothing of the host is kept, so it need not finish what it does
_INTERFACE = "host0"
# Of a host's systemd, measured. The kernel counts them by user, and all hosts have the same root.
_INOTIFY_EACH = 3
_INOTIFY_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
_RUN = Path("/run/systemd/nspawn")
# The hosts' processes live long and need nothing of whoever started them, secrets least of all.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class Nspawn:
    """Each host's root is an overlay over the shared image, so it costs only what it changes."""

    name = NSPAWN
    own_kernel = False

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def _folder(self, host: Host) -> Path:
        return self.lab.host_folder(host.name)

    def _root(self, host: Host) -> Path:
        return self._folder(host) / "root"

    def _pid(self, host: Host) -> Path:
        return self._folder(host) / "pid"

    def _machine(self, host: Host) -> str:
        return f"{host.name}-{self.lab.namespace}"

    def console(self, host: Host) -> Path:
        return self._folder(host) / "console.log"

    def prepare(self, say: Callable[[str], None]) -> None:
        image.build(self.lab.images, say)

    def room_for(self, hosts: Sequence[Host]) -> None:
        limit, taken = int(_INOTIFY_LIMIT.read_text()), processes.inotify_instances()
        needed = taken + len(hosts) * _INOTIFY_EACH
        if needed > limit:
            raise LabError(
                f"{len(hosts)} more hosts need {needed - limit} inotify instances more than this "
                f"machine has left ({taken} of {limit} in use): stop other labs, or "
                f"sysctl fs.inotify.max_user_instances={max(512, 2 * needed)}"
            )

    def create(self, host: Host) -> None:
        folder = self._folder(host)
        for name in ("root", "upper", "work"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        if not image.record(folder).exists():
            image.record(folder).write_text(image.key())

    def _mount(self, host: Host) -> Path:
        folder, root = self._folder(host), self._root(host)
        if not root.is_mount():
            # What the host has changed fits only the image it was made from, so it keeps that one.
            lower = self.lab.images / image.record(folder).read_text()
            if not lower.is_dir():
                raise LabError(
                    f"the image that {host.name} was made from is gone: "
                    "'python -m lab down', then 'python -m lab up'"
                )
            layers = f"lowerdir={lower},upperdir={folder}/upper,workdir={folder}/work"
            run("mount", "-t", "overlay", self.lab.namespace, "-o", layers, str(root))
        return root

    def start(self, host: Host, *, shuffle_disks: bool = False) -> None:
        if self.is_running(host):
            return
        # A host whose nspawn was killed, or one that was started by an `up` killed before it could
        # write down which process that is.
        self._end(host, 0.0)
        root = self._mount(host)
        rootfs.configure(self.lab, host, root, _INTERFACE)
        # The shell becomes nsenter, and that nspawn: one process, in the group from its start.
        groups = " ".join(str(path) for path in cgroups.create(self._machine(host)))
        join = f'for group in {groups}; do echo $$ >"$group"; done; exec "$@"'
        with self.console(host).open("wb") as console:
            process = subprocess.Popen(
                [
                    "sh", "-c", join, "sh", *inside(self.lab),
                    "systemd-nspawn", "--boot", "--quiet", "--register=no",
                    "--keep-unit", "--console=read-only", f"--network-bridge={BRIDGE}",
                    f"--directory={root}", f"--machine={self._machine(host)}",
                    "systemd.show_status=yes",
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                cwd="/",
                env=_ENVIRONMENT,
            )  # fmt: skip
        processes.record(self._pid(host), process.pid)

    def renew_names(self, host: Host) -> None:
        rootfs.names(self.lab, self._root(host))

    def is_running(self, host: Host) -> bool:
        return processes.recorded(self._pid(host)) is not None

    def init_pid(self, host: Host) -> int:
        pid = processes.recorded(self._pid(host))
        first = processes.first_of_namespace(pid) if pid is not None else None
        if first is None:
            raise LabError(f"{host.name} does not run: python -m lab start {host.name}")
        return first

    def _end(self, host: Host, patience_s: float) -> None:
        processes.end_recorded(self._pid(host), patience_s)
        cgroups.destroy(self._machine(host))
        self._pid(host).unlink(missing_ok=True)
        # What an nspawn that was killed leaves behind; one that ended by itself has removed both.
        with suppress(OSError):
            (_RUN / "propagate" / self._machine(host)).rmdir()
        if self._root(host).is_mount():
            root = self._root(host).stat()
            (_RUN / f"locks/inode-{root.st_dev}:{root.st_ino}").unlink(missing_ok=True)

    def stop(self, host: Host) -> None:
        self._end(host, _SHUTDOWN_S)

    def cut(self, host: Host) -> None:
        self._end(host, 0.0)

    def plug(self, host: Host, disk: Disk) -> None:
        raise _no_disks(host)

    def unplug(self, host: Host, disk: Disk) -> None:
        raise _no_disks(host)

    def destroy(self, host: Host) -> None:
        self._end(host, _DESTROY_S)
        if self._root(host).is_mount():
            run("umount", str(self._root(host)))
        if self._folder(host).exists():
            shutil.rmtree(self._folder(host))


def _no_disks(host: Host) -> LabError:
    return LabError(
        f"{host.name} is a container without disks of its own: a lab with --driver uml has them"
    )
