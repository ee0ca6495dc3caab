"""Hosts as systemd-nspawn containers: real systemd and sshd, the machine's kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from lab import cgroups, processes
from lab.network import BRIDGE, inside, run
from lab.state import GATEWAY, PREFIX_LENGTH, USER, Host, Lab, LabError

_SHUTDOWN_S = 30.0


class Nspawn:
    """Each host's root is an overlay over the shared image, so it costs only what it changes."""

    own_kernel = False

    def __init__(self, lab: Lab, image: Path) -> None:
        self.lab, self.image = lab, image

    def _folder(self, host: Host) -> Path:
        return self.lab.host_folder(host.name)

    def _root(self, host: Host) -> Path:
        return self._folder(host) / "root"

    def _machine(self, host: Host) -> str:
        return f"{host.name}-{self.lab.namespace}"

    def console(self, host: Host) -> Path:
        return self._folder(host) / "console.log"

    def create(self, host: Host) -> None:
        folder = self._folder(host)
        for name in ("root", "upper", "work", "keys"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        key = folder / "keys" / "ssh_host_ed25519_key"
        if not key.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.fqdn, "-f", str(key))

    def _mount(self, host: Host) -> Path:
        folder, root = self._folder(host), self._root(host)
        if not root.is_mount():
            layers = f"lowerdir={self.image},upperdir={folder}/upper,workdir={folder}/work"
            run("mount", "-t", "overlay", self.lab.namespace, "-o", layers, str(root))
        return root

    def _configure(self, host: Host, root: Path) -> None:
        (root / "etc/hostname").write_text(f"{host.name}\n")
        (root / "etc/hosts").write_text(self.lab.etc_hosts.read_text())
        # Sorts before the distribution's own file for host0, which would ask for DHCP.
        (root / "etc/systemd/network/10-host0.network").write_text(
            "[Match]\nName=host0\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
            f"Address={host.address}/{PREFIX_LENGTH}\nGateway={GATEWAY}\n"
        )
        for key in (self._folder(host) / "keys").iterdir():
            copy = root / "etc/ssh" / key.name
            shutil.copyfile(key, copy)
            copy.chmod(0o644 if key.suffix == ".pub" else 0o600)
        authorized = root / f"home/{USER}/.ssh/authorized_keys"
        shutil.copyfile(self.lab.key.with_suffix(".pub"), authorized)
        owner = (root / f"home/{USER}").stat()
        os.chown(authorized, owner.st_uid, owner.st_gid)
        authorized.chmod(0o600)

    def refresh_names(self, host: Host) -> None:
        """Lets the host know the names of all hosts, after the lab has grown or shrunk."""
        if self._root(host).is_mount():
            (self._root(host) / "etc/hosts").write_text(self.lab.etc_hosts.read_text())

    def start(self, host: Host) -> None:
        if self.running(host):
            self.refresh_names(host)
            return
        root = self._mount(host)
        self._configure(host, root)
        # The shell becomes nsenter, and that nspawn: one process, in the group from its start.
        groups = " ".join(str(path) for path in cgroups.create(self._machine(host)))
        join = f'for group in {groups}; do echo $$ >"$group"; done; exec "$@"'
        with self.console(host).open("wb") as console:
            process = subprocess.Popen(
                [
                    "sh", "-c", join, "sh", *inside(self.lab),
                    "systemd-nspawn", "--boot", "--quiet", "--register=no",
                    "--keep-unit", "--console=pipe", f"--network-bridge={BRIDGE}",
                    f"--directory={root}", f"--machine={self._machine(host)}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )  # fmt: skip
        processes.record(self._folder(host) / "pid", process.pid)

    def running(self, host: Host) -> bool:
        return processes.recorded(self._folder(host) / "pid") is not None

    def init_pid(self, host: Host) -> int:
        pid = processes.recorded(self._folder(host) / "pid")
        started = processes.children(pid) if pid is not None else []
        if not started:
            raise LabError(f"{host.name} does not run: python -m lab start {host.name}")
        return started[0]

    def stop(self, host: Host) -> None:
        pid = processes.recorded(self._folder(host) / "pid")
        if pid is not None:
            processes.end(pid, _SHUTDOWN_S)
        cgroups.destroy(self._machine(host))
        (self._folder(host) / "pid").unlink(missing_ok=True)

    def destroy(self, host: Host) -> None:
        self.stop(host)
        if self._root(host).is_mount():
            run("umount", "--lazy", str(self._root(host)))
        shutil.rmtree(self._folder(host), ignore_errors=True)
