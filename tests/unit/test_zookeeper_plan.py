from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.zookeeper.plan import (
    DOWN,
    SERVING,
    Reason,
    Refusal,
    Role,
    ServerState,
    Start,
    gate,
    larger_ensemble,
    majority,
    parse,
    rolling_order,
    start_waves,
    to_start,
)

LEADER_ANSWER = """\
Zookeeper version: 3.8.6-6df26081269769c160c8c3a24929c60c91cd19c3, built on 2026-01-28 20:28 UTC
Zxid: 0x200000087
Mode: leader
zk_server_state\tleader
zk_peer_state\tleading - broadcast
zk_synced_followers\t2
zk_pending_syncs\t0
zk_quorum_size\t3
"""
FOLLOWER_ANSWER = """\
Zxid: 0x0
Mode: follower
zk_server_state\tfollower
zk_peer_state\tfollowing - broadcast
zk_quorum_size\t3
"""

LEADER = ServerState(Role.LEADER, synced=True, synced_followers=2, quorum_size=3)
FOLLOWER = ServerState(Role.FOLLOWER, synced=True)
LAGGING = ServerState(Role.FOLLOWER, synced=False)
LOOKING = ServerState(Role.NOT_SERVING)
SILENT = ServerState(Role.SILENT)


def test_a_leader_says_how_many_follow() -> None:
    assert parse(LEADER_ANSWER) == ServerState(
        Role.LEADER, synced=True, zxid=0x200000087, synced_followers=2, quorum_size=3
    )


def test_followers_without_a_vote_do_not_count() -> None:
    growing = LEADER_ANSWER.replace("followers\t2", "followers\t4")
    growing += "zk_synced_non_voting_followers\t2\n"
    assert (parse(growing).synced_followers, parse(growing).non_voting) == (2, 2)


def test_a_follower_is_synced_once_it_broadcasts() -> None:
    assert parse(FOLLOWER_ANSWER) == ServerState(Role.FOLLOWER, synced=True, quorum_size=3)
    assert not parse(FOLLOWER_ANSWER.replace("broadcast", "synchronization")).synced
    assert not parse("Mode: follower\n").synced  # mntr was not answered


def test_no_answer_is_not_down_and_an_odd_one_does_not_serve() -> None:
    assert parse("") == parse(" \n") == SILENT
    refused = "This ZooKeeper instance is not currently serving requests\n"
    assert parse(refused).role is Role.NOT_SERVING
    assert parse("Mode: read-only\n").role is Role.NOT_SERVING


def test_standalone() -> None:
    assert parse("Zxid: 0x5\nMode: standalone\n").role is Role.STANDALONE


def test_rolling_order() -> None:
    states = {"a": LEADER, "b": FOLLOWER, "c": DOWN, "d": FOLLOWER, "e": LOOKING, "aa": SILENT}
    assert rolling_order(states) == ["c", "e", "aa", "b", "d", "a"]


def test_a_whole_ensemble_can_spare_any_one() -> None:
    states = {"zk1": FOLLOWER, "zk2": LEADER, "zk3": FOLLOWER}
    assert [gate(states, name) for name in states] == [None] * 3


def reason(states: dict[str, ServerState], target: str) -> Reason | None:
    refusal = gate(states, target)
    return refusal.reason if refusal else None


def test_one_down_of_three_means_that_no_other_can_be_spared() -> None:
    states = {"zk1": FOLLOWER, "zk2": ServerState(Role.LEADER, True, 0, 1, 3), "zk3": DOWN}
    assert reason(states, "zk1") is Reason.TOO_FEW_SYNCED
    assert reason(states, "zk2") is Reason.TOO_FEW_SYNCED
    assert reason(states, "zk3") is None
    assert str(gate(states, "zk1")) == (
        "zk1: not restarted, as without it, too few synced servers would be left for a majority: "
        "1 would be left, 2 of 3 are needed; zk1 is follower, zk2 is leader, zk3 is down"
    )


def test_a_lagging_follower_does_not_count() -> None:
    states = {"zk1": FOLLOWER, "zk2": ServerState(Role.LEADER, True, 0, 1, 3), "zk3": LAGGING}
    assert reason(states, "zk1") is Reason.TOO_FEW_SYNCED
    assert reason(states, "zk3") is None
    assert "zk3 is follower but not synced" in str(gate(states, "zk2"))


def test_the_leaders_count_is_believed_over_the_followers() -> None:
    states = {"zk1": FOLLOWER, "zk2": ServerState(Role.LEADER, True, 0, 1, 3), "zk3": FOLLOWER}
    assert reason(states, "zk1") is Reason.TOO_FEW_SYNCED
    silent = {**states, "zk2": ServerState(Role.LEADER, True)}
    assert reason(silent, "zk1") is Reason.TOO_FEW_SYNCED


def test_the_followers_word_is_believed_over_the_leaders() -> None:
    states = {"zk1": FOLLOWER, "zk2": LEADER, "zk3": LAGGING}
    assert reason(states, "zk1") is Reason.TOO_FEW_SYNCED
    assert reason(states, "zk3") is None


def test_without_one_leader_nothing_that_serves_is_touched() -> None:
    assert reason({"a": FOLLOWER, "b": FOLLOWER, "c": LOOKING}, "a") is Reason.NO_LEADER
    assert reason({"a": LEADER, "b": LEADER, "c": FOLLOWER}, "c") is Reason.TWO_LEADERS


def test_an_ensemble_grows_while_the_leader_knows_the_smaller_one() -> None:
    """New members follow without a vote until all have been restarted with the new list."""
    states = {f"zk{n}": FOLLOWER for n in (1, 3, 4, 5)} | {"zk2": LEADER}
    assert [gate(states, name) for name in rolling_order(states)] == [None] * 5
    late = {**states, "zk1": DOWN, "zk2": ServerState(Role.LEADER, True, 0, 1, 3)}
    assert reason(late, "zk3") is Reason.TOO_FEW_SYNCED


def test_a_server_that_runs_alone_is_not_outvoted_by_empty_ones() -> None:
    alone = ServerState(Role.STANDALONE, True)
    states = {"zk1": alone, "zk2": DOWN, "zk3": DOWN}
    assert reason(states, "zk1") is Reason.RUNS_ALONE
    refusal = start_waves(states, {})
    assert isinstance(refusal, Refusal)
    assert str(refusal).startswith("zk2, zk3: not started, as a server of the ensemble runs alone")
    assert start_waves({"zk1": alone}, {}) == []


def test_an_ensemble_of_one_may_restart() -> None:
    assert gate({"zk1": ServerState(Role.STANDALONE, True)}, "zk1") is None
    assert gate({"zk1": ServerState(Role.LEADER, True, quorum_size=1)}, "zk1") is None


def test_a_silent_server_that_runs_may_be_one_that_the_quorum_needs() -> None:
    states = {"zk1": FOLLOWER, "zk2": SILENT, "zk3": DOWN}
    assert reason(states, "zk2") is Reason.NO_LEADER
    assert "zk2 is running but silent, zk3 is down" in str(gate(states, "zk2"))
    five = {
        "zk1": FOLLOWER,
        "zk2": ServerState(Role.LEADER, True, 0, 2, 5),
        "zk3": SILENT,
        "zk4": DOWN,
        "zk5": DOWN,
    }
    assert reason(five, "zk3") is Reason.TOO_FEW_SYNCED
    assert reason(five, "zk1") is Reason.TOO_FEW_SYNCED


def test_a_silent_server_is_restarted_when_the_others_are_a_majority_without_it() -> None:
    for counted in (1, 2):
        leader = ServerState(Role.LEADER, True, 0, counted, 3)
        assert reason({"zk1": FOLLOWER, "zk2": leader, "zk3": SILENT}, "zk3") is None
    assert reason({"zk1": FOLLOWER, "zk2": leader, "zk3": SILENT}, "zk1") is Reason.TOO_FEW_SYNCED


def test_a_silent_server_may_be_a_voter_while_those_that_answer_have_no_vote_yet() -> None:
    """Three voters and two newcomers: zk1 is down, so zk2 and the silent zk3 are the quorum."""
    leader = ServerState(Role.LEADER, True, 0, 1, 3, non_voting=2)
    states = {"zk1": DOWN, "zk2": leader, "zk3": SILENT, "zk4": FOLLOWER, "zk5": FOLLOWER}
    assert reason(states, "zk3") is Reason.TOO_FEW_SYNCED


def known_by(leader: ServerState) -> dict[str, ServerState]:
    """zk1 was restarted under an id that the others, which run as declared, do not know."""
    return {"zk1": FOLLOWER, "zk2": leader, "zk3": replace(FOLLOWER, as_declared=True)}


def test_a_follower_that_the_leader_does_not_count_can_be_spared() -> None:
    leader = ServerState(Role.LEADER, True, 0, 1, 3, non_voting=1, as_declared=True)
    states = known_by(leader)
    assert reason(states, "zk1") is None
    assert reason(states, "zk3") is Reason.TOO_FEW_SYNCED


def test_a_follower_that_the_leader_may_count_is_kept() -> None:
    counts = ServerState(Role.LEADER, True, 0, 1, 3, non_voting=1, as_declared=True)
    for leader in (
        replace(counts, as_declared=False),  # it may know other members than the declared ones
        replace(counts, non_voting=0),
        replace(counts, non_voting=2),  # someone follows that was not asked
    ):
        assert reason(known_by(leader), "zk1") is Reason.TOO_FEW_SYNCED
    unsure = {**known_by(counts), "zk3": FOLLOWER}
    assert reason(unsure, "zk1") is Reason.TOO_FEW_SYNCED


def test_one_declared_server_of_three_is_not_restarted_alone() -> None:
    """It would serve on its own while the other two go on as a quorum."""
    for state in (
        ServerState(Role.LEADER, True, 0, 2, 3),
        ServerState(Role.FOLLOWER, True, quorum_size=3),
    ):
        assert reason({"zk1": state}, "zk1") is Reason.MORE_VOTERS
    assert reason({"zk1": FOLLOWER}, "zk1") is Reason.LEADER_ELSEWHERE


def test_an_ensemble_with_more_voters_than_declared_says_how_it_is_made_smaller() -> None:
    five = ServerState(Role.LEADER, True, 0, 4, 5)
    states = {"zk1": FOLLOWER, "zk2": five, "zk3": FOLLOWER}
    assert [reason(states, name) for name in states] == [Reason.MORE_VOTERS] * 3
    refusal = larger_ensemble(states, "zk1, zk2, zk3", "changed")
    assert str(refusal) == (
        "zk1, zk2, zk3: not changed, as the ensemble has more servers than the inventory: "
        "5 servers have a vote, 3 are declared; put the missing ones back into the inventory, or, "
        "to make it smaller, stop the brokers and then ZooKeeper on all servers, on those that "
        "leave with systemctl disable --now zookeeper, and run again"
    )
    # A newcomer's own word does not count while the leader knows the declared number.
    ahead = ServerState(Role.FOLLOWER, True, quorum_size=5)
    assert larger_ensemble({"zk1": ahead, "zk2": LEADER, "zk3": FOLLOWER}, "zk1") is None


def test_a_leader_that_is_not_in_the_inventory_is_told() -> None:
    states = {"zk1": FOLLOWER, "zk2": FOLLOWER, "zk4": DOWN}
    assert reason(states, "zk1") is Reason.LEADER_ELSEWHERE
    assert "give its zookeeper_id to a host with an empty data folder" in str(gate(states, "zk1"))
    # As long as one has not said, it may be the leader.
    for other in (SILENT, LOOKING):
        assert reason({**states, "zk4": other}, "zk1") is Reason.NO_LEADER
    assert larger_ensemble(dict.fromkeys("abc", DOWN), "a") is None
    assert larger_ensemble({"a": LAGGING, "b": LAGGING, "c": DOWN}, "a") is None


@pytest.mark.parametrize(
    ("state", "as_declared", "step"),
    [
        (DOWN, False, Start.START),
        (SILENT, True, Start.WAIT),
        (LOOKING, True, Start.WAIT),
        (LOOKING, False, Start.RESTART),
        (SILENT, False, Start.NOTHING),  # it may serve: the gate decides on its restart
        (LEADER, True, Start.NOTHING),
        (FOLLOWER, False, Start.NOTHING),
        (ServerState(Role.STANDALONE), True, Start.NOTHING),
    ],
)
def test_what_runs_is_not_taken_for_what_serves(
    state: ServerState, as_declared: bool, step: Start
) -> None:
    assert to_start(replace(state, as_declared=as_declared), enabled=True) is step


def test_a_server_that_would_not_start_at_boot_is_enabled() -> None:
    assert to_start(FOLLOWER, enabled=False) is Start.START


STATES = st.builds(
    ServerState,
    role=st.sampled_from(Role),
    synced=st.booleans(),
    synced_followers=st.none() | st.integers(0, 8),
    quorum_size=st.none() | st.integers(1, 7),
    non_voting=st.integers(0, 2),
    as_declared=st.booleans(),
)
ENSEMBLES = (
    st.integers(1, 3)
    .flatmap(lambda half: st.lists(STATES, min_size=2 * half + 1, max_size=2 * half + 1))
    .map(lambda states: {f"zk{n}": state for n, state in enumerate(states, 1)})
)


@given(ENSEMBLES)
def test_order_is_a_permutation_with_the_leader_last(states: dict[str, ServerState]) -> None:
    order = rolling_order(states)
    assert sorted(order) == sorted(states)
    serving = SERVING
    assert [states[name].role in serving for name in order] == sorted(
        state.role in serving for state in states.values()
    )
    if any(state.role is Role.LEADER for state in states.values()):
        assert states[order[-1]].role is Role.LEADER


@given(ENSEMBLES, st.data())
def test_the_gate_keeps_a_synced_majority(
    states: dict[str, ServerState], data: st.DataObject
) -> None:
    target = data.draw(st.sampled_from(sorted(states)))
    if gate(states, target) is not None or states[target].role in (Role.DOWN, Role.NOT_SERVING):
        return
    left = [name for name, state in states.items() if state.synced and name != target]
    voters = [name for name in left if states[name].role in (Role.LEADER, Role.FOLLOWER)]
    assert len(voters) >= majority(len(states))
    (leader,) = (state for state in states.values() if state.role is Role.LEADER)
    counted = 1 + (leader.synced_followers or 0)
    lost = states[target].role is Role.LEADER or (states[target].synced and not leader.non_voting)
    assert counted - lost >= majority(leader.quorum_size or len(states))
    assert (leader.quorum_size or 0) <= len(states)


@given(ENSEMBLES, st.data())
def test_a_silent_server_is_never_spared_where_a_serving_one_would_not_be(
    states: dict[str, ServerState], data: st.DataObject
) -> None:
    """Whatever the silent one really is, the synced ones that are left must be a majority."""
    target = data.draw(st.sampled_from(sorted(states)))
    states = {**states, target: SILENT}
    if gate(states, target) is None and len(states) > 1:
        voters = [n for n, s in states.items() if s.synced and s.role in SERVING]
        assert len(voters) >= majority(len(states))
        assert target not in voters


@given(st.integers(0, 2**10), st.sampled_from([1, 3, 5, 7, 9]))
def test_rolling_a_healthy_ensemble_is_never_refused(seed: int, size: int) -> None:
    names = [f"zk{n}" for n in range(size)]
    leader = names[seed % size]
    states = {
        name: ServerState(Role.LEADER, True, 0, size - 1) if name == leader else FOLLOWER
        for name in names
    }
    if size == 1:
        states = {leader: ServerState(Role.STANDALONE, True)}
    assert [gate(states, name) for name in rolling_order(states)] == [None] * size


def test_a_new_ensemble_starts_together() -> None:
    states = dict.fromkeys(("a", "b", "c"), DOWN)
    assert start_waves(states, {}) == [["a", "b", "c"]]


def test_nothing_to_start() -> None:
    assert start_waves({"a": LEADER, "b": FOLLOWER, "c": FOLLOWER}, {}) == []


def test_an_empty_ensemble_is_not_started_under_brokers_that_have_data() -> None:
    states = dict.fromkeys(("a", "b", "c"), DOWN)
    refusal = start_waves(states, {}, brokers_have_data=True)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.may_pass) == (Reason.ENSEMBLE_EMPTY, False)
    assert str(refusal) == (
        "a, b, c: not started, as no server has any data, but the brokers have: a new ensemble "
        "would know none of their topics; restore ZooKeeper's data folders from a backup or mount "
        "their volumes, or, to begin anew, empty the brokers' too"
    )
    kept = {"a": True, "b": True}
    assert start_waves(states, kept, brokers_have_data=True) == [["a", "b"], ["c"]]
    serving = {"a": DOWN, "b": LEADER, "c": FOLLOWER}
    assert start_waves(serving, {}, brokers_have_data=True) == [["a"]]
    assert start_waves({"a": LEADER}, {}, brokers_have_data=True) == []


def test_servers_with_data_start_before_an_empty_one() -> None:
    states = dict.fromkeys(("a", "b", "c"), DOWN)
    assert start_waves(states, {"a": False, "b": True, "c": True}) == [["b", "c"], ["a"]]


def test_an_empty_server_joins_a_serving_ensemble() -> None:
    states = {"a": DOWN, "b": LEADER, "c": FOLLOWER}
    assert start_waves(states, {"b": True, "c": True}) == [["a"]]


def test_a_majority_of_empty_servers_is_not_started() -> None:
    """They would elect one of themselves, and the third would throw its data away."""
    states = dict.fromkeys(("a", "b", "c"), DOWN)
    refusal = start_waves(states, {"c": True})
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.may_pass) == (Reason.DATA_MISSING, False)
    assert str(refusal).startswith("a, b: not started, as a majority of the servers has lost")
    assert "only c still has any" in str(refusal)


@given(ENSEMBLES, st.data())
def test_waves_start_each_stopped_server_once(
    states: dict[str, ServerState], data: st.DataObject
) -> None:
    has_data = {name: data.draw(st.booleans()) for name in states}
    waves = start_waves(states, has_data)
    if isinstance(waves, Refusal):
        if waves.reason is Reason.RUNS_ALONE:
            assert any(state.role is Role.STANDALONE for state in states.values())
            return
        assert 0 < sum(has_data.values()) < majority(len(states))
        return
    started = [name for wave in waves for name in wave]
    assert sorted(started) == sorted(n for n, state in states.items() if state.role is Role.DOWN)
    assert all(waves)
