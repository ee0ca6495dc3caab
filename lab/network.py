"""The lab's network: a namespace of its own with one bridge, and no way out of it."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from lab.state import GATEWAY, PREFIX_LENGTH, Lab, LabError

BRIDGE = "lab0"
_CLONE_NEWNET = 0x40000000
# Gives a command the lab's host names without touching this machine's /etc/hosts.
_WITH_NAMES = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command; its own error output is the message when it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and result.returncode != 0:
        raise LabError(f"{' '.join(command)}: {result.stderr.strip() or result.returncode}")
    return result


def namespace_path(lab: Lab) -> Path:
    return Path("/run/netns") / lab.namespace


def exists(lab: Lab) -> bool:
    """A file without a mount is what a reboot leaves where /run is not a memory file system."""
    # Path.is_mount() is true of folders only.
    return os.path.ismount(namespace_path(lab))


def inside(lab: Lab) -> list[str]:
    """Words to put before a command so that it runs in the lab's network.

    Not ``ip netns exec``: that remounts /sys without its cgroups, and nspawn then cannot start.
    """
    return ["nsenter", f"--net={namespace_path(lab)}"]


def inside_with_names(lab: Lab) -> list[str]:
    """Like `inside`; the command knows the hosts' names too, in a mount namespace of its own.

    Mounts of the machine still reach it, unmounting above all: it would hold the hosts' roots.
    """
    return [
        *inside(lab), "unshare", "--mount", "--propagation", "slave",
        "sh", "-c", _WITH_NAMES, "sh", str(lab.etc_hosts),
    ]  # fmt: skip


def create(lab: Lab) -> None:
    """Makes namespace and bridge where they are missing."""
    if not exists(lab):
        namespace_path(lab).unlink(missing_ok=True)
        run("ip", "netns", "add", lab.namespace)
    enter_it = inside(lab)
    run(*enter_it, "ip", "link", "set", "lo", "up")
    if run(*enter_it, "ip", "link", "show", BRIDGE, check=False).returncode != 0:
        run(*enter_it, "ip", "link", "add", BRIDGE, "type", "bridge")
    run(*enter_it, "ip", "address", "replace", f"{GATEWAY}/{PREFIX_LENGTH}", "dev", BRIDGE)
    run(*enter_it, "ip", "link", "set", BRIDGE, "up")
    # A host that boots is found within 0.1 s, not 1 s. The setting is the namespace's own.
    retry = f"/proc/sys/net/ipv4/neigh/{BRIDGE}/retrans_time_ms"
    run(*enter_it, "sh", "-c", f"echo 100 >{retry}")


def destroy(lab: Lab) -> None:
    if exists(lab):
        run("ip", "netns", "delete", lab.namespace)
    namespace_path(lab).unlink(missing_ok=True)


def users(lab: Lab) -> list[int]:
    """Processes in the lab's network, but for this one."""
    try:
        wanted = namespace_path(lab).stat().st_ino
    except FileNotFoundError:
        return []
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inode = (process / "ns/net").stat().st_ino
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if inode == wanted and int(process.name) != os.getpid():
            found.append(int(process.name))
    return sorted(found)


def enter(lab: Lab) -> None:
    """Moves this thread into the lab's network, so that what it opens from now on is there.

    Threads and processes that it starts afterwards are there too.

    :raises LabError: when the lab is not up, or without root.
    """
    if not exists(lab):
        raise lab.not_up()
    if os.geteuid() != 0:
        raise LabError("the lab's hosts are reached through its network namespace: run as root")
    # os.setns exists from Python 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    with namespace_path(lab).open() as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise LabError(f"setns {lab.namespace}: {os.strerror(ctypes.get_errno())}")
