"""In which order the ensemble's servers start and restart, and when one may not.

Pure: works on what the servers said of themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    LEADER = "leader"
    FOLLOWER = "follower"
    STANDALONE = "standalone"
    NOT_SERVING = "not serving"
    SILENT = "running but silent"
    DOWN = "down"


@dataclass(frozen=True)
class ServerState:
    """What one server said. ``synced`` is whether it has all that was committed.

    ``synced_followers`` is the leader's count of followers that have a vote and are in step, and
    ``non_voting`` of those that have none; ``quorum_size`` is the number of voters as the server
    knows them. None when it did not say. ``as_declared`` is whether its process was started with
    the configuration that is declared, so that it knows the declared members by their ids.
    """

    role: Role
    synced: bool = False
    zxid: int = 0
    synced_followers: int | None = None
    quorum_size: int | None = None
    non_voting: int = 0
    as_declared: bool = False


DOWN = ServerState(Role.DOWN)
SERVING = frozenset({Role.LEADER, Role.FOLLOWER, Role.STANDALONE})

_SERVING = {
    "leader": Role.LEADER,
    "follower": Role.FOLLOWER,
    "standalone": Role.STANDALONE,
}


def parse(answer: str) -> ServerState:
    """Reads the answers to ``srvr`` and ``mntr`` of a server whose unit is active.

    One that does not answer may be busy and a voter all the same, so it is not down.
    """
    if not answer.strip():
        return ServerState(Role.SILENT)
    mode = re.search(r"^Mode: (\S+)$", answer, re.MULTILINE)
    role = _SERVING.get(mode[1]) if mode else None
    if role is None:
        return ServerState(Role.NOT_SERVING)
    values: dict[str, str] = dict(re.findall(r"^(zk_\w+)\t(.*)$", answer, re.MULTILINE))
    followers = _number(values.get("zk_synced_followers"))
    non_voting = _number(values.get("zk_synced_non_voting_followers")) or 0
    zxid = re.search(r"^Zxid: 0x([0-9a-f]+)$", answer, re.MULTILINE)
    return ServerState(
        role=role,
        # A leader or follower passes discovery and synchronisation before it broadcasts.
        synced=role is Role.STANDALONE
        or values.get("zk_peer_state", "").rstrip().endswith("- broadcast"),
        zxid=int(zxid[1], 16) if zxid else 0,
        # ZooKeeper's first number counts those without a vote too.
        synced_followers=None if followers is None else followers - non_voting,
        quorum_size=_number(values.get("zk_quorum_size")),
        non_voting=non_voting,
    )


def _number(text: str | None) -> int | None:
    return int(float(text)) if text and re.fullmatch(r"\d+(\.\d+)?", text.strip()) else None


class Reason(Enum):
    """Why a server may not be restarted or started now."""

    NO_LEADER = "the ensemble has no leader"
    LEADER_ELSEWHERE = "its leader is not in the inventory"
    MORE_VOTERS = "the ensemble has more servers than the inventory"
    TWO_LEADERS = "two servers say that they lead"
    RUNS_ALONE = "a server of the ensemble runs alone"
    TOO_FEW_SYNCED = "without it, too few synced servers would be left for a majority"
    DATA_MISSING = "a majority of the servers has lost its data"
    ENSEMBLE_EMPTY = "no server has any data, but the brokers have"


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
    they cost nothing, then those that may be ill, and the leader last, as that costs an election.
    """

    def rank(server: str) -> tuple[int, str]:
        role = states[server].role
        if role is Role.LEADER:
            return (3, server)
        if role in SERVING:
            return (2, server)
        return (int(role is Role.SILENT), server)

    return sorted(states, key=rank)


def gate(states: Mapping[str, ServerState], target: str) -> Refusal | None:
    """Whether the ensemble can spare *target* now: None, or the reason why not.

    :param states: of every server of the ensemble, read just before.
    """
    state = states[target]
    if state.role in (Role.DOWN, Role.NOT_SERVING):
        return None
    if larger := larger_ensemble(states, target):
        return larger
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
    counts = target == leaders[0] or _may_be_counted(states, synced, target, leader)
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


def _may_be_counted(
    states: Mapping[str, ServerState], synced: Set[str], target: str, leader: ServerState
) -> bool:
    """Whether a follower may be among the voters in step that the leader counts.

    It counts them without naming them. So a follower is left out only when the others, by their
    own word, explain the whole count.
    """
    voters, others = leader.synced_followers or 0, leader.non_voting
    followers = {name for name in synced if states[name].role is Role.FOLLOWER}
    if voters + others != len(followers):
        return True
    if target not in followers:
        return False
    # Whoever was started with the members that the leader knows has a vote.
    sure = {name for name in followers - {target} if states[name].as_declared}
    without_vote = others and leader.as_declared and not states[target].as_declared
    return not (without_vote and voters <= len(sure))


def larger_ensemble(
    states: Mapping[str, ServerState], target: str, verb: str = "restarted"
) -> Refusal | None:
    """Refuses to change an ensemble that has servers which are not asked, as they would go on
    without those that are: two ensembles, each with its own truth."""
    leaders = [state for state in states.values() if state.role is Role.LEADER]
    followers = [state for state in states.values() if state.role is Role.FOLLOWER]
    # A leader's list of voters is what counts; one that joins may be ahead of it.
    voters = max((state.quorum_size or 0 for state in leaders or followers), default=0)
    if voters > len(states):
        return Refusal(
            target,
            Reason.MORE_VOTERS,
            f"{voters} servers have a vote, {len(states)} are declared; put the missing ones back "
            "into the inventory, or, to make it smaller, stop the brokers and then ZooKeeper on "
            "all servers, on those that leave with systemctl disable --now zookeeper, and run "
            "again",
            verb,
        )
    unclear = any(state.role in (Role.SILENT, Role.NOT_SERVING) for state in states.values())
    if not leaders and not unclear and any(state.synced for state in followers):
        return Refusal(
            target,
            Reason.LEADER_ELSEWHERE,
            f"{_summary(states)}; put the server that leads back into the inventory, or, to "
            "replace it, stop it for good and give its zookeeper_id to a host with an empty data "
            "folder (if the leader stopped just now, run again)",
            verb,
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


class Start(Enum):
    """What a member needs so that it serves; the value says it to the operator."""

    NOTHING = "ZooKeeper runs"
    START = "start ZooKeeper"
    WAIT = "wait for ZooKeeper: it runs, but does not serve"
    RESTART = "restart ZooKeeper: it does not serve, and its configuration changed"


def to_start(state: ServerState, enabled: bool) -> Start:
    """Before the rolling restarts: one that is silent and outdated may serve, so it is left to
    them and their gate."""
    if state.role is Role.DOWN:
        return Start.START
    if state.role is Role.NOT_SERVING:
        return Start.WAIT if state.as_declared else Start.RESTART
    if state.role is Role.SILENT and state.as_declared:
        return Start.WAIT
    return Start.NOTHING if enabled else Start.START


def start_waves(
    states: Mapping[str, ServerState],
    has_data: Mapping[str, bool],
    brokers_have_data: bool = False,
) -> list[list[str]] | Refusal:
    """Servers to start, in waves: all of a wave together, then wait until they serve.

    A server alone cannot serve, so servers are started together until there is a majority. While
    the ensemble serves, one with an empty folder loads everything from the leader. But a majority
    of empty servers would elect one of themselves and make the others throw their data away.

    :param has_data: whether the server was ever a member of a quorum (``currentEpoch`` above 0) or
        has written transactions (a ``log.*`` file); one that waited in vain for others has not.
    :param brokers_have_data: whether any broker has partitions, which a new ensemble knows nothing
        of.
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
    if not full and brokers_have_data:
        return Refusal(
            ", ".join(stopped),
            Reason.ENSEMBLE_EMPTY,
            "a new ensemble would know none of their topics; restore ZooKeeper's data folders from "
            "a backup or mount their volumes, or, to begin anew, empty the brokers' too",
            "started",
        )
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
