"""What may not change while the ensemble runs: its ports, its servers' ids and who is a member.

Pure: compares what is declared with what lies on the hosts. A changed file is no proof of what the
process was started with, so a server that runs as declared is never held against the run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from roles.zookeeper.plan import Role, ServerState

_STOP = (
    "stop the brokers (systemctl stop kafka) and then ZooKeeper on all members (systemctl stop "
    "zookeeper), and run again"
)


@dataclass(frozen=True)
class Peer:
    """A ``server.N`` line of zoo.cfg."""

    hostname: str
    quorum_port: int
    election_port: int


@dataclass(frozen=True)
class Configured:
    """What a host's zoo.cfg and myid say; empty where there is none."""

    id: int | None = None
    client_port: int | None = None
    peers: Mapping[int, Peer] = field(default_factory=dict)


def parse(lines: Iterable[str]) -> Configured:
    """Reads ``myid N`` and the lines of zoo.cfg that name members and the clients' port."""
    found: dict[str, int] = {}
    peers: dict[int, Peer] = {}
    for line in lines:
        if number := re.fullmatch(r"(myid |secureClientPort=)(\d+)\s*", line):
            found[number[1]] = int(number[2])
        elif peer := re.match(r"server\.(\d+)=(.+?):(\d+):(\d+)(?!\d)", line):
            peers[int(peer[1])] = Peer(peer[2], int(peer[3]), int(peer[4]))
    return Configured(found.get("myid "), found.get("secureClientPort="), peers)


@dataclass(frozen=True)
class Member:
    """A declared member and what its host has.

    ``running`` is whether the unit is active, ``has_data`` as for `plan.start_waves`.
    """

    id: int
    client_port: int
    quorum_port: int
    election_port: int
    on_host: Configured
    running: bool
    has_data: bool


def problems(members: Mapping[str, Member], states: Mapping[str, ServerState]) -> list[str]:
    """Changes that the ensemble would not survive while any of its servers runs, one line each.

    Servers that are all stopped may change everything: they find each other by the new files.
    """
    if not any(member.running for member in members.values()):
        return []
    # The ids and ports it knows are the declared ones, so who differs comes back to it.
    if any(state.role is Role.LEADER and state.as_declared for state in states.values()):
        return []
    differing = {name: item for name, item in members.items() if not states[name].as_declared}
    found = _ports(differing)
    for name, member in sorted(differing.items()):
        old = member.on_host.id
        if member.has_data and old is not None and old != member.id:
            found.append(
                f"{name}: zookeeper_id is {member.id}, but the host has the data of server {old}: "
                f"the others would not count its vote. Set it back to {old}. To give ids anew, "
                f"{_STOP}. If the data is not this ensemble's, stop ZooKeeper on this host and "
                "remove version-2 from its data folder: it loads everything from the others"
            )
    return found + _gone(members, differing)


def _ports(members: Mapping[str, Member]) -> list[str]:
    """One line for each changed port, with all members that have another."""
    changed: dict[tuple[str, int, int], set[str]] = {}
    for name, member in members.items():
        pairs = [("client_port", member.client_port, member.on_host.client_port)]
        for peer in member.on_host.peers.values():
            pairs.append(("quorum_port", member.quorum_port, peer.quorum_port))
            pairs.append(("election_port", member.election_port, peer.election_port))
        for key, declared, present in pairs:
            if present is not None and present != declared:
                changed.setdefault((key, declared, present), set()).add(name)
    return [
        f"{', '.join(sorted(names))}: zookeeper_{key} is {declared}, but zoo.cfg has {present}: "
        "members on different ports do not find each other, so a port is not changed while one of "
        f"them runs. Set it back, or {_STOP}"
        for (key, declared, present), names in sorted(changed.items())
    ]


def _gone(members: Mapping[str, Member], differing: Mapping[str, Member]) -> list[str]:
    """Members that the running servers count and the inventory no longer has."""
    declared = {member.id for member in members.values()}
    known = {
        number: peer
        for _, member in sorted(differing.items())
        for number, peer in member.on_host.peers.items()
    }
    new = sorted(name for name, member in members.items() if known and member.id not in known)
    found = []
    for number, peer in sorted(known.items()):
        if number in declared:
            continue
        # A server whose id was changed in place is told so by its own line.
        if any(member.on_host.id == number and member.has_data for member in members.values()):
            continue
        if new:
            found.append(
                f"{new[0]}: zookeeper_id is {members[new[0]].id}, but the ensemble counts server "
                f"{number} ({peer.hostname}), which is not in the inventory, so a newcomer would "
                f"have no vote. To replace a lost server, give the new host its zookeeper_id "
                f"({number}) and an empty data folder; the old one must not start again"
            )
        else:
            found.append(
                f"server {number} ({peer.hostname}) is not in the inventory, but the ensemble that "
                "runs counts it. Put it back; to make the ensemble smaller, "
                f"{_STOP.removesuffix(', and run again')}, also on those that leave (there: "
                "systemctl disable --now zookeeper), and run again"
            )
    return found
