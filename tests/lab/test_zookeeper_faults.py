"""What the ensemble would not survive is refused; what runs is not taken for what serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.conftest import INVENTORY, PROJECT, SITE, Cluster, said

PID = "$(systemctl show -p MainPID --value zookeeper)"
FILES = "cat /etc/strongbox/zookeeper/zoo.cfg /srv/strongbox/zookeeper/data/myid"


def states(cluster: Cluster) -> dict[str, str]:
    files = {host: cluster.ssh(host, FILES) for host in cluster.zookeepers}
    return {**cluster.pids(), **{f"files of {host}": text for host, text in files.items()}}


@pytest.mark.parametrize("port", ["client_port", "quorum_port", "election_port"])
def test_a_port_is_not_changed_while_the_ensemble_runs(cluster: Cluster, port: str) -> None:
    before = states(cluster)
    for how in ("--dry", "-y"):
        output = said(cluster.pyinfra(how, "--data", f"zookeeper_{port}=7000"))
        assert f"zk1, zk2, zk3: zookeeper_{port} is 7000, but zoo.cfg has" in output
        assert "Nothing was changed." in output
    assert states(cluster) == before


def test_an_id_is_not_changed_while_its_host_has_data(cluster: Cluster, tmp_path: Path) -> None:
    before = states(cluster)
    text = (PROJECT / INVENTORY).read_text()
    changed = text.replace(
        "identifier: item.number", "identifier: 4 if item.name == 'zk1' else item.number"
    )
    assert changed != text
    # Named as the lab's own, so that it gets the same group_data.
    inventory = tmp_path / Path(INVENTORY).name
    inventory.write_text(changed)
    for how in ("--dry", "-y"):
        output = said(cluster.python("-m", "pyinfra", str(inventory), SITE, how))
        assert "zk1: zookeeper_id is 4, but the host has the data of server 1" in output
    assert states(cluster) == before


def test_an_id_that_was_changed_by_hand_is_given_back(cluster: Cluster) -> None:
    """The others do not count the server's vote then, so its restart costs them none."""
    others = ["zk1", "zk2"]
    before = {host: cluster.pids()[host] for host in others}
    cluster.ssh(
        "zk3",
        "echo 4 >/srv/strongbox/zookeeper/data/myid; "
        "sed -i s/^server.3=/server.4=/ /etc/strongbox/zookeeper/zoo.cfg; "
        "systemctl restart zookeeper",
    )
    result = cluster.pyinfra("-y")
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    assert cluster.ssh("zk3", "cat /srv/strongbox/zookeeper/data/myid") == "3\n"
    assert {host: cluster.pids()[host] for host in others} == before
    assert cluster.drift().returncode == 0


def test_a_server_that_runs_and_is_silent_is_waited_for(cluster: Cluster) -> None:
    cluster.ssh("zk2", f"kill -STOP {PID}")
    try:
        drift = cluster.drift()
        assert drift.returncode == 2, drift.stderr[-3000:]
        assert "zk2" in drift.stdout
        output = said(cluster.pyinfra("-y", "--data", "zookeeper_start_timeout_s=10"))
        assert "wait for ZooKeeper: it runs, but does not serve" in output
        assert "zk2: zookeeper did not come back within 10 s" in output
    finally:
        cluster.ssh("zk2", f"kill -CONT {PID}")
    assert cluster.pyinfra("-y").returncode == 0
    assert cluster.drift().returncode == 0
