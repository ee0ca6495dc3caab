"""Processes that the lab started, told from others that got the same number later."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path


def start_time(pid: int) -> int | None:
    """Start of the process in clock ticks since boot (proc(5), field 22); None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets, which may itself hold spaces.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def record(path: Path, pid: int) -> None:
    path.write_text(f"{pid} {start_time(pid)}\n")


def recorded(path: Path) -> int | None:
    """The recorded process if it is still the same one."""
    try:
        pid, started = path.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if str(start_time(int(pid))) == started else None


def end(pid: int, patience_s: float) -> None:
    """Asks the process to end, waits, and forces it when it has not ended by then."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number, wait in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 10.0)):
            try:
                signal.pidfd_send_signal(handle, number)
            except ProcessLookupError:
                return
            if select.select([handle], [], [], wait)[0]:
                return
    finally:
        os.close(handle)


def children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
