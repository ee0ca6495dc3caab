"""A control group for each host.

Without one of their own the hosts would share this process's, and as each systemd makes
``system.slice/kafka.service`` at its root, stopping a service on one host would end it on all. What
is in a host's group was started by the lab, so the group is also the surest record of that.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from lab.state import LabError

_PATIENCE_S = 10.0


def hierarchies() -> list[Path]:
    """Mount points of the hierarchies that systemd keeps its units in (v2, and v1's own)."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found.append(Path(where))
    return found


def create(name: str) -> list[Path]:
    """The ``cgroup.procs`` files a process writes itself into to be in the group."""
    groups = [hierarchy / name for hierarchy in hierarchies()]
    for group in groups:
        group.mkdir(exist_ok=True)
    return [group / "cgroup.procs" for group in groups]


def destroy(name: str) -> None:
    """Kills what is left in the group and removes it.

    :raises LabError: when something in it does not end, which only a kernel fault explains.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while groups := [group for group in (h / name for h in hierarchies()) if group.is_dir()]:
        for group in groups:
            _kill(group)
            for folder, _, _ in os.walk(group, topdown=False):
                try:
                    Path(folder).rmdir()
                except OSError as error:
                    if error.errno not in (errno.EBUSY, errno.ENOENT):
                        raise
        if time.monotonic() > deadline:
            raise LabError(f"control group {name} does not empty: {_pids(groups[0])}")
        if any(group.is_dir() for group in groups):
            time.sleep(0.01)  # the kernel tells nobody when a v1 group can be removed


def _pids(group: Path) -> list[int]:
    pids: list[int] = []
    for folder, _, _ in os.walk(group):
        with suppress(OSError):
            pids += map(int, (Path(folder) / "cgroup.procs").read_text().split())
    return pids


def _kill(group: Path) -> None:
    with suppress(OSError):  # Linux 5.14 and v2 only: the whole tree at once
        (group / "cgroup.kill").write_text("1")
    handles: dict[int, int] = {}
    try:
        for pid in _pids(group):
            with suppress(ProcessLookupError):
                handles[pid] = os.pidfd_open(pid)
        # Those still in the group are what the handles were opened for, not later namesakes.
        for pid in set(_pids(group)) & set(handles):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handles[pid], signal.SIGKILL)
    finally:
        for handle in handles.values():
            os.close(handle)
