"""How a run starts: SSH sessions tuned, sudo tried, and the hosts locked against a second run."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gevent
from pyinfra import state
from pyinfra.api.exceptions import PyinfraError

from roles.common.operations import once

KEEPALIVE_S = 30
# A host whose kernel has not acknowledged anything for so long is lost. Without this the run would
# wait for TCP's own patience, a quarter of an hour; a host that is only busy does acknowledge.
UNANSWERED_S = 60
LOCK = "/run/strongbox.lock"
_CONFLICT = 75
_BEAT_S = 10
# The lock is held by a process that reads this channel until it ends: however the run ends (SIGKILL
# among them) the lock ends with the connection. It waits for nothing and prints a beat each time it
# has waited in vain: that makes the host's kernel notice a peer that is gone without a word, which
# silence does not. Kernels answer beats, so a controller that waits at a prompt keeps its lock.
_HOLD = (
    f"sudo -n bash -c 'umask 077; exec 9>>{LOCK}; chmod 600 {LOCK}; "
    f"flock --nonblock 9 || {{ cat {LOCK}.by; "
    f'exit {_CONFLICT}; }}; IFS= read -r who; printf "%s\\n" "$who, held here by process $$" '
    f">{LOCK}.by; echo held; "
    f"while IFS= read -r -t {_BEAT_S} || [ $? -gt 128 ]; do echo; done'"
)


class SessionError(PyinfraError):
    """A host that cannot be worked on; the message names it and the remedy."""


@dataclass(frozen=True)
class RunOptions:
    """What was asked on pyinfra's command line; set by `strongbox.preflight` before connecting."""

    dry: bool = False


def tune(host: Any) -> None:
    """Sets TCP_NODELAY, keepalive and a limit for unanswered data on a host's SSH connection.

    paramiko leaves Nagle's algorithm on, which costs about 40 ms for each command, and hosts that
    wait at a barrier would be dropped by firewalls without keepalive.
    """
    client = getattr(host.connector, "client", None)
    transport = client.get_transport() if client is not None else None
    if transport is None:  # @local, @fake
        return
    transport.set_keepalive(KEEPALIVE_S)
    setsockopt = getattr(transport.sock, "setsockopt", None)  # a ProxyJump channel has none
    if setsockopt is not None:
        setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if user_timeout := getattr(socket, "TCP_USER_TIMEOUT", None):  # Linux
            setsockopt(socket.IPPROTO_TCP, user_timeout, UNANSWERED_S * 1000)


def options() -> RunOptions:
    """What was asked on the command line.

    :raises SessionError: when the hooks of `strongbox.preflight` are not there.
    """
    found = getattr(state, "strongbox_options", None)
    if not isinstance(found, RunOptions):
        raise SessionError(
            "the project's config.py was not read: run pyinfra from the project's folder, "
            "or with --chdir"
        )
    return found


def begin(exclusive: bool = True) -> None:
    """First line of every deploy. Called once for each host, works once for all of them.

    :param exclusive: take each host's lock for as long as this run is connected; a deploy that only
        reads passes False. A dry run never locks, as that would be a side effect.
    :raises SessionError: when sudo does not work, or another run holds a host.
    """
    once("session", lambda: _begin(exclusive))


def _begin(exclusive: bool) -> None:
    dry = options().dry
    take = _check_sudo if dry or not exclusive else _lock
    # With --limit too: what may be done to one host depends on all the others.
    everyone = sorted(state.inventory, key=lambda item: item.name)
    _all(_connect, everyone)
    # The same host first in every run: of two that start together one gets it, and with it all.
    first, *others = everyone
    take(first)
    _all(take, others)


def _all(act: Callable[[Any], None], hosts: Sequence[Any]) -> None:
    """At the same time on all; the first error ends the run."""
    acting = [gevent.spawn(act, host) for host in hosts]
    gevent.joinall(acting)
    for one in acting:
        one.get()


def _connect(host: Any) -> None:
    if not host.connected:
        host.connect(reason="the rest of the cluster is read and locked", raise_exceptions=True)
    tune(host)


def _transport(host: Any) -> Any:
    client = getattr(host.connector, "client", None)
    return client.get_transport() if client is not None else None


def _sudo_remedy(host: Any, said: str) -> SessionError:
    user = host.data.get("ssh_user") or getpass.getuser()
    detail = f" ({said})" if said else ""
    return SessionError(
        f"{host.name}: sudo does not work for {user} without a password{detail}: allow it with "
        f"'{user} ALL=(ALL) NOPASSWD: ALL' in /etc/sudoers.d; nothing was changed"
    )


def _check_sudo(host: Any) -> None:
    transport = _transport(host)
    if transport is None:
        return
    channel = transport.open_session()
    channel.exec_command("sudo -n true")
    said = channel.makefile_stderr("rb").read().decode(errors="replace").strip()
    if channel.recv_exit_status() != 0:
        raise _sudo_remedy(host, said.splitlines()[0] if said else "")


def _holder() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}"


def _lock(host: Any) -> None:
    transport = _transport(host)
    if transport is None:
        return
    channel = transport.open_session()
    channel.exec_command(_HOLD)
    channel.sendall(f"{_holder()}\n".encode())
    first = channel.makefile("rb").readline().decode(errors="replace").strip()
    if first == "held":
        host.connector.strongbox_lock = channel  # kept referenced, or paramiko closes it
        return
    if channel.recv_exit_status() == _CONFLICT:
        with suppress(OSError):
            channel.close()
        raise SessionError(
            f"{host.name}: another run is at work here ({first or 'unknown holder'}): wait for it "
            "to end; its lock ends with its SSH connection (if its machine is lost: with that "
            "process). Nothing was changed"
        )
    said = channel.makefile_stderr("rb").read().decode(errors="replace").strip()
    raise _sudo_remedy(host, said.splitlines()[0] if said else first)
