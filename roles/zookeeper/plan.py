"""In which order the ensemble's servers start and restart, and when one may not.

Pure: works on what the servers said of themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    LEADER = "leader"
    FOLLOWER = "follower"
    STANDALONE = "standalone"
    NOT_SERVING = "not serving"
    DOWN = "down"


@dataclass(frozen=True)
class ServerState:
    """What one server said. ``synced`` is whether it has all that was committed.

    ``synced_followers`` and ``quorum_size`` are the leader's count of followers that have a vote
    and are in step, and of all voters; None when it did not say.
    """

    role: Role
    synced: bool = False
    zxid: int = 0
    synced_followers: int | None = None
    quorum_size: int | None = None


DOWN = ServerState(Role.DOWN)
SERVING = frozenset({Role.LEADER, Role.FOLLOWER, Role.STANDALONE})

_SERVING = {
    "leader": Role.LEADER,
    "follower": Role.FOLLOWER,
    "standalone": Role.STANDALONE,
}


def parse(answer: str) -> ServerState:
    """Reads the answers to ``srvr`` and ``mntr``; no answer means that the server is down."""
    if not answer.strip():
        return DOWN
    mode = re.search(r"^Mode: (\S+)$", answer, re.MULTILINE)
    role = _SERVING.get(mode[1]) if mode else None
    if role is None:
        return ServerState(Role.NOT_SERVING)
    values = dict(re.findall(r"^(zk_\w+)\t(.*)$", answer, re.MULTILINE))
    zxid = re.search(r"^Zxid: 0x([0-9a-f]+)$", answer, re.MULTILINE)
    return ServerState(
        role=role,
        # A leader or follower passes discovery and synchronisation before it broadcasts.
        synced=role is Role.STANDALONE
        or values.get("zk_peer_state", "").rstrip().endswith("- broadcast"),
        zxid=int(zxid[1], 16) if zxid else 0,
        synced_followers=_voters(values),
        quorum_size=_number(values.get("zk_quorum_size")),
    )


def _voters(values: Mapping[str, str]) -> int | None:
    """Followers in step that have a vote; ZooKeeper's first number counts the others too."""
    followers = _number(values.get("zk_synced_followers"))
    if followers is None:
        return None
    return followers - (_number(values.get("zk_synced_non_voting_followers")) or 0)


def _number(text: str | None) -> int | None:
    return int(float(text)) if text and re.fullmatch(r"\d+(\.\d+)?", text.strip()) else None


class Reason(Enum):
    """Why a server may not be restarted or started now."""

    NO_LEADER = "the ensemble has no leader"
    TWO_LEADERS = "two servers say that they lead"
    RUNS_ALONE = "a server of the ensemble runs alone"
    TOO_FEW_SYNCED = "without it, too few synced servers would be left for a majority"
    DATA_MISSING = "a majority of the servers has lost its data"


@dataclass(frozen=True)
class Refusal:
    """A refusal in one line, which says what to do."""

    server: str
    reason: Reason
    detail: str
    verb: str = "restarted"

    @property
    def may_pass(self) -> bool:
        """Whether waiting can help: a member may still be catching up."""
        return self.reason in (Reason.NO_LEADER, Reason.TOO_FEW_SYNCED)

    def __str__(self) -> str:
        return f"{self.server}: not {self.verb}, as {self.reason.value}: {self.detail}"


def majority(voters: int) -> int:
    return voters // 2 + 1


def rolling_order(states: Mapping[str, ServerState]) -> list[str]:
    """The servers in the order in which they are restarted: those that do not serve first, as
    they cost nothing, and the leader last, as its restart costs an election."""

    def rank(server: str) -> tuple[int, str]:
        role = states[server].role
        if role is Role.LEADER:
            return (2, server)
        return (int(role in (Role.FOLLOWER, Role.STANDALONE)), server)

    return sorted(states, key=rank)


def gate(states: Mapping[str, ServerState], target: str) -> Refusal | None:
    """Whether the ensemble can spare *target* now: None, or the reason why not.

    :param states: of every server of the ensemble, read just before.
    """
    state = states[target]
    if state.role in (Role.DOWN, Role.NOT_SERVING):
        return None
    if len(states) == 1:
        return None  # There is nothing else to ask; the operator chose an ensemble of one.
    if alone := _runs_alone(states):
        return Refusal(target, Reason.RUNS_ALONE, alone)
    leaders = [name for name, seen in states.items() if seen.role is Role.LEADER]
    if not leaders:
        return Refusal(target, Reason.NO_LEADER, _summary(states))
    if len(leaders) > 1:
        return Refusal(
            target, Reason.TWO_LEADERS, f"{' and '.join(sorted(leaders))}; look at the network"
        )
    # By the servers' own word, in the ensemble as it is declared.
    synced = {
        name
        for name, seen in states.items()
        if seen.synced and seen.role in (Role.LEADER, Role.FOLLOWER)
    }
    checks = [(len(synced - {target}), len(states))]
    # By the leader's count, in the ensemble as it knows it: a smaller one while new members, that
    # have no vote yet, are being added.
    leader = states[leaders[0]]
    counts = target in synced or target == leaders[0]
    checks.append((1 + (leader.synced_followers or 0) - counts, leader.quorum_size or len(states)))
    for left, voters in checks:
        if left < majority(voters):
            return Refusal(
                target,
                Reason.TOO_FEW_SYNCED,
                f"{left} would be left, {majority(voters)} of {voters} are needed; "
                f"{_summary(states)}",
            )
    return None


def _runs_alone(states: Mapping[str, ServerState]) -> str:
    """What to do about a server that was the whole ensemble until others were declared."""
    alone = sorted(name for name, state in states.items() if state.role is Role.STANDALONE)
    if not alone or len(states) == 1:
        return ""
    return (
        f"the others are empty and would outvote {alone[0]}, and its data would be thrown away; "
        "to grow an ensemble of one, stop the brokers and it, and copy its data folder (without "
        "myid) to the others first"
    )


def _summary(states: Mapping[str, ServerState]) -> str:
    return ", ".join(
        f"{name} is {state.role.value}"
        + (
            " but not synced"
            if state.role in (Role.LEADER, Role.FOLLOWER) and not state.synced
            else ""
        )
        for name, state in sorted(states.items())
    )


def start_waves(
    states: Mapping[str, ServerState], has_data: Mapping[str, bool]
) -> list[list[str]] | Refusal:
    """Servers to start, in waves: all of a wave together, then wait until they serve.

    A server alone cannot serve, so servers are started together until there is a majority. While
    the ensemble serves, one with an empty folder loads everything from the leader. But a majority
    of empty servers would elect one of themselves and make the others throw their data away.

    :param has_data: whether the server was ever a member of a quorum (``currentEpoch`` above 0) or
        has written transactions (a ``log.*`` file); one that waited in vain for others has not.
    """
    stopped = sorted(name for name, state in states.items() if state.role is Role.DOWN)
    if not stopped:
        return []
    if alone := _runs_alone(states):
        return Refusal(", ".join(stopped), Reason.RUNS_ALONE, alone, "started")
    if any(state.role is Role.LEADER for state in states.values()):
        return [stopped]
    full = [name for name in states if has_data.get(name)]
    empty = sorted(name for name in states if not has_data.get(name))
    if full and len(full) < majority(len(states)):
        return Refusal(
            ", ".join(empty),
            Reason.DATA_MISSING,
            f"only {', '.join(sorted(full))} still has any, so starting them all would make an "
            "empty ensemble; restore the data folders from a backup or mount their volumes",
            "started",
        )
    first = [name for name in stopped if not full or has_data.get(name)]
    second = [name for name in stopped if name not in first]
    return [wave for wave in (first, second) if wave]
