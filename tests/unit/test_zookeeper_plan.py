from hypothesis import given
from hypothesis import strategies as st

from roles.zookeeper.plan import (
    DOWN,
    Reason,
    Refusal,
    Role,
    ServerState,
    gate,
    majority,
    parse,
    rolling_order,
    start_waves,
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


def test_a_leader_says_how_many_follow() -> None:
    assert parse(LEADER_ANSWER) == ServerState(
        Role.LEADER, synced=True, zxid=0x200000087, synced_followers=2, quorum_size=3
    )


def test_followers_without_a_vote_do_not_count() -> None:
    growing = LEADER_ANSWER.replace("followers\t2", "followers\t4")
    growing += "zk_synced_non_voting_followers\t2\n"
    assert parse(growing).synced_followers == 2


def test_a_follower_is_synced_once_it_broadcasts() -> None:
    assert parse(FOLLOWER_ANSWER) == ServerState(Role.FOLLOWER, synced=True, quorum_size=3)
    assert not parse(FOLLOWER_ANSWER.replace("broadcast", "synchronization")).synced
    assert not parse("Mode: follower\n").synced  # mntr was not answered


def test_no_answer_is_down_and_an_odd_one_does_not_serve() -> None:
    assert parse("") == parse(" \n") == DOWN
    refused = "This ZooKeeper instance is not currently serving requests\n"
    assert parse(refused).role is Role.NOT_SERVING
    assert parse("Mode: read-only\n").role is Role.NOT_SERVING


def test_standalone() -> None:
    assert parse("Zxid: 0x5\nMode: standalone\n").role is Role.STANDALONE


def test_rolling_order() -> None:
    states = {"a": LEADER, "b": FOLLOWER, "c": DOWN, "d": FOLLOWER, "e": LOOKING}
    assert rolling_order(states) == ["c", "e", "b", "d", "a"]


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


STATES = st.builds(
    ServerState,
    role=st.sampled_from(Role),
    synced=st.booleans(),
    synced_followers=st.none() | st.integers(0, 8),
    quorum_size=st.none() | st.integers(1, 7),
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
    serving = (Role.LEADER, Role.FOLLOWER, Role.STANDALONE)
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
    lost = states[target].synced or states[target].role is Role.LEADER
    assert counted - lost >= majority(leader.quorum_size or len(states))


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
