"""Block devices for tests: loop devices over sparse files, gone at the end whatever happened."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

MIB = 1 << 20


@dataclass(frozen=True)
class Disk:
    """A loop device: ``path`` is under ``/dev``, ``backing`` is the file that holds its bytes."""

    path: str
    backing: Path

    @property
    def name(self) -> str:
        """As the kernel calls it, such as ``loop3``."""
        return self.path.removeprefix("/dev/")

    def sha256(self) -> str:
        """Of everything on the disk, read through the device."""
        with open(self.path, "rb") as device:  # noqa: PTH123 - a device node
            return hashlib.file_digest(device, "sha256").hexdigest()

    def write(self, at: int, content: bytes) -> None:
        """Puts *content* at the byte offset *at*."""
        with open(self.path, "r+b") as device:  # noqa: PTH123
            device.seek(at)
            device.write(content)

    def read(self, at: int, size: int) -> bytes:
        with open(self.path, "rb") as device:  # noqa: PTH123
            device.seek(at)
            return device.read(size)


MakeDisk = Callable[..., Disk]


def attach(backing: Path, read_only: bool = False) -> Disk:
    """A loop device over *backing*; the caller detaches it."""
    options = ["--read-only"] if read_only else []
    made = _run("losetup", "--find", "--show", *options, str(backing))
    return Disk(made.strip(), backing)


def detach(disk: Disk) -> None:
    """Unmounts and detaches; raises when the device stays attached."""
    while subprocess.run(["findmnt", "-n", disk.path], capture_output=True, check=False).stdout:
        _run("umount", disk.path)
    _run("losetup", "--detach", disk.path)


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}: {result.stderr}"
    return result.stdout


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[MakeDisk]:
    """``disk(size_mib)`` makes an empty disk; ``disk(size_mib, read_only=True)`` a read-only one.

    ``disk(backing=FILE)`` attaches a file that is there already.
    """
    made: list[Disk] = []

    def make(size_mib: int = 64, *, read_only: bool = False, backing: Path | None = None) -> Disk:
        if backing is None:
            backing = tmp_path / f"disk{len(made)}.img"
            with backing.open("wb") as file:
                file.truncate(size_mib * MIB)
        made.append(attach(backing, read_only))
        return made[-1]

    yield make
    problems = []
    for one in reversed(made):
        try:
            detach(one)
        except AssertionError as problem:
            problems.append(str(problem))
    assert not problems, problems
