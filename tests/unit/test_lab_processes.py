"""Processes are ended only when they are the ones that were started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import processes


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait(10)


def test_a_running_process_is_recognised(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    file = tmp_path / "pid"
    assert processes.recorded(file) is None
    processes.record(file, sleeper.pid)
    assert processes.recorded(file) == sleeper.pid


def test_a_recorded_process_is_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    processes.record(tmp_path / "pid", sleeper.pid)
    processes.end_recorded(tmp_path / "pid", 10)
    assert sleeper.wait(10) == -signal.SIGTERM
    assert processes.recorded(tmp_path / "pid") is None


def test_a_process_that_does_not_end_is_killed(tmp_path: Path) -> None:
    stubborn = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo ready; while :; do read _; done"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert stubborn.stdout is not None
    assert stubborn.stdout.readline() == b"ready\n"
    processes.record(tmp_path / "pid", stubborn.pid)
    processes.end_recorded(tmp_path / "pid", 0.1)
    assert stubborn.wait(10) == -signal.SIGKILL
    stubborn.communicate()


@pytest.mark.parametrize(
    ("field", "other"),
    [(1, "1"), (2, "00000000-0000-4000-8000-000000000000")],
    ids=["started at another time", "after another boot"],
)
def test_a_number_that_another_process_got_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], field: int, other: str
) -> None:
    file = tmp_path / "pid"
    processes.record(file, sleeper.pid)
    words = file.read_text().split()
    words[field] = other
    file.write_text(" ".join(words))
    assert processes.recorded(file) is None
    processes.end_recorded(file, 0)
    assert sleeper.poll() is None


@pytest.mark.parametrize("text", ["", "12", "12 None", "1 2 3 4", "garbage", "x y z"])
def test_a_record_that_was_cut_off_means_no_process(tmp_path: Path, text: str) -> None:
    (tmp_path / "pid").write_text(text)
    assert processes.recorded(tmp_path / "pid") is None


def test_one_that_ended_before_it_was_recorded_does_not_run(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    sleeper.kill()
    sleeper.wait(10)
    processes.record(tmp_path / "pid", sleeper.pid)
    assert processes.recorded(tmp_path / "pid") is None


def test_one_that_has_ended_but_was_not_waited_for_does_not_run(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    file = tmp_path / "pid"
    processes.record(file, sleeper.pid)
    handle = os.pidfd_open(sleeper.pid)
    processes.end(handle, 10)
    os.close(handle)
    assert Path(f"/proc/{sleeper.pid}").exists()
    assert processes.recorded(file) is None


def test_a_name_with_brackets_and_blanks_does_not_move_the_start_time(tmp_path: Path) -> None:
    script = tmp_path / "a) S 1 (b"
    script.write_text("#!/bin/sh\necho; read _\n")
    script.chmod(0o700)
    with subprocess.Popen([str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as odd:
        assert odd.stdout is not None
        odd.stdout.readline()
        assert ") S 1 (" in Path(f"/proc/{odd.pid}/stat").read_text()
        mine, its = processes.start_time(os.getpid()), processes.start_time(odd.pid)
        assert mine is not None
        assert its is not None
        assert its >= mine
        odd.communicate(b"\n")


def test_there_is_no_start_time_without_a_process(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait(10)
    assert processes.start_time(sleeper.pid) is None


def test_an_ordinary_child_is_not_the_first_of_a_namespace(
    sleeper: subprocess.Popen[bytes],
) -> None:
    assert processes.first_of_namespace(os.getpid()) is None
