"""Real messages, and what the wire shows of them."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import uuid
from pathlib import Path

from lab.network import inside
from tests.lab.conftest import Cluster, changed


def test_100_000_messages_arrive_in_order(cluster: Cluster) -> None:
    result = cluster.run(*cluster.load("--topic", "bulk", "--messages", "100000"))
    report = json.loads(result.stdout)
    assert result.returncode == 0, report
    assert report["sent"] == report["received"] == 100_000
    assert report["lost"] == report["duplicated"] == report["out_of_order"] == 0


def test_a_second_run_changes_nothing(cluster: Cluster) -> None:
    before = cluster.pids()
    assert changed(cluster.site()) == {}
    assert cluster.pids() == before


def test_client_material_is_private(cluster: Cluster) -> None:
    for folder in (cluster.lab.clients / "admin", cluster.lab.clients / "demo"):
        assert folder.stat().st_mode & 0o777 == 0o700
        for file in folder.iterdir():
            assert file.stat().st_mode & 0o777 == 0o600, file


def test_the_wire_shows_no_message(cluster: Cluster, tmp_path: Path) -> None:
    """Every packet on every link of the lab, while a canary is produced, replicated and consumed,
    and while ZooKeeper serves another. A datagram sent in clear is the capture's own control."""
    canary, node, control = (f"CANARY-{uuid.uuid4().hex}" for _ in range(3))
    topic = f"wire-{uuid.uuid4().hex[:8]}"
    capture = tmp_path / "all.pcap"
    words = [*inside(cluster.lab), "tcpdump", "-i", "any", "-U", "-s", "0", "-w", str(capture)]
    tcpdump = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        assert tcpdump.stderr is not None
        while "listening on" not in tcpdump.stderr.readline():
            assert tcpdump.poll() is None, "tcpdump did not start"
        cluster.kafka("topics", "--create", "--if-not-exists", "--topic", topic, "--partitions",
                      "1", "--replication-factor", "3")  # fmt: skip
        cluster.ssh("kafka1", f"echo {canary} | kafka-cli console-producer --topic {topic}")
        seen = cluster.kafka("console-consumer", "--topic", topic, "--from-beginning",
                             "--max-messages", "1", "--timeout-ms", "30000",
                             host="kafka2")  # fmt: skip
        assert canary in seen
        created = cluster.ssh(
            "kafka3",
            f"echo 'create /{node} {node}' | kafka-cli zookeeper-shell 2>&1; "
            f"echo 'get /{node}' | kafka-cli zookeeper-shell 2>&1; "
            f"echo 'delete /{node}' | kafka-cli zookeeper-shell 2>&1",
        )
        assert node in created
        sender = (
            "import socket,sys; socket.socket(2,2).sendto(sys.argv[1].encode(),(sys.argv[2],9))"
        )
        cluster.within("python3", "-c", sender, control, cluster.address("kafka1"))
        deadline = time.monotonic() + 20
        while control.encode() not in capture.read_bytes():
            assert time.monotonic() < deadline, "the capture does not show what is sent in clear"
            time.sleep(0.05)
    finally:
        tcpdump.send_signal(signal.SIGINT)
        tcpdump.wait(20)
    packets = capture.read_bytes()
    assert control.encode() in packets
    assert canary.encode() not in packets
    assert node.encode() not in packets
    for port in (2182, 9093, 9094):
        listed = subprocess.run(
            ["tcpdump", "-nn", "-r", str(capture), "tcp", "port", str(port)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        if port != 9094:  # kafka-cli uses INTERNAL
            assert listed.stdout, f"nothing was captured on port {port}"
