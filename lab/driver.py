"""What a lab needs of whatever runs its hosts.

`nspawn` shares the machine's kernel; hosts with a kernel of their own are another driver.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lab.state import Host


class HostDriver(Protocol):
    """Runs hosts. Every method can be called in any state and leads to the one it names."""

    #: sysctl, swap, LUKS and reboots are the host's own, not the machine's.
    own_kernel: bool

    def create(self, host: Host) -> None:
        """Makes the host's disk: its name, address, SSH keys; keeps one that exists."""

    def start(self, host: Host) -> None: ...

    def running(self, host: Host) -> bool: ...

    def stop(self, host: Host) -> None:
        """Shuts the host down in order, by force when it does not."""

    def destroy(self, host: Host) -> None:
        """Stops the host and removes all that is left of it."""

    def init_pid(self, host: Host) -> int:
        """Process id, on this machine, of the host's first process."""

    def console(self, host: Host) -> Path:
        """File with what the host printed while it booted."""
