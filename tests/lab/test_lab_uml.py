"""Hosts with a kernel of their own: disks, reboots and power cuts are real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import cgroups, network, processes
from lab.state import PROJECT, Lab
from tests.lab.tool import good, refused, ssh, tool

ROOMY = ("up", "--driver", "uml", "--zookeepers", "1", "--brokers", "1", "--data-disks", "1")
pytestmark = [
    pytest.mark.own_kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="tap devices need root"),
]


def info(lab: Lab) -> dict[str, Any]:
    return dict(json.loads(good(tool(lab, "info", "--json"))))


def boot_id(lab: Lab, host: str) -> str:
    return ssh(lab, host, "cat /proc/sys/kernel/random/boot_id")


def columns(lab: Lab, column: str, *devices: str) -> list[str]:
    """What lsblk says of each device of kafka1; of several at once it would choose the order."""
    look = "".join(f"lsblk -ndo {column} {device};" for device in devices)
    return ssh(lab, "kafka1", look).split()


def until(condition: Callable[[], bool], what: str, patience_s: float = 120) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {patience_s:.0f} s"
        time.sleep(0.1)


def traces(lab: Lab) -> list[str]:
    """All that is on this machine by the lab's name."""
    found = [line for line in Path("/proc/self/mounts").read_text().splitlines()
             if lab.namespace in line]  # fmt: skip
    found += [str(place) for place in (network.namespace_path(lab), lab.folder) if place.exists()]
    for folder in (*cgroups.hierarchies(), Path("/run/strongbox-lab")):
        if folder.is_dir():
            found += [str(item) for item in folder.iterdir() if lab.namespace in item.name]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text() + (process / "cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if lab.namespace in words and processes.start_time(int(process.name)) is not None:
            found.append(f"process {process.name}: {words}")
    return found


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Brought up by a command that follows one killed as soon as its first host had started."""
    lab = Lab("umltest")
    good(tool(lab, "down"))
    with subprocess.Popen(
        [sys.executable, "-m", "lab", "--name", lab.name, *ROOMY], cwd=PROJECT,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"STRONGBOX_CA_PASSPHRASE": "CANARY-in-the-environment"},
    ) as run:  # fmt: skip
        until(lambda: (lab.host_folder("zk1") / "pid").exists(), "first host", 300)
        run.kill()
    good(tool(lab, *ROOMY, STRONGBOX_CA_PASSPHRASE="CANARY-in-the-environment"))
    yield lab
    good(tool(lab, "down"))
    assert traces(lab) == []


def test_hosts_are_like_any_others_to_whoever_deploys(lab: Lab) -> None:
    for host in ("zk1", "kafka1"):
        assert ssh(lab, host, "id -un; sudo -n id -un; hostname; hostname -f").split() == [
            "deploy", "root", host, f"{host}.lab.test",
        ]  # fmt: skip
        state = "systemctl is-system-running --wait; ps -o comm= -p 1; systemctl --failed -q"
        assert ssh(lab, host, state).split() == ["running", "systemd"]
        ports = ssh(lab, host, "sudo ss -Hlntu").splitlines()
        assert {line.split()[4].rpartition(":")[2] for line in ports} == {"22"}
    assert ssh(lab, "zk1", "nc -w 5 kafka1.lab.test 22 </dev/null").startswith("SSH-2.0-")
    assert "Network is unreachable" in ssh(lab, "zk1", "! bash -c '</dev/tcp/192.0.2.1/80' 2>&1")


def test_kernel_settings_are_the_host_s_own(lab: Lab) -> None:
    mine = Path("/proc/sys/vm/swappiness").read_text()
    other = "7" if mine.strip() != "7" else "8"
    ssh(lab, "kafka1", f"sudo sysctl -q vm.swappiness={other}")
    assert ssh(lab, "kafka1", "cat /proc/sys/vm/swappiness").strip() == other
    assert ssh(lab, "zk1", "cat /proc/sys/vm/swappiness").strip() != other
    assert Path("/proc/sys/vm/swappiness").read_text() == mine


def test_nothing_of_the_caller_s_environment_is_kept(lab: Lab) -> None:
    for host in ("zk1", "kafka1"):
        pid = int(good(tool(lab, "pid", host)))
        assert b"CANARY" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert ssh(lab, host, "sudo grep -c CANARY /proc/1/environ || true").strip() == "0"


def test_again_it_changes_nothing_and_another_driver_is_refused(lab: Lab) -> None:
    before = [good(tool(lab, "pid", host)) for host in ("zk1", "kafka1")]
    good(tool(lab, "up", "--zookeepers", "1", "--brokers", "1", STRONGBOX_LAB_DRIVER="nspawn"))
    assert [good(tool(lab, "pid", host)) for host in ("zk1", "kafka1")] == before
    for asked in (["--driver", "nspawn"], ["--data-disks", "2"]):
        line = refused(tool(lab, "up", "--zookeepers", "1", "--brokers", "1", *asked))
        assert "has driver uml (data disks: 1), asked for is driver" in line
        assert "'python -m lab down' first" in line
    assert info(lab)["driver"] == {"name": "uml", "own_kernel": True}


def test_it_grows_and_shrinks(lab: Lab) -> None:
    good(tool(lab, "up", "--zookeepers", "2", "--brokers", "1"))
    assert ssh(lab, "kafka1", "getent hosts zk2").split()[0] == "10.77.0.12"
    good(tool(lab, "up", "--zookeepers", "1", "--brokers", "1"))
    assert ssh(lab, "kafka1", "cat /etc/hosts").count("zk2") == 0
    assert not [line for line in traces(lab) if "zk2" in line]


def test_disks_hold_luks_and_the_machine_sees_no_plaintext(lab: Lab) -> None:
    disks = {disk["name"]: disk for disk in next(
        host["disks"] for host in info(lab)["hosts"] if host["name"] == "kafka1"
    )}  # fmt: skip
    assert list(disks) == ["main", "data1"]
    serials = columns(lab, "SERIAL", *(disk["link"] for disk in disks.values()))
    assert serials == ["lab-main", "lab-data1"]
    ssh(
        lab,
        "kafka1",
        f"""sudo sh -eu <<'END'
        printf 'key of a test' >/run/key
        cryptsetup -q luksFormat --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
            --sector-size 4096 {disks["main"]["link"]} /run/key
        cryptsetup open --key-file /run/key {disks["main"]["link"]} vault
        mkfs.xfs -q /dev/mapper/vault
        mkfs.xfs -q {disks["data1"]["link"]}
        mkdir /srv/vault /srv/plain
        mount /dev/mapper/vault /srv/vault
        mount {disks["data1"]["link"]} /srv/plain
        echo CANARY-of-the-disks | tee /srv/vault/file >/srv/plain/file
        sync
END""",
    )
    found = {
        name: subprocess.run(["grep", "-qa", "CANARY-of-the-disks", disk["image"]], check=False)
        for name, disk in disks.items()
    }
    assert (found["main"].returncode, found["data1"].returncode) == (1, 0)


def test_a_disk_in_use_stays_and_another_is_unplugged_and_plugged(lab: Lab) -> None:
    link = "/dev/disk/by-id/lab-data1"
    assert "Device is currently open" in refused(tool(lab, "unplug", "kafka1", "main"))
    ssh(lab, "kafka1", "sudo umount /srv/plain")
    good(tool(lab, "unplug", "kafka1", "data1"))
    good(tool(lab, "unplug", "kafka1", "data1"))
    assert ssh(lab, "kafka1", f"sudo udevadm settle; test -e {link}; echo $?").strip() == "1"
    good(tool(lab, "plug", "kafka1", "data1"))
    good(tool(lab, "plug", "kafka1", "data1"))
    wait = f"sudo udevadm settle; sudo mount {link} /srv/plain; cat /srv/plain/file"
    assert ssh(lab, "kafka1", wait) == "CANARY-of-the-disks\n"


def test_a_power_cut_keeps_what_was_written(lab: Lab) -> None:
    before = boot_id(lab, "zk1")
    ssh(lab, "kafka1", "echo synced | sudo tee /srv/vault/synced /srv/root && sudo sync")
    good(tool(lab, "cut", "kafka1"))
    good(tool(lab, "cut", "kafka1"))
    assert "kafka1 does not run" in refused(tool(lab, "pid", "kafka1"))
    good(tool(lab, "start", "kafka1"))
    opened = ssh(
        lab,
        "kafka1",
        """sudo sh -eu <<'END'
        printf 'key of a test' >/run/key
        ls -A /srv/vault
        cryptsetup open --key-file /run/key /dev/disk/by-id/lab-main vault
        mount /dev/mapper/vault /srv/vault
        cat /srv/vault/file /srv/vault/synced /srv/root
END""",
    )
    assert opened.splitlines() == ["CANARY-of-the-disks", "synced", "synced"]
    assert boot_id(lab, "zk1") == before, "only one host's power was cut"


def test_disks_keep_their_names_when_the_kernel_finds_them_in_another_order(lab: Lab) -> None:
    look = "readlink -f /dev/disk/by-id/lab-main /dev/disk/by-id/lab-data1"
    before, boot = ssh(lab, "kafka1", look).split(), boot_id(lab, "kafka1")
    good(tool(lab, "reboot", "kafka1", "--shuffle-disks"))
    after = ssh(lab, "kafka1", look).split()
    assert not set(before) & set(after)
    assert boot_id(lab, "kafka1") != boot
    assert columns(lab, "FSTYPE", *after) == ["crypto_LUKS", "xfs"]


def test_a_reboot_from_inside_comes_back_and_a_poweroff_does_not(lab: Lab) -> None:
    """The process stays, so that no other part of the lab need know."""
    before, pid = boot_id(lab, "zk1"), good(tool(lab, "pid", "zk1"))
    tool(lab, "ssh", "zk1", "sudo systemctl reboot")

    def back() -> bool:
        answer = tool(lab, "ssh", "zk1", "cat /proc/sys/kernel/random/boot_id")
        return answer.returncode == 0 and answer.stdout != before

    until(back, "host after its reboot")
    assert good(tool(lab, "pid", "zk1")) == pid
    assert ssh(lab, "zk1", "nc -w 5 kafka1.lab.test 22 </dev/null").startswith("SSH-2.0-")
    tool(lab, "ssh", "zk1", "sudo systemctl poweroff")
    until(lambda: "does not run" in tool(lab, "pid", "zk1").stderr, "end of the host")
    states = {host["name"]: host["running"] for host in info(lab)["hosts"]}
    assert states == {"zk1": False, "kafka1": True}
