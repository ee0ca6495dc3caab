"""Brings a lab up and takes it down. Knows no driver's insides."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from lab import image, network
from lab.driver import HostDriver
from lab.network import run
from lab.nspawn import Nspawn
from lab.state import MOST_DATA_DISKS, Disk, Host, Lab, LabError, Plan, plan_hosts
from lab.uml import Uml

BOOT_S = 240.0  # six kernels on two busy cores
TELL_EVERY_S = 5.0
RETRY_S = 0.05
CONSOLE_LINES = 20
DRIVERS: dict[str, Callable[[Lab], HostDriver]] = {Nspawn.name: Nspawn, Uml.name: Uml}
DEFAULT_DRIVER = Uml.name
Say = Callable[[str], None]


def driver(lab: Lab) -> HostDriver:
    """The one that the lab was brought up with."""
    plan = lab.plan()
    return _driver(plan.driver if plan else DEFAULT_DRIVER, lab)


def _driver(name: str, lab: Lab) -> HostDriver:
    try:
        return DRIVERS[name](lab)
    except KeyError:
        raise LabError(f"no driver {name!r}; there are {', '.join(DRIVERS)}") from None


def plan(
    lab: Lab, zookeepers: int, brokers: int, driver: str | None, data_disks: int | None
) -> Plan:
    """What the lab is to consist of. Driver and disks are as it has them unless it is new.

    :param driver: None for what it has, for a new lab that of STRONGBOX_LAB_DRIVER or the default.
    :raises LabError: when it has others than asked for.
    """
    kept = lab.plan()
    chosen = os.environ.get("STRONGBOX_LAB_DRIVER") or DEFAULT_DRIVER
    wanted = Plan(
        driver or (kept.driver if kept else chosen),
        data_disks if data_disks is not None else (kept.data_disks if kept else 0),
        plan_hosts(zookeepers, brokers),
    )
    _driver(wanted.driver, lab)
    if kept is not None and (kept.driver, kept.data_disks) != (wanted.driver, wanted.data_disks):
        raise LabError(
            f"lab {lab.name!r} has {_kind(kept)}, asked for is {_kind(wanted)}: "
            "'python -m lab down' first, or use another lab (--name)"
        )
    if wanted.data_disks and wanted.driver == Nspawn.name:
        raise LabError("containers have no disks of their own: --data-disks needs --driver uml")
    if not 0 <= wanted.data_disks <= MOST_DATA_DISKS:
        raise LabError(f"a broker has 0 to {MOST_DATA_DISKS} data disks beside its main one")
    return wanted


def _kind(plan: Plan) -> str:
    return f"driver {plan.driver} (data disks: {plan.data_disks})"


def up(lab: Lab, asked: Callable[[], Plan], say: Say) -> None:
    """Makes the lab have just these hosts, all of them running and answering on SSH.

    Hosts that run stay as they are, those that are down start with what is on their disks.

    :param asked: makes the plan; called once no other command can change the lab.
    """
    _driver(asked().driver, lab).prepare(say)
    with lab.lock(say):
        plan = asked()
        wanted, drive = plan.hosts, _driver(plan.driver, lab)
        down = [host for host in wanted if not drive.is_running(host)]
        drive.room_for(down)
        for host in lab.leftovers():
            if host.name not in {one.name for one in wanted}:
                say(f"removing {host.name}")
                _destroy(lab, host)
        lab.write_plan(plan)
        _secrets(lab, wanted)
        network.create(lab)
        if down:
            say(f"starting {_count(len(down))} in network namespace {lab.namespace}")
        for host in wanted:
            if host in down:
                drive.create(host)
                drive.start(host)
            else:
                drive.renew_names(host)
        _wait_for_ssh(lab, drive, wanted, say)
    say(f"{_count(len(wanted))} answer: {' '.join(host.name for host in wanted)}")


def start_one(lab: Lab, host: Host, say: Say) -> None:
    """Starts a host that is down and waits until it answers on SSH."""
    with lab.lock(say):
        _start(lab, host, say)


def reboot_one(lab: Lab, host: Host, say: Say, shuffle_disks: bool = False) -> None:
    """Shuts one host down in order, starts it again and waits until it answers on SSH.

    :param shuffle_disks: the host finds each disk under another device name than before.
    """
    with lab.lock(say):
        driver(lab).stop(host)
        _start(lab, host, say, shuffle_disks)


def _start(lab: Lab, host: Host, say: Say, shuffle_disks: bool = False) -> None:
    drive = driver(lab)
    if not network.exists(lab):
        raise lab.not_up()
    drive.create(host)
    drive.start(host, shuffle_disks=shuffle_disks)
    _wait_for_ssh(lab, drive, [host], say)


def stop_one(lab: Lab, host: Host, say: Say) -> None:
    with lab.lock(say):
        driver(lab).stop(host)


def cut_one(lab: Lab, host: Host, say: Say) -> None:
    """Takes the power from one host."""
    with lab.lock(say):
        driver(lab).cut(host)


def plug(lab: Lab, host: Host, disk: str, say: Say) -> None:
    with lab.lock(say):
        driver(lab).plug(host, _disk(lab, host, disk))


def unplug(lab: Lab, host: Host, disk: str, say: Say) -> None:
    with lab.lock(say):
        driver(lab).unplug(host, _disk(lab, host, disk))


def _disk(lab: Lab, host: Host, name: str) -> Disk:
    disks = lab.disks(host)
    for disk in disks:
        if disk.name == name:
            return disk
    has = ", ".join(disk.name for disk in disks) or "none: its lab has driver nspawn"
    raise LabError(f"{host.name} has no disk {name!r}, it has {has}")


def _destroy(lab: Lab, host: Host) -> None:
    """Removes the host with every driver: a state that is lost does not tell which had it."""
    for make in DRIVERS.values():
        make(lab).destroy(host)


def down(lab: Lab, say: Say) -> None:
    """Removes the lab's hosts, network and files, whatever state they are in."""
    with lab.lock(say):
        hosts = lab.leftovers()
        if hosts:
            say(f"stopping {_count(len(hosts))}")
            with ThreadPoolExecutor(len(hosts)) as pool:
                list(pool.map(lambda host: _destroy(lab, host), hosts))
        if others := network.users(lab):
            # Not the lab's processes, so not for it to end; they keep the network until they do.
            say(f"still in its network, end them yourself: process {', '.join(map(str, others))}")
        network.destroy(lab)
        shutil.rmtree(lab.folder)


def purge(lab: Lab, say: Say) -> None:
    """Removes the image that new hosts start from."""
    image.purge(lab.images, say)


def _count(number: int) -> str:
    return f"{number} host{'' if number == 1 else 's'}"


def _secrets(lab: Lab, hosts: Sequence[Host]) -> None:
    lab.folder.chmod(0o700)
    keys = [(lab.key, lab.namespace)] + [(lab.host_key(host.name), host.fqdn) for host in hosts]
    for key, comment in keys:
        # The public half is written last, so with both there the pair is whole.
        if not (key.exists() and key.with_suffix(".pub").exists()):
            key.parent.mkdir(parents=True, exist_ok=True)
            key.unlink(missing_ok=True)
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(key))
    lines = []
    for host in hosts:
        kind, public, *_ = lab.host_key(host.name).with_suffix(".pub").read_text().split()
        lines.append(f"{host.address},{host.fqdn},{host.name} {kind} {public}\n")
    lab.known_hosts.write_text("".join(lines))
    if not lab.passphrase.exists():
        temporary = lab.folder / "ca-passphrase.new"
        temporary.touch(mode=0o600)
        temporary.write_text(f"{secrets.token_urlsafe(32)}\n")
        temporary.replace(lab.passphrase)


def _wait_for_ssh(lab: Lab, drive: HostDriver, hosts: Sequence[Host], say: Say) -> None:
    given_up = threading.Event()
    # A thread is in a network namespace by itself: this process stays in its own.
    with ThreadPoolExecutor(len(hosts), initializer=network.enter, initargs=(lab,)) as pool:
        waiting = {pool.submit(_answers, drive, host, given_up): host for host in hosts}
        try:
            while waiting:
                done, _ = wait(waiting, TELL_EVERY_S, FIRST_COMPLETED)
                for one in done:
                    del waiting[one]
                    one.result()
                if not done:
                    say(f"waiting for {', '.join(host.name for host in waiting.values())}")
        finally:
            given_up.set()


def _answers(drive: HostDriver, host: Host, given_up: threading.Event) -> None:
    """Returns once the host's SSH server has said its first word, or nobody waits for it."""
    deadline = time.monotonic() + BOOT_S
    while time.monotonic() < deadline and drive.is_running(host):
        try:
            with socket.create_connection((host.address, 22), timeout=2) as connection:
                connection.settimeout(5)
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            pass
        # Until the host is there nothing tells that it is.
        if given_up.wait(RETRY_S):
            return
    reason = f"within {BOOT_S:.0f} s" if drive.is_running(host) else "before it ended"
    tail = drive.console(host).read_text(errors="replace").split("\n")[-CONSOLE_LINES:]
    said = "\n".join(line for line in map(str.strip, tail) if line)
    raise LabError(f"{host.name} did not answer on SSH {reason}; its console:\n{said}")
