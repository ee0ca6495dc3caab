"""What a lab needs of whatever runs its hosts.

`nspawn` shares the machine's kernel, `uml` gives each host one of its own; `lifecycle.DRIVERS`
names them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from lab.state import Disk, Host


class HostDriver(Protocol):
    """Runs hosts. Every method can be called in any state and leads to the one it names.

    Keys, names and addresses of the hosts are the lab's (`lab.rootfs`); how they get onto a disk,
    and how that disk comes to run on the lab's bridge, is the driver's.
    """

    #: As in ``lab info``.
    name: str
    #: sysctl, swap, LUKS and reboots are the host's own, not the machine's.
    own_kernel: bool

    def prepare(self, say: Callable[[str], None]) -> None:
        """Has the image that hosts start from; makes it where it is missing or its recipe new."""

    def room_for(self, hosts: Sequence[Host]) -> None:
        """Checks that the machine can run these too.

        :raises LabError: when it cannot, with what to change.
        """

    def create(self, host: Host) -> None:
        """Makes what the host keeps over its restarts; one that exists stays as it is."""

    def start(self, host: Host, *, shuffle_disks: bool = False) -> None:
        """Starts the host with the lab's present names; does not wait until it has booted.

        :param shuffle_disks: gives each disk another device name than it had; what nspawn has no
            disks for.
        """

    def renew_names(self, host: Host) -> None:
        """Lets a running host know the names of all hosts, after the lab has grown or shrunk."""

    def is_running(self, host: Host) -> bool: ...

    def stop(self, host: Host) -> None:
        """Shuts the host down in order, by force when it does not."""

    def cut(self, host: Host) -> None:
        """Ends the host as a power cut does: at once, and its disks keep what was written."""

    def plug(self, host: Host, disk: Disk) -> None:
        """Gives a running host its disk back; one that has it keeps it.

        :raises LabError: when the host does not run or has no disks.
        """

    def unplug(self, host: Host, disk: Disk) -> None:
        """Takes a disk from a running host.

        :raises LabError: when the host uses it, does not run or has no disks.
        """

    def destroy(self, host: Host) -> None:
        """Stops the host and removes all that is left of it, whatever state that is in."""

    def init_pid(self, host: Host) -> int:
        """Process id, on this machine, of the host's first process.

        :raises LabError: when the host does not run.
        """

    def console(self, host: Host) -> Path:
        """File with what the host printed while it booted."""
