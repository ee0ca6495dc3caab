"""Whether a kernel boots here with KVM: its device can be there and not work."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

_PATIENCE_S = {"kvm": 60.0, "qemu": 240.0}
#: What the kernel says when it starts its first process: only one that has booted does.
BOOTED = "Run /bin/true as init process"
_KVM = Path("/dev/kvm")


def command(accelerator: str, kernel: Path, initrd: Path) -> list[str]:
    """Boots the kernel; its first process is one that ends, which panics it, which ends QEMU."""
    return [
        "qemu-system-x86_64", "-M", "q35", "-accel", "tcg" if accelerator == "qemu" else "kvm",
        "-cpu", "max" if accelerator == "qemu" else "host", "-m", "512", "-nodefaults",
        "-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot",
        "-kernel", str(kernel), "-initrd", str(initrd),
        "-append", "console=ttyS0 rdinit=/bin/true panic=-1",
    ]  # fmt: skip


def boots(accelerator: str, kernel: Path, initrd: Path) -> bool:
    """
    :param accelerator: ``kvm`` or ``qemu``.
    """
    if accelerator == "kvm" and not os.access(_KVM, os.R_OK | os.W_OK):
        return False
    return says(command(accelerator, kernel, initrd), BOOTED, _PATIENCE_S[accelerator])


def says(words: Sequence[str], expected: str, patience_s: float) -> bool:
    """Whether the command prints that before it ends or its time is up; it is ended then."""
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        timer = threading.Timer(patience_s, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            return any(expected.encode() in line for line in process.stdout)
        finally:
            timer.cancel()
            process.kill()


def accelerator(kernel: Path, initrd: Path) -> str:
    """``kvm`` where it boots a kernel, else ``qemu``: plain emulation."""
    return "kvm" if boots("kvm", kernel, initrd) else "qemu"
