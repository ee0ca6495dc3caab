from dataclasses import replace

from roles.zookeeper.facts import Observed, ZookeeperState
from roles.zookeeper.members import Configured, Member, Peer, parse, problems
from roles.zookeeper.plan import DOWN, Role, ServerState

PEERS = {number: Peer(f"zk{number}.test", 2888, 3888) for number in (1, 2, 3)}
LEADER = ServerState(Role.LEADER, synced=True, synced_followers=2, quorum_size=3)
FOLLOWER = ServerState(Role.FOLLOWER, synced=True)
SILENT = ServerState(Role.SILENT)
# Every member's declared configuration is another than the one it runs with.
STATES = {"zk1": FOLLOWER, "zk2": LEADER, "zk3": FOLLOWER}
ALL_DOWN = dict.fromkeys(STATES, DOWN)


def member(number: int, running: bool = True) -> Member:
    on_host = Configured(number, 2182, PEERS)
    return Member(number, 2182, 2888, 3888, on_host, running, has_data=True)


def ensemble(running: bool = True) -> dict[str, Member]:
    return {f"zk{number}": member(number, running) for number in (1, 2, 3)}


def test_what_the_files_say() -> None:
    lines = [
        "myid 3",
        "secureClientPort=2182",
        "server.1=zk1.test:2888:3888",
        "server.12=[fd00::1]:2889:3889:observer;2181",
    ]
    peers = {1: PEERS[1], 12: Peer("[fd00::1]", 2889, 3889)}
    assert parse(lines) == Configured(3, 2182, peers)
    assert parse(["myid ", "secureClientPort=none"]) == Configured()


def test_the_fact_reads_it_with_the_rest() -> None:
    output = [
        "ActiveState=active",
        "UnitFileState=enabled",
        "started-with config abc",
        "has-data",
        "configured myid 3",
        "configured secureClientPort=2182",
        "configured server.1=zk1.test:2888:3888",
        "answer Mode: follower",
        "",
        "--end--",
    ]
    seen = ZookeeperState.process(ZookeeperState.__new__(ZookeeperState), output)
    assert isinstance(seen, Observed)
    assert seen.configured == Configured(3, 2182, {1: PEERS[1]})
    assert (seen.service.running, seen.service.enabled) == (True, True)
    assert (seen.has_data, seen.askable, seen.answer) == (True, True, "Mode: follower")
    bare = ["ActiveState=inactive", "configured myid ", "not-askable", "--end--"]
    fresh = ZookeeperState.process(ZookeeperState.__new__(ZookeeperState), bare)
    assert isinstance(fresh, Observed)
    assert (fresh.configured, fresh.askable, fresh.has_data) == (Configured(), False, False)


def test_settings_that_any_member_may_change() -> None:
    assert problems(ensemble(), STATES) == []
    assert problems(ensemble(running=False), ALL_DOWN) == []


def test_a_port_is_not_changed_while_a_member_runs() -> None:
    for key, field in (
        ("zookeeper_client_port", "client_port"),
        ("zookeeper_quorum_port", "quorum_port"),
        ("zookeeper_election_port", "election_port"),
    ):
        changed = {name: replace(item, **{field: 7000}) for name, item in ensemble().items()}
        found = problems(changed, STATES)
        assert len(found) == 1
        assert found[0].startswith(f"zk1, zk2, zk3: {key} is 7000, but zoo.cfg has ")
        assert "stop the brokers (systemctl stop kafka) and then ZooKeeper on all" in found[0]
        # Asked on the new port nobody answers, which must not count as stopped.
        assert problems(changed, dict.fromkeys(STATES, SILENT)) == found
        stopped = {name: replace(item, running=False) for name, item in changed.items()}
        assert problems(stopped, ALL_DOWN) == []
        one_runs = {**stopped, "zk2": changed["zk2"]}
        assert problems(one_runs, {**ALL_DOWN, "zk2": SILENT}) == found


def test_what_already_runs_as_declared_is_not_held_against_the_run() -> None:
    """A file altered by hand, or left by a run that was given up, is put right."""
    files = {**ensemble(), "zk1": replace(member(1), on_host=Configured(9, 7000, PEERS))}
    states = {**STATES, "zk1": replace(SILENT, as_declared=True)}
    assert problems(files, states) == []
    assert problems(files, {**STATES, "zk2": replace(LEADER, as_declared=True)}) == []
    assert len(problems(files, STATES)) == 2


def test_an_id_is_not_changed_while_the_host_has_data() -> None:
    changed = {**ensemble(), "zk1": replace(member(1), id=4)}
    (found,) = problems(changed, STATES)
    assert found.startswith("zk1: zookeeper_id is 4, but the host has the data of server 1")
    assert "Set it back to 1." in found
    assert "remove version-2 from its data folder" in found
    down = {**changed, "zk1": replace(changed["zk1"], running=False)}
    assert problems(down, {**STATES, "zk1": DOWN}) == [found]
    stopped = {name: replace(item, running=False) for name, item in changed.items()}
    assert problems(stopped, ALL_DOWN) == []


def test_an_id_may_be_given_back_once_it_was_changed() -> None:
    """The others still run with the ids that are declared again."""
    changed = {**ensemble(), "zk1": replace(member(1), on_host=Configured(4, 2182, PEERS))}
    others = {**STATES, "zk2": replace(LEADER, as_declared=True)}
    assert problems(changed, others) == []
    assert len(problems(changed, STATES)) == 1


def test_a_lost_server_is_replaced_under_its_own_id() -> None:
    fresh = replace(member(4), on_host=Configured(), running=False, has_data=False)
    members = {"zk1": member(1), "zk2": member(2), "zk4": fresh}
    states = {"zk1": FOLLOWER, "zk2": LEADER, "zk4": DOWN}
    (found,) = problems(members, states)
    assert found.startswith("zk4: zookeeper_id is 4, but the ensemble counts server 3 (zk3.test)")
    assert "give the new host its zookeeper_id (3) and an empty data folder" in found
    assert problems({**members, "zk4": replace(fresh, id=3)}, states) == []


def test_an_ensemble_is_made_smaller_while_it_is_stopped() -> None:
    (two, three) = problems({"zk1": member(1)}, {"zk1": SILENT})
    assert two.startswith("server 2 (zk2.test) is not in the inventory, but the ensemble that runs")
    assert three.startswith("server 3 (zk3.test)")
    assert "systemctl disable --now zookeeper" in two
    assert problems({"zk1": member(1, running=False)}, {"zk1": DOWN}) == []


def test_an_ensemble_grows_while_it_runs() -> None:
    new = {
        f"zk{number}": replace(member(number), on_host=Configured(), running=False, has_data=False)
        for number in (4, 5)
    }
    assert problems({**ensemble(), **new}, {**STATES, "zk4": DOWN, "zk5": DOWN}) == []
