"""The lab with containers: hosts that are like real ones, converge, and go without a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import cgroups, network, processes
from lab.nspawn import Nspawn
from lab.state import PROJECT, Lab
from tests.lab.tool import good, refused, ssh, tool

CONTAINERS = ("up", "--driver", "nspawn")
UP = (*CONTAINERS, "--zookeepers", "1", "--brokers", "1")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


def init_pids(lab: Lab) -> dict[str, int]:
    return {host.name: int(good(tool(lab, "pid", host.name))) for host in lab.hosts()}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after 30 s"
        time.sleep(0.01)


def kill(pid: int) -> None:
    handle = os.pidfd_open(pid)
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)


def nspawn_pid(lab: Lab, host: str) -> int:
    pid = processes.recorded(lab.host_folder(host) / "pid")
    assert pid is not None
    return pid


def traces(lab: Lab) -> list[str]:
    """All that is on this machine by the lab's name."""
    found = [line for line in Path("/proc/self/mounts").read_text().splitlines()
             if lab.namespace in line or f"{lab.folder}/" in line]  # fmt: skip
    places = [network.namespace_path(lab), lab.folder]
    found += [str(place) for place in places if place.exists()]
    for folder in (*cgroups.hierarchies(), Path("/run/systemd/nspawn/propagate")):
        if folder.is_dir():
            found += [str(item) for item in folder.iterdir() if lab.namespace in item.name]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text() + (process / "cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # One that has ended and that init has not looked at yet has no start time.
        if lab.namespace in words and processes.start_time(int(process.name)) is not None:
            found.append(f"process {process.name}: {words}")
    return found


def links() -> str:
    return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab("unit")
    before = links()
    good(tool(lab, "down"))
    good(tool(lab, *UP))
    yield lab
    good(tool(lab, "down"))
    assert traces(lab) == []
    assert "lab0" not in links()
    assert links().count("vb-") == before.count("vb-")


@pytest.fixture
def hosts(lab: Lab) -> dict[str, int]:
    """Both hosts run; the process ids of their first processes."""
    good(tool(lab, *UP))
    return init_pids(lab)


def test_hosts_have_systemd_and_an_unprivileged_user_with_sudo(
    lab: Lab, hosts: dict[str, int]
) -> None:
    for host in hosts:
        assert ssh(lab, host, "id -un; sudo -n id -un; hostname; hostname -f").split() == [
            "deploy", "root", host, f"{host}.lab.test",
        ]  # fmt: skip
        state = "systemctl is-system-running --wait; ps -o comm= -p 1; systemctl --failed -q"
        assert ssh(lab, host, state).split() == ["running", "systemd"]


def test_nothing_but_ssh_listens(lab: Lab, hosts: dict[str, int]) -> None:
    for host in hosts:
        lines = ssh(lab, host, "sudo ss -Hlntu").splitlines()
        assert lines
        assert {line.split()[4].rpartition(":")[2] for line in lines} == {"22"}, lines


def test_only_the_key_lets_in(lab: Lab, hosts: dict[str, int]) -> None:
    options = [
        "-F", "/dev/null", "-o", f"UserKnownHostsFile={lab.known_hosts}",
        "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
    ]  # fmt: skip
    address = lab.host("kafka1").address
    for user, key in (("deploy", "none"), ("root", str(lab.key))):
        command = ["ssh", *options, "-o", "IdentitiesOnly=yes", "-i", key, f"{user}@{address}"]
        result = subprocess.run(
            [*network.inside(lab), *command, "true"], capture_output=True, text=True, check=False
        )
        assert result.returncode == 255
        assert "Permission denied (publickey)" in result.stderr


def test_names_are_known_on_hosts_and_to_commands_but_not_to_this_machine(
    lab: Lab, hosts: dict[str, int]
) -> None:
    before = Path("/etc/hosts").read_bytes()
    look = ("getent", "hosts", "kafka1.lab.test", "zk1")
    for output in (
        ssh(lab, "zk1", " ".join(look)),
        good(tool(lab, "exec", "--", *look)),
        # A client that knows only what `info` says.
        good(subprocess.run(
            f"{json.loads(good(tool(lab, 'info', '--json')))['enter_with_names']} {' '.join(look)}",
            shell=True, capture_output=True, text=True, check=False,
        )),
    ):  # fmt: skip
        assert [line.split()[0] for line in output.splitlines()] == ["10.77.0.101", "10.77.0.11"]
    assert Path("/etc/hosts").read_bytes() == before
    assert subprocess.run(look, capture_output=True, check=False).returncode != 0


def test_a_command_s_exit_code_and_options_are_its_own(lab: Lab, hosts: dict[str, int]) -> None:
    assert tool(lab, "exec", "--", "sh", "-c", "exit 7").returncode == 7
    assert tool(lab, "ssh", "zk1", "exit 7").returncode == 7
    assert good(tool(lab, "exec", "--", "echo", "--help", "-h")) == "--help -h\n"


def test_hosts_reach_each_other_and_nothing_else(lab: Lab, hosts: dict[str, int]) -> None:
    assert ssh(lab, "zk1", "nc -w 1 kafka1.lab.test 22 </dev/null").startswith("SSH-2.0-")
    began = time.monotonic()
    unreachable = "! timeout 20 bash -c '</dev/tcp/192.0.2.1/80' 2>&1"
    assert "Network is unreachable" in ssh(lab, "zk1", unreachable)
    assert time.monotonic() - began < 10, "it should fail at once, not time out"


def test_the_machine_s_kernel_settings_are_out_of_reach(lab: Lab, hosts: dict[str, int]) -> None:
    for setting in ("vm/swappiness", "kernel/core_pattern", "fs/inotify/max_user_instances"):
        before = Path(f"/proc/sys/{setting}").read_text()
        write = f"! sudo sh -c 'cat /proc/sys/{setting} >/proc/sys/{setting}' 2>&1"
        assert "Read-only file system" in ssh(lab, "zk1", write)
        assert Path(f"/proc/sys/{setting}").read_text() == before


def test_nothing_of_the_caller_s_environment_stays(lab: Lab, hosts: dict[str, int]) -> None:
    good(tool(lab, "stop", "zk1"))
    good(tool(lab, "start", "zk1", STRONGBOX_CA_PASSPHRASE="CANARY-in-the-environment"))
    pids = [nspawn_pid(lab, "zk1"), int(good(tool(lab, "pid", "zk1")))]
    for pid in pids:
        assert b"CANARY" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_again_it_changes_nothing(lab: Lab, hosts: dict[str, int]) -> None:
    good(tool(lab, *UP))
    assert init_pids(lab) == hosts


def test_a_host_that_was_stopped_keeps_its_disk(lab: Lab, hosts: dict[str, int]) -> None:
    ssh(lab, "kafka1", "sudo sh -c 'echo kept >/srv/file && mkdir /srv/folder'")
    good(tool(lab, "stop", "kafka1"))
    good(tool(lab, "stop", "kafka1"))
    assert "kafka1 does not run: python -m lab start kafka1" in refused(tool(lab, "pid", "kafka1"))
    states = {host["name"]: host["running"] for host in info(lab)["hosts"]}
    assert states == {"zk1": True, "kafka1": False}
    good(tool(lab, "start", "kafka1.lab.test"))
    good(tool(lab, "start", "kafka1"))
    assert ssh(lab, "kafka1", "cat /srv/file; ls -d /srv/folder").split() == ["kept", "/srv/folder"]
    assert len(ssh(lab, "kafka1", "sudo journalctl -q --list-boots").splitlines()) >= 2
    assert init_pids(lab)["zk1"] == hosts["zk1"]
    assert "Welcome to Debian" in good(tool(lab, "console", "kafka1"))


def test_stopping_lets_services_finish(lab: Lab, hosts: dict[str, int]) -> None:
    """Databases must not find their files as after a power cut."""
    unit = "[Service]\\nExecStart=sleep infinity\\nExecStop=touch /srv/stopped\\n"
    ssh(lab, "zk1", f"sudo sh -c 'printf \"{unit}\" >/etc/systemd/system/neat.service; "
        "systemctl daemon-reload; systemctl start neat'")  # fmt: skip
    good(tool(lab, "stop", "zk1"))
    good(tool(lab, "start", "zk1"))
    ssh(lab, "zk1", "ls /srv/stopped && sudo rm /srv/stopped /etc/systemd/system/neat.service")


@pytest.mark.parametrize("whose", ["nspawn", "init"])
def test_a_host_that_died_is_started_and_only_that(
    lab: Lab, hosts: dict[str, int], whose: str
) -> None:
    ssh(lab, "kafka1", "sudo sh -c 'echo kept >/srv/file; sync'")
    kill(nspawn_pid(lab, "kafka1") if whose == "nspawn" else hosts["kafka1"])
    wait_for(lambda: not Nspawn(lab).is_running(lab.host("kafka1")), "end of the host")
    good(tool(lab, *UP))
    assert ssh(lab, "kafka1", "cat /srv/file") == "kept\n"
    now = init_pids(lab)
    assert now["zk1"] == hosts["zk1"]
    assert now["kafka1"] != hosts["kafka1"]


def test_it_grows_and_shrinks(lab: Lab, hosts: dict[str, int]) -> None:
    good(tool(lab, *CONTAINERS, "--zookeepers", "1", "--brokers", "2"))
    assert ssh(lab, "zk1", "getent hosts kafka2").split()[0] == "10.77.0.102"
    assert ssh(lab, "kafka2", "hostname") == "kafka2\n"
    good(tool(lab, *UP))
    assert [host["name"] for host in info(lab)["hosts"]] == ["zk1", "kafka1"]
    assert "kafka2" not in ssh(lab, "zk1", "cat /etc/hosts")
    assert not [line for line in traces(lab) if "kafka2" in line]
    assert init_pids(lab) == hosts


def test_one_host_s_services_are_not_another_s(lab: Lab, hosts: dict[str, int]) -> None:
    """Units of the same name in two containers, one stopped: the other's must live."""
    for host in hosts:
        ssh(lab, host, "sudo systemd-run -q --unit=same sleep infinity")
    ssh(lab, "zk1", "sudo systemctl stop same")
    assert ssh(lab, "kafka1", "systemctl is-active same; sudo systemctl stop same") == "active\n"


def test_two_labs_live_side_by_side(lab: Lab, hosts: dict[str, int]) -> None:
    other = Lab("unit2")
    try:
        good(tool(other, *CONTAINERS, "--zookeepers", "1", "--brokers", "0"))
        assert lab.host("zk1").address == other.host("zk1").address
        ssh(other, "zk1", "sudo touch /srv/other")
        assert ssh(lab, "zk1", "ls /srv") == ""
    finally:
        good(tool(other, "down"))
    assert traces(other) == []
    assert init_pids(lab) == hosts


def test_pyinfra_reaches_the_hosts(lab: Lab, hosts: dict[str, int]) -> None:
    script = (
        "import json, runpy, socket; found = runpy.run_path('inventories/lab.py'); "
        "zk, kafka = found['zookeepers'][0], found['brokers'][0]; "
        "socket.create_connection((kafka[1]['ssh_hostname'], kafka[1]['ssh_port']), 5).close(); "
        "print(json.dumps([zk, kafka]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=False,
        env=os.environ | {"STRONGBOX_LAB": lab.name},
    )  # fmt: skip
    (zookeeper, one), (broker, two) = json.loads(good(result))
    assert (zookeeper, broker) == ("zk1", "kafka1")
    assert (one["zookeeper_id"], two["kafka_broker_id"]) == (1, 1)
    assert "kafka_broker_id" not in one
    assert two["common_hostname"] == "kafka1.lab.test"
    assert two["common_addresses"] == ["10.77.0.101"]
    assert two["ssh_strict_host_key_checking"] == "yes"
    assert Path(two["ssh_known_hosts_file"]) == lab.known_hosts


@pytest.mark.parametrize(
    ("command", "program"),
    [
        (["-m", "pyinfra", "inventories/lab.py", "exec", "--", "true"], "pyinfra"),
        (["-m", "lab", "exec", "--", "true"], "lab"),
        (["-m", "lab", "ssh", "kafka1"], "lab"),
        (["-m", "lab", "start", "kafka1"], "lab"),
        (["-m", "lab", "pid", "kafka1"], "lab"),
    ],
)
def test_a_lab_that_is_not_up_is_told_with_the_remedy(command: list[str], program: str) -> None:
    result = subprocess.run(
        [sys.executable, *command], cwd=PROJECT, capture_output=True, text=True, check=False,
        env=os.environ | {"STRONGBOX_LAB": "never"},
    )  # fmt: skip
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "lab 'never' is not up: start it with 'python -m lab up' or 'make lab'" in result.stderr
    assert traces(Lab("never")) == []


def test_whatever_moment_up_is_killed_at_the_next_one_finishes(lab: Lab) -> None:
    moments: list[tuple[str, Callable[[], bool]]] = [
        ("network", lambda: network.exists(lab)),
        ("folder of the last host", lambda: (lab.host_folder("kafka1") / "upper").is_dir()),
        ("process of the first", lambda: (lab.host_folder("zk1") / "pid").exists()),
        ("process of the last", lambda: (lab.host_folder("kafka1") / "pid").exists()),
    ]
    for what, reached in moments:
        good(tool(lab, "down"))
        assert traces(lab) == []
        with subprocess.Popen(
            [sys.executable, "-m", "lab", "--name", lab.name, *UP], cwd=PROJECT,
            stderr=subprocess.DEVNULL,
        ) as run:  # fmt: skip
            wait_for(reached, what)
            run.kill()
        good(tool(lab, *UP))
        for host in lab.hosts():
            assert ssh(lab, host.name, "sudo -n id -u") == "0\n"


@pytest.mark.parametrize("what", ["no record of the process", "no state", "killed hosts"])
def test_down_leaves_nothing_whatever_it_finds(lab: Lab, hosts: dict[str, int], what: str) -> None:
    if what == "no record of the process":
        (lab.host_folder("zk1") / "pid").unlink()
    elif what == "no state":
        (lab.folder / "lab.json").unlink()
    else:
        for host in hosts:
            kill(nspawn_pid(lab, host))
    locks = [Path(f"/run/systemd/nspawn/locks/inode-{root.st_dev}:{root.st_ino}")
             for root in ((lab.host_folder(host) / "root").stat() for host in hosts)]  # fmt: skip
    assert all(lock.exists() for lock in locks)
    good(tool(lab, "down"))
    assert traces(lab) == []
    assert not any(lock.exists() for lock in locks)


def test_after_the_machine_has_rebooted_hosts_keep_their_disks(
    lab: Lab, hosts: dict[str, int]
) -> None:
    ssh(lab, "zk1", "sudo sh -c 'echo kept >/srv/file; sync'")
    # What a reboot leaves: files, stale process numbers, and an empty file where the namespace was.
    for host in hosts:
        record = (lab.host_folder(host) / "pid").read_text().split()
        Nspawn(lab).stop(lab.host(host))
        record[2] = "00000000-0000-4000-8000-000000000000"
        (lab.host_folder(host) / "pid").write_text(" ".join([str(os.getpid()), *record[1:]]))
        subprocess.run(["umount", str(lab.host_folder(host) / "root")], check=True)
    network.destroy(lab)
    network.namespace_path(lab).touch()
    assert "is not up" in refused(tool(lab, "ssh", "zk1"))
    assert "is not up" in refused(tool(lab, "start", "zk1"))
    good(tool(lab, *UP))
    assert ssh(lab, "zk1", "cat /srv/file") == "kept\n"


def test_who_still_uses_the_network_is_named_and_left(lab: Lab, hosts: dict[str, int]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "lab", "--name", lab.name, "exec", "--", "cat"], cwd=PROJECT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as user:  # fmt: skip
        assert user.stdin is not None
        assert user.stdout is not None
        user.stdin.write(b"x\n")
        user.stdin.flush()
        assert user.stdout.readline() == b"x\n"
        result = tool(lab, "down")
        good(result)
        assert f"process {user.pid}" in result.stderr
        assert user.poll() is None
        mounts = Path(f"/proc/{user.pid}/mounts").read_text()
        assert str(lab.folder / "hosts.d") not in mounts, "it holds a host's root"
        user.stdin.close()
    assert traces(lab) == []


def info(lab: Lab) -> dict[str, Any]:
    return dict(json.loads(good(tool(lab, "info", "--json"))))
