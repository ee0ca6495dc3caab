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


def boot_id() -> str:
    """Another after each boot: clock ticks count from there, and repeat."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def record(path: Path, pid: int) -> None:
    """Writes down which process that is; one that has ended already is not found again."""
    path.write_text(f"{pid} {start_time(pid)} {boot_id()}\n")


def recorded(path: Path) -> int | None:
    """The recorded process if it is still the same one."""
    try:
        number, started, boot = path.read_text().split()
        pid, ticks = int(number), int(started)
    except (FileNotFoundError, ValueError):
        return None
    return pid if start_time(pid) == ticks and boot_id() == boot else None


def end(handle: int, patience_s: float) -> None:
    """Asks the process to end, waits, and forces it when it has not ended by then.

    :param handle: its pidfd, which keeps meaning this process even when the number is reused.
    """
    for number, wait in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 10.0)):
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return
        if select.select([handle], [], [], wait)[0]:
            return


def await_end(pid: int, patience_s: float) -> bool:
    """Whether the process has ended within that time."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], patience_s)[0])
    finally:
        os.close(handle)


def end_recorded(path: Path, patience_s: float) -> None:
    """Ends the recorded process if it is still the same one."""
    pid = recorded(path)
    if pid is None:
        return
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Once more, now that the handle is open: what is signalled is what was checked.
        if recorded(path) == pid:
            end(handle, patience_s)
    finally:
        os.close(handle)


def first_of_namespace(parent: int) -> int | None:
    """The child that is process 1 of a PID namespace of its own; None while there is none."""
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            try:
                status = Path(f"/proc/{child}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            # "NSpid:" lists its number in each nested namespace, the innermost last.
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:"))
            if numbers.split()[1:] != [child] and numbers.split()[-1] == "1":
                return int(child)
    return None


def inotify_instances() -> int:
    """How many are in use by root on this machine, containers included."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid != 0:
                continue
            count += sum(
                str(file.readlink()) == "anon_inode:inotify" for file in (process / "fd").iterdir()
            )
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return count
