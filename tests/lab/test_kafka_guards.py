"""Brokers that run but do not serve, and brokers that lost their data."""

from __future__ import annotations

import re

from tests.lab.conftest import Cluster, changed, said

DATA = "/srv/strongbox/kafka/data"


def test_kafka_cli_has_no_capability_and_can_get_none(cluster: Cluster) -> None:
    script = (
        "kafka-cli console-consumer --topic __consumer_offsets --timeout-ms 20000 >/dev/null 2>&1 "
        "& until pid=$(pgrep -u kafka -f consumer.ConsoleConsumer); do kill -0 $! || exit; done; "
        "grep -E '^(Uid|Cap|NoNew)' /proc/$pid/status; kill $pid"
    )
    shown = dict(re.findall(r"^(\w+):\t(\w+)", cluster.ssh("kafka1", script), re.MULTILINE))
    assert shown.pop("NoNewPrivs") == "1"
    assert shown.pop("Uid") == cluster.ssh("kafka1", "id -u kafka").strip()
    assert set(shown) == {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
    assert {int(value, 16) for value in shown.values()} == {0}


def test_a_broker_that_runs_but_does_not_answer_is_waited_for(cluster: Cluster) -> None:
    cluster.ssh("kafka3", "systemctl kill -s STOP kafka")
    try:
        found = cluster.drift()
        assert found.returncode == 2, found.stdout + found.stderr
        assert "Kafka: start what is down" in found.stdout
        output = said(cluster.pyinfra("-y", "--data", "kafka_start_timeout_s=10"))
        assert "wait for Kafka, which runs but does not answer" in output
        assert "kafka did not come back within 10 s" in output
    finally:
        cluster.ssh("kafka3", "systemctl kill -s CONT kafka")
    cluster.site()
    assert cluster.drift().returncode == 0


def test_after_a_loss_of_power_an_empty_broker_costs_no_record(cluster: Cluster) -> None:
    """kafka1 led the partition and is in sync in ZooKeeper's eyes, but its volume is not there."""
    cluster.kafka("topics", "--create", "--topic", "kept", "--replica-assignment", "1:2:3")
    cluster.ssh(
        "kafka2",
        "seq 1000 | kafka-cli console-producer --topic kept --producer-property acks=all",
    )
    for broker in cluster.brokers:
        cluster.ssh(broker, "systemctl kill -s STOP kafka")
    for broker in cluster.brokers:
        cluster.ssh(broker, "systemctl kill -s KILL kafka; systemctl stop kafka")
    cluster.ssh("kafka1", f"mv {DATA} {DATA}.lost")
    results = changed(cluster.site())
    assert sorted(results["Kafka: start what is down"]) == ["kafka2", "kafka3"]
    assert results["Kafka: start those without data"] == ["kafka1"]
    assert cluster.kafka("get-offsets", "--topic", "kept").strip() == "kept:0:1000"
    cluster.ssh("kafka1", f"rm -r {DATA}.lost")
    cluster.kafka("topics", "--delete", "--topic", "kept")


def test_an_empty_broker_that_alone_had_a_partition_is_not_started(cluster: Cluster) -> None:
    cluster.kafka("topics", "--create", "--topic", "alone", "--replica-assignment", "1")
    cluster.ssh("kafka1", f"systemctl stop kafka; mv {DATA} {DATA}.away")
    try:
        output = said(cluster.pyinfra("-y"))
        assert "it alone has all records of alone-0" in output
        assert cluster.ssh("kafka1", "systemctl is-active kafka", check=False).strip() != "active"
    finally:
        cluster.ssh("kafka1", f"rm -rf {DATA}; mv {DATA}.away {DATA}")
    cluster.site()
    cluster.kafka("topics", "--delete", "--topic", "alone")


def test_what_cannot_change_is_refused_before_anything_does(cluster: Cluster) -> None:
    before = cluster.ssh("kafka1", "sha256sum /etc/strongbox/kafka/* /usr/local/bin/kafka-cli")
    meta = f"{DATA}/meta.properties"
    for how in ("-y", "--dry"):
        moved = said(cluster.pyinfra(how, "--data", "kafka_internal_port=9193"))
        assert "kafka_internal_port cannot change from 9093 to 9193" in moved
    cluster.ssh("kafka1", f"sed -i.kept s/^broker.id=.*/broker.id=7/ {meta}")
    try:
        for how in ("-y", "--dry"):
            assert "its data folder is that of broker 7" in said(cluster.pyinfra(how))
    finally:
        cluster.ssh("kafka1", f"mv {meta}.kept {meta}")
    after = cluster.ssh("kafka1", "sha256sum /etc/strongbox/kafka/* /usr/local/bin/kafka-cli")
    assert after == before
