"""A control group for each host.

Without one of their own the hosts would share this process's, and as each systemd makes
``system.slice/kafka.service`` at its root, stopping a service on one host would end it on all.
"""

from __future__ import annotations

import os
from pathlib import Path

from lab.processes import end


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
    """Ends what is left in the group and removes it."""
    for hierarchy in hierarchies():
        group = hierarchy / name
        for folder, _, files in os.walk(group, topdown=False):
            if "cgroup.procs" in files:
                for pid in (Path(folder) / "cgroup.procs").read_text().split():
                    end(int(pid), 0.0)
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()
