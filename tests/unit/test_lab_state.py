import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import processes
from lab.state import Lab, LabError, plan_hosts


@given(st.integers(1, 9), st.integers(0, 50), st.integers(1, 9), st.integers(0, 50))
def test_a_host_keeps_its_address_whatever_the_size(a: int, b: int, c: int, d: int) -> None:
    one = {host.name: host for host in plan_hosts(a, b)}
    two = {host.name: host for host in plan_hosts(c, d)}
    for name in one.keys() & two.keys():
        assert one[name] == two[name]
    assert len({host.address for host in one.values()}) == len(one) == a + b


@pytest.mark.parametrize(("zookeepers", "brokers"), [(0, 3), (10, 3), (3, 51), (3, -1)])
def test_impossible_sizes_are_refused(zookeepers: int, brokers: int) -> None:
    with pytest.raises(LabError, match="a lab has"):
        plan_hosts(zookeepers, brokers)


@pytest.mark.parametrize("name", ["", "A", "a b", "../x", "longerthan8"])
def test_names_that_cannot_name_a_network_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="lab name"):
        Lab(name)


def test_a_process_with_a_reused_number_is_not_the_recorded_one(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        processes.record(file, child.pid)
        assert processes.recorded(file) == child.pid
        # The same number with another start: what a reused number looks like.
        file.write_text(f"{child.pid} 1\n")
        assert processes.recorded(file) is None
        processes.record(file, child.pid)
    finally:
        processes.end(child.pid, 5.0)
    assert child.wait(5) != 0
    assert processes.recorded(file) is None


def test_nothing_recorded_is_nothing_running(tmp_path: Path) -> None:
    assert processes.recorded(tmp_path / "none") is None
    (tmp_path / "bad").write_text("x")
    assert processes.recorded(tmp_path / "bad") is None


def test_start_time_of_this_process() -> None:
    assert processes.start_time(os.getpid())
