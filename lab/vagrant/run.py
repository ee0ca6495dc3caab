"""Drives Vagrant: the machines up and down, and the whole proof that ``make vagrant`` is."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from lab import network
from lab.state import PROJECT, LabError
from lab.vagrant import box, declare, machines, plan, probe
from lab.vagrant.libvirt import Libvirt
from lab.vagrant.machines import Made

Say = Callable[[str], None]


class Vagrant:
    """The project's machines under libvirt, with all of Vagrant's own files in the lab's folder."""

    def __init__(self, say: Say) -> None:
        self.lab = plan.lab()
        self.libvirt = Libvirt(self.lab)
        self.say = say

    @property
    def _chosen(self) -> Path:
        return self.lab.folder / "accelerator"

    @property
    def _dot(self) -> Path:
        """What Vagrant knows of the machines."""
        return self.lab.folder / "dot"

    def environment(self) -> dict[str, str]:
        values = {key: value for key, value in os.environ.items() if not key.startswith("PYINFRA_")}
        values |= {
            "VAGRANT_HOME": str(self.lab.folder / "home"),
            "VAGRANT_DOTFILE_PATH": str(self._dot),
            "VAGRANT_DEFAULT_PROVIDER": "libvirt",
            "VAGRANT_NO_COLOR": "1",
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "PYINFRA_PROGRESS": "off",
        }
        if self._chosen.exists():
            values.setdefault("STRONGBOX_VAGRANT_ACCELERATOR", self._chosen.read_text())
        return values

    def run(self, *command: str, names: bool = False) -> None:
        """Runs the command where it reaches the machines.

        :param names: it knows the machines' names too.
        :raises LabError: when it fails.
        """
        result = subprocess.run(
            [*self.words(names), *command], cwd=PROJECT, env=self.environment(), check=False
        )
        if result.returncode != 0:
            raise LabError(f"{' '.join(command[:3])}: exit code {result.returncode}, see above")

    def ssh(self, made: Made, command: str) -> str:
        """Standard output of a command on the machine.

        :raises LabError: when it fails.
        """
        return network.run(
            *self.words(), "ssh", "-F", "/dev/null", "-i", made.key, "-o", "IdentitiesOnly=yes",
            "-o", f"UserKnownHostsFile={self.lab.known_hosts}", "-o", "StrictHostKeyChecking=yes",
            "-o", "LogLevel=ERROR", f"{made.user}@{made.address}", command,
        ).stdout  # fmt: skip

    def words(self, names: bool = False) -> list[str]:
        words = self.libvirt.inside()
        if names:
            words += [
                "unshare", "--mount", "--propagation", "slave",
                "sh", "-c", 'mount --bind "$1" /etc/hosts && shift && exec "$@"', "sh",
                str(self.lab.etc_hosts),
            ]  # fmt: skip
        return words

    def up(self) -> None:
        wanted = plan.read(os.environ)
        folder = box.build(self.lab.boxes, self.say)
        with self.lab.lock(self.say):
            self._choose_accelerator(folder)
            self.libvirt.start()
            where = "a libvirt of their own" if self.libvirt.is_ours else "this machine's libvirt"
            self.say(f"{len(wanted.machines)} machines in {where}")
            self.run("vagrant", "--no-tty", "up", "--no-parallel")
        self.say(f"they answer: {' '.join(made.name for made in machines.read(self.lab.folder))}")

    def _choose_accelerator(self, folder: Path) -> None:
        """
        :raises LabError: when KVM is asked for and does not work.
        """
        asked = os.environ.get("STRONGBOX_VAGRANT_ACCELERATOR")
        if asked == "qemu" or (not asked and self._chosen.exists()):
            return
        found = probe.accelerator(folder / box.KERNEL, folder / box.INITRD)
        if asked and asked != found:
            raise LabError(
                f"STRONGBOX_VAGRANT_ACCELERATOR is {asked}, but no kernel boots with KVM here: "
                "leave it out for plain emulation"
            )
        self.say(
            "a kernel boots with KVM here"
            if found == "kvm"
            else "no kernel boots with KVM here: plain emulation, which is slow"
        )
        self._chosen.write_text(found)

    def down(self) -> None:
        """Removes the machines, libvirt and all files but the box, whatever state they are in."""
        with self.lab.lock(self.say):
            # One of ours that has ended took its machines with it, so nothing is left to ask.
            if self._dot.is_dir() and (self.libvirt.is_ours or not self.libvirt.folder.exists()):
                try:
                    self.run("vagrant", "--no-tty", "destroy", "--force")
                except LabError as error:
                    if not self.libvirt.is_ours:
                        raise
                    self.say(str(error))
            self.libvirt.stop()
            shutil.rmtree(self.lab.folder)
            declare.OPTIONS.unlink(missing_ok=True)
