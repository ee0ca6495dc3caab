"""Restarts one by one under load, and what the gates refuse."""

from __future__ import annotations

import json
from pathlib import Path

from tests.lab.conftest import Cluster, changed, nothing_lost, write_group_data

# Both restart every server: a JVM's heap is part of its unit.
SETTINGS = ["--data", "zookeeper_heap=130m", "--data", "kafka_heap=390m"]


def restarted(results: dict[str, list[str]]) -> list[str]:
    """Hosts whose service was restarted, in the order in which it was done."""
    return [hosts[0] for name, hosts in results.items() if "restart" in name]


def active_controller(cluster: Cluster) -> str:
    answer = cluster.ssh("kafka1", "echo 'get /controller' | kafka-cli zookeeper-shell 2>&1")
    line = next(line for line in answer.splitlines() if '"brokerid"' in line)
    return f"kafka{json.loads(line[line.index('{') :])['brokerid']}"


def leader(cluster: Cluster) -> str:
    return next(
        host for host in cluster.zookeepers if ":2888 " in cluster.ssh(host, "ss -Hltn") + " "
    )


def test_all_six_restart_under_load_and_no_message_is_lost(
    cluster: Cluster, tmp_path: Path
) -> None:
    controller, leads = active_controller(cluster), leader(cluster)
    with cluster.under_load("rolling", tmp_path / "done", 1200) as report:
        before = cluster.pids()
        order = restarted(changed(cluster.site(*SETTINGS)))
        after = cluster.pids()
    assert sorted(order) == sorted(cluster.hosts)
    assert [host for host in order if host in cluster.zookeepers][-1] == leads
    assert [host for host in order if host in cluster.brokers][-1] == controller
    assert all(before[host] != after[host] for host in cluster.hosts)
    assert report["messages_per_second"] >= 1000, report
    nothing_lost(report)


def test_a_partition_that_cannot_spare_the_broker_forbids_its_restart(
    cluster: Cluster,
) -> None:
    cluster.kafka("topics", "--create", "--if-not-exists", "--topic", "single", "--partitions", "3",
                  "--replication-factor", "1")  # fmt: skip
    settings = ["--data", "kafka_heap=410m", "--data", "zookeeper_heap=140m"]
    try:
        before = cluster.pids()
        for how in ("-y", "--dry"):
            refused = cluster.pyinfra(how, *settings)
            output = refused.stdout + refused.stderr
            assert refused.returncode == 1, output[-3000:]
            assert "Traceback" not in output
            assert "single-" in output
            assert "has too few replicas ever to spare one" in output
            assert "kafka_allow_unsafe_restart" in output
        assert cluster.pids() == before, "something was restarted before the refusal"
    finally:
        cluster.kafka("topics", "--delete", "--topic", "single")


def test_a_broker_that_does_not_come_back_stops_the_roll(cluster: Cluster, tmp_path: Path) -> None:
    """The first broker is broken by its new setting; the others are not touched, and the cluster
    serves; the right setting repairs it."""
    extra = write_group_data(
        tmp_path / "group_data",
        "brokers",
        "kafka_config = {'log.retention.check.interval.ms': 'never'}\nkafka_start_timeout_s = 60\n",
    )
    assert cluster.pyinfra("-y").returncode == 0
    before = cluster.pids()
    failed = cluster.pyinfra("-y", "--group-data", str(extra))
    output = failed.stdout + failed.stderr
    assert failed.returncode == 1
    assert "did not come back" in output
    after = cluster.pids()
    assert len([host for host in cluster.hosts if before[host] != after[host]]) == 1
    report = json.loads(cluster.run(*cluster.load("--topic", "bulk", "--messages", "1000")).stdout)
    assert report["acknowledged"] == report["received"] == 1000
    assert cluster.pyinfra("-y").returncode == 0
    assert cluster.drift().returncode == 0
