"""The lab's own command, as the tests of the lab use it."""

from __future__ import annotations

import os
import subprocess
import sys

from lab.state import PROJECT, Lab

Result = subprocess.CompletedProcess[str]


def tool(lab: Lab, *arguments: str, **environment: str) -> Result:
    return subprocess.run(
        [sys.executable, "-m", "lab", "--name", lab.name, *arguments],
        cwd=PROJECT, env=os.environ | environment, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=300, check=False,
    )  # fmt: skip


def good(result: Result) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def refused(result: Result) -> str:
    """The one line of a command that was refused."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def ssh(lab: Lab, host: str, command: str) -> str:
    return good(tool(lab, "ssh", host, command))
