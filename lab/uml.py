"""Hosts as user-mode-linux guests: a kernel of their own, so LUKS, sysctl, swap and reboots too."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from lab import cgroups, disk_image, image, processes, rootfs
from lab.network import BRIDGE, inside, run
from lab.state import UML, USER, USER_ID, Disk, Host, Lab, LabError

LAUNCH = Path(__file__).with_name("uml_launch.py")
_SHUTDOWN_S = 90.0
_ANSWER_S = "10"
_INTERFACE = "vec0"
_MEMORY_MIB = {"brokers": 1536, "zookeepers": 704}
# Letter of a device's name; `a` is the root disk.
_LETTERS = "bcdefghijklmnop"
_MEMINFO = Path("/proc/meminfo")
_RUNTIME = Path("/run/strongbox-lab")
_GIB = 1024**3
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class Uml:
    """Each host's root is a copy-on-write file over the shared disk image."""

    name = UML
    own_kernel = True

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def _folder(self, host: Host) -> Path:
        return self.lab.host_folder(host.name)

    def _pid(self, host: Host) -> Path:
        return self._folder(host) / "pid"

    def _machine(self, host: Host) -> str:
        return f"{host.name}-{self.lab.namespace}"

    def _config(self, host: Host) -> Path:
        """What the host's `init` copies over its root; it sees this folder and none above it."""
        return self._folder(host) / "config"

    def _runtime(self, host: Host) -> Path:
        """Its memory, and the socket of its management console; a path short enough for one."""
        return _RUNTIME / self._machine(host)

    def console(self, host: Host) -> Path:
        return self._folder(host) / "console.log"

    def prepare(self, say: Callable[[str], None]) -> None:
        disk_image.build(self.lab.images, say)

    def room_for(self, hosts: Sequence[Host]) -> None:
        needed = sum(_MEMORY_MIB[host.role] for host in hosts)
        lines = _MEMINFO.read_text().splitlines()
        fields = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
        free = fields["MemAvailable"] // 1024
        if needed > free:
            raise LabError(
                f"{len(hosts)} more hosts need up to {needed} MiB of memory, {free} MiB are free: "
                "stop other labs, ask for fewer hosts, or use --driver nspawn"
            )

    def create(self, host: Host) -> None:
        folder = self._folder(host)
        folder.mkdir(parents=True, exist_ok=True)
        if not image.record(folder).exists():
            image.record(folder).write_text(disk_image.name())
        for disk in self.lab.disks(host):
            disk.image.parent.mkdir(exist_ok=True)
            if not disk.image.exists():
                temporary = disk.image.with_suffix(".new")
                with temporary.open("wb") as file:
                    file.truncate(int(disk.gib * _GIB))
                temporary.rename(disk.image)

    def letters(self, host: Host, *, shuffle: bool) -> dict[str, str]:
        """Disk name -> letter of its device; kept, so that a disk comes back as the same."""
        kept = self._folder(host) / "letters.json"
        names = [disk.name for disk in self.lab.disks(host)]
        letters: dict[str, str] = {}
        if kept.exists():
            letters = json.loads(kept.read_text())
        if shuffle:
            others = [letter for letter in _LETTERS if letter not in letters.values()]
            letters = dict(zip(names, random.sample(others, len(names)), strict=True))
        elif set(letters) != set(names):
            letters = dict(zip(names, _LETTERS, strict=False))
        kept.write_text(json.dumps(letters))
        return letters

    def _configure(self, host: Host) -> None:
        config = self._config(host)
        for folder in ("", "etc/ssh", "etc/systemd/network", f"home/{USER}/.ssh"):
            (config / folder).mkdir(parents=True, exist_ok=True)
        for item in (config, *config.rglob("*")):
            if item.is_dir():
                item.chmod(0o755)
        for part in (f"home/{USER}", f"home/{USER}/.ssh"):
            os.chown(config / part, USER_ID, USER_ID)
        rootfs.configure(self.lab, host, config, _INTERFACE)

    def _tap(self, host: Host) -> str:
        name = f"tap-{host.name}"
        enter = inside(self.lab)
        if run(*enter, "ip", "link", "show", name, check=False).returncode != 0:
            run(*enter, "ip", "tuntap", "add", name, "mode", "tap")
        run(*enter, "ip", "link", "set", name, "master", BRIDGE, "up")
        return name

    def start(self, host: Host, *, shuffle_disks: bool = False) -> None:
        if self.is_running(host):
            return
        self._end(host)
        base = self.lab.images / image.record(self._folder(host)).read_text()
        if not base.exists():
            raise LabError(
                f"the image that {host.name} was made from is gone: "
                "'python -m lab down', then 'python -m lab up'"
            )
        self._configure(host)
        tap = self._tap(host)
        letters = self.letters(host, shuffle=shuffle_disks)
        memory = _MEMORY_MIB[host.role]
        runtime = self._runtime(host)
        runtime.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "-o", f"mode=700,size={memory + 64}m",
            self.lab.namespace, str(runtime))  # fmt: skip
        disks = self.lab.disks(host)
        # Without an address that stays, the others would look for the host at its former one.
        mac = "02:00:" + ":".join(f"{int(part):02x}" for part in host.address.split("."))
        names = ",".join(f"ubd{letters[disk.name]}:{disk.name}" for disk in disks)
        command = [
            str(LAUNCH), f"umid={host.name}", f"uml_dir={runtime}", f"mem={memory}M",
            f"ubda={self._folder(host)}/root.cow,{base}", "root=/dev/ubda", "rw",
            *(f"ubd{letters[disk.name]}={disk.image}" for disk in disks),
            f"vec0:transport=tap,ifname={tap},depth=64,gro=1,mac={mac}",
            f"hostfs={self._config(host)}", "init=/usr/lib/lab/init", f"strongbox.disks={names}",
            f"systemd.hostname={host.name}", "systemd.show_status=yes", "selinux=0", "quiet",
            "con=null", "ssl=null", "con0=null,fd:1",
        ]  # fmt: skip
        # The shell becomes nsenter, that the launcher, and that the kernel: one process, which
        # stays the same over reboots, and in the group from its start.
        groups = " ".join(str(path) for path in cgroups.create(self._machine(host)))
        join = f'for group in {groups}; do echo $$ >"$group"; done; exec "$@"'
        with self.console(host).open("wb") as console:
            process = subprocess.Popen(
                ["sh", "-c", join, "sh", *inside(self.lab), *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                cwd="/",
                env=_ENVIRONMENT | {"TMPDIR": str(runtime)},
            )
        processes.record(self._pid(host), process.pid)

    def renew_names(self, host: Host) -> None:
        rootfs.names(self.lab, self._config(host))

    def is_running(self, host: Host) -> bool:
        return processes.recorded(self._pid(host)) is not None

    def init_pid(self, host: Host) -> int:
        pid = processes.recorded(self._pid(host))
        if pid is None:
            raise LabError(f"{host.name} does not run: python -m lab start {host.name}")
        return pid

    def _end(self, host: Host) -> None:
        cgroups.destroy(self._machine(host))
        self._pid(host).unlink(missing_ok=True)
        runtime = self._runtime(host)
        if runtime.is_mount():
            run("umount", str(runtime))
        if runtime.is_dir():
            runtime.rmdir()

    def _tell(self, host: Host, *words: str) -> str:
        """Says something to the host's management console; its answer.

        :raises LabError: when it answers with an error or not at all.
        """
        socket = self._runtime(host) / host.name / "mconsole"
        # From within the network, as the answer goes to an abstract address, which is local to it.
        ask = [*inside(self.lab), "timeout", _ANSWER_S, "uml_mconsole", str(socket), *words]
        answer = run(*ask, check=False)
        text = answer.stdout.strip()
        if answer.returncode != 0 or not text.startswith("OK"):
            raise LabError(f"{host.name}: {' '.join(words)}: {text or answer.stderr.strip()}")
        return text.removeprefix("OK").strip()

    def stop(self, host: Host) -> None:
        pid = processes.recorded(self._pid(host))
        if pid is not None:
            with suppress(LabError):  # it has no console yet, or has just ended
                self._tell(host, "cad")
                processes.await_end(pid, _SHUTDOWN_S)
        self._end(host)

    def cut(self, host: Host) -> None:
        self._end(host)

    def _device(self, host: Host, disk: Disk) -> str:
        self.init_pid(host)
        return f"ubd{self.letters(host, shuffle=False)[disk.name]}"

    def plug(self, host: Host, disk: Disk) -> None:
        device = self._device(host, disk)
        if not self._tell(host, "config", device):
            self._tell(host, "config", f"{device}={disk.image}")

    def unplug(self, host: Host, disk: Disk) -> None:
        device = self._device(host, disk)
        if self._tell(host, "config", device):
            self._tell(host, "remove", device)

    def destroy(self, host: Host) -> None:
        self._end(host)
        run(*inside(self.lab), "ip", "link", "delete", f"tap-{host.name}", check=False)
        if self._folder(host).exists():
            shutil.rmtree(self._folder(host))
