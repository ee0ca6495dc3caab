"""Brings a lab up and takes it down."""

from __future__ import annotations

import secrets
import shutil
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lab import image, network
from lab.network import run
from lab.nspawn import Nspawn
from lab.state import PROJECT, Host, Lab, LabError, plan_hosts

BOOT_S = 60
Say = Callable[[str], None]


def driver(lab: Lab) -> Nspawn:
    return Nspawn(lab, PROJECT / ".lab" / "image" / image.key())


def up(lab: Lab, zookeepers: int, brokers: int, say: Say) -> None:
    """Makes the lab have just these hosts, all of them running and answering on SSH.

    Hosts that run stay as they are. This process is in the lab's network afterwards.
    """
    wanted = plan_hosts(zookeepers, brokers)
    image.build(say)
    drive = driver(lab)
    for host in lab.hosts():
        if host not in wanted:
            say(f"removing {host.name}")
            drive.destroy(host)
    _secrets(lab)
    lab.write_hosts(wanted)
    network.create(lab)
    down = [host for host in wanted if not drive.running(host)]
    if down:
        say(f"starting {len(down)} hosts in network namespace {lab.namespace}")
    for host in wanted:
        drive.create(host)
        drive.start(host)
    _write_known_hosts(lab, wanted)
    network.enter(lab)
    with ThreadPoolExecutor(len(wanted)) as pool:
        list(pool.map(lambda host: _wait_for_ssh(lab, drive, host), wanted))
    say(f"{len(wanted)} hosts answer: {' '.join(host.name for host in wanted)}")


def start_one(lab: Lab, host: Host) -> None:
    """Starts a host that is down and waits until it answers on SSH."""
    drive = driver(lab)
    drive.start(host)
    network.enter(lab)
    _wait_for_ssh(lab, drive, host)


def down(lab: Lab, say: Say) -> None:
    """Removes the lab's hosts, network and files."""
    drive = driver(lab)
    hosts = lab.hosts()
    if hosts:
        say(f"stopping {len(hosts)} hosts")
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(drive.destroy, hosts))
    network.destroy(lab)
    shutil.rmtree(lab.folder, ignore_errors=True)


def _secrets(lab: Lab) -> None:
    lab.folder.mkdir(parents=True, exist_ok=True)
    lab.folder.chmod(0o700)
    if not lab.key.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", lab.namespace, "-f", str(lab.key))
    if not lab.passphrase.exists():
        lab.passphrase.touch(mode=0o600)
        lab.passphrase.write_text(f"{secrets.token_urlsafe(32)}\n")


def _write_known_hosts(lab: Lab, hosts: list[Host]) -> None:
    lines = []
    for host in hosts:
        public = lab.host_folder(host.name) / "keys/ssh_host_ed25519_key.pub"
        kind, key, *_ = public.read_text().split()
        lines.append(f"{host.address},{host.fqdn},{host.name} {kind} {key}\n")
    lab.known_hosts.write_text("".join(lines))


def _wait_for_ssh(lab: Lab, drive: Nspawn, host: Host) -> None:
    deadline = time.monotonic() + BOOT_S
    while time.monotonic() < deadline and drive.running(host):
        try:
            with socket.create_connection((host.address, 22), timeout=2) as connection:
                connection.settimeout(5)
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            time.sleep(0.1)
    tail = drive.console(host).read_text(errors="replace").splitlines()[-15:]
    raise LabError(f"{host.name} did not answer on SSH; its console:\n" + "\n".join(tail))
