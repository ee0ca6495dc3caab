"""The lab's network: a namespace of its own with one bridge, and no way out of it."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from lab.state import GATEWAY, PREFIX_LENGTH, Lab, LabError

BRIDGE = "lab0"
_CLONE_NEWNET = 0x40000000


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command; its own error output is the message when it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and result.returncode != 0:
        raise LabError(f"{' '.join(command)}: {result.stderr.strip() or result.returncode}")
    return result


def namespace_path(lab: Lab) -> Path:
    return Path("/run/netns") / lab.namespace


def inside(lab: Lab) -> list[str]:
    """Words to put before a command so that it runs in the lab's network.

    Not ``ip netns exec``: that remounts /sys without its cgroups, and nspawn then cannot start.
    """
    return ["nsenter", f"--net={namespace_path(lab)}"]


def create(lab: Lab) -> None:
    """Makes namespace and bridge where they are missing."""
    if not namespace_path(lab).exists():
        run("ip", "netns", "add", lab.namespace)
    enter_it = inside(lab)
    run(*enter_it, "ip", "link", "set", "lo", "up")
    if run(*enter_it, "ip", "link", "show", BRIDGE, check=False).returncode != 0:
        run(*enter_it, "ip", "link", "add", BRIDGE, "type", "bridge")
    run(*enter_it, "ip", "address", "replace", f"{GATEWAY}/{PREFIX_LENGTH}", "dev", BRIDGE)
    run(*enter_it, "ip", "link", "set", BRIDGE, "up")


def destroy(lab: Lab) -> None:
    if namespace_path(lab).exists():
        run("ip", "netns", "delete", lab.namespace)


def enter(lab: Lab) -> None:
    """Moves this process into the lab's network, so that what it opens from now on is there.

    :raises LabError: when the lab is not up, or without root.
    """
    if not namespace_path(lab).exists():
        raise LabError(
            f"lab {lab.name!r} is not up: start it with 'python -m lab up' or 'make lab'"
        )
    if os.geteuid() != 0:
        raise LabError("the lab's hosts are reached through its network namespace: run as root")
    # os.setns exists from Python 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    with namespace_path(lab).open() as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise LabError(f"setns {lab.namespace}: {os.strerror(ctypes.get_errno())}")
