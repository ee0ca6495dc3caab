"""Installing what is missing, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab import prerequisites
from lab.state import PROJECT


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Programs that are there."""
    there = {"apt-get", *prerequisites.PROGRAMS}
    monkeypatch.setattr(shutil, "which", lambda name, path=None: name if name in there else None)
    return there


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, machine: set[str]) -> list[str]:
    """Notes what apt-get was asked; `install` works once `update` has run."""
    asked: list[str] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert options["env"]["DEBIAN_FRONTEND"] == "noninteractive"
        asked.append(command[1])
        if command[1] == "install" and "update" not in asked:
            return subprocess.CompletedProcess(command, 100, "E: Unable to locate package", None)
        if command[1] == "install":
            machine.update(prerequisites.PROGRAMS)
        return subprocess.CompletedProcess(command, 0, "", None)

    monkeypatch.setattr(subprocess, "run", run)
    return asked


def test_with_everything_there_nothing_is_said_or_done(
    apt: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert prerequisites.main() == 0
    assert apt == []
    assert capsys.readouterr().out == ""


def test_each_package_once(machine: set[str]) -> None:
    machine -= {"java", "javac", "keytool", "ssh"}
    assert prerequisites.missing(prerequisites.PROGRAMS) == [
        "openssh-client",
        "default-jdk-headless",
    ]


def test_what_virtual_machines_need_is_installed_for_them_only(
    machine: set[str], apt: list[str]
) -> None:
    assert prerequisites.main() == 0
    assert apt == []
    machine.update(prerequisites.VAGRANT.keys() - {"vagrant", "qemu-img"})
    wanted = prerequisites.PROGRAMS | prerequisites.VAGRANT
    assert prerequisites.missing(wanted) == ["vagrant-libvirt", "qemu-utils"]
    machine.update(prerequisites.VAGRANT)
    assert prerequisites.main(wanted) == 0
    assert apt == []


def test_lists_are_fetched_only_when_they_are_needed(machine: set[str], apt: list[str]) -> None:
    machine.discard("mvn")
    assert prerequisites.main() == 0
    assert apt == ["install", "update", "install"]
    machine.discard("mvn")
    assert prerequisites.main() == 0
    assert apt[3:] == ["install"]


def test_apt_that_fails_is_quoted(
    machine: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.discard("mvn")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(
        subprocess, "run",
        lambda command, **_: subprocess.CompletedProcess(command, 100, "E: no network", None),
    )  # fmt: skip
    assert prerequisites.main() == 1
    assert "E: no network" in capsys.readouterr().err


@pytest.mark.parametrize(("user", "apt_get"), [(1000, True), (0, False)])
def test_where_it_cannot_install_it_says_what_is_missing(
    machine: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    user: int, apt_get: bool,
) -> None:  # fmt: skip
    machine -= {"mmdebstrap"} if apt_get else {"mmdebstrap", "apt-get"}
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert prerequisites.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("the lab needs these Debian packages: mmdebstrap;")
    assert said.count("\n") == 1


def test_it_runs_before_there_is_a_virtual_environment(tmp_path: Path) -> None:
    """With the interpreter alone: no package of the project, no third-party module."""
    script = tmp_path / "prerequisites.py"
    shutil.copyfile(PROJECT / "lab/prerequisites.py", script)
    code = f"import runpy; runpy.run_path({str(script)!r}, run_name='imported')"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
