"""What differs is found, told and repaired; looking changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab.conftest import Cluster, changed

TLS = "/srv/strongbox/kafka/tls"
# Every file that the toolkit or an operator might own, by content, owner, mode and times. The
# services' own data and logs change by themselves, and so do the journal and sshd's records.
_SNAPSHOT = (
    "find /etc /opt/strongbox /usr/local/bin /srv/strongbox /home /root /tmp "
    "! -path '*/data/*' ! -path '*/logs/*' ! -path '*/kafka/tmp/*' ! -path '*/zookeeper/tmp/*' "
    "-printf '%p %T@ %C@ %m %u:%g %y\\n' | grep -v -e '/kafka/data ' -e '/zookeeper/data ' "
    "-e '/kafka/tmp ' -e '/zookeeper/tmp ' -e '/kafka/logs ' -e '/zookeeper/logs ' | sort; "
    "find /etc /opt/strongbox /usr/local/bin /srv/strongbox/*/tls -type f -exec sha256sum {} + "
    "| sort; ls /run/strongbox*"
)


def snapshot(cluster: Cluster) -> dict[str, str]:
    return {host: cluster.ssh(host, _SNAPSHOT) for host in cluster.hosts}


@pytest.fixture
def repaired(cluster: Cluster) -> Iterator[None]:
    """Whatever a test altered is as declared again afterwards."""
    yield
    result = cluster.pyinfra("-y")
    assert result.returncode == 0, result.stderr[-3000:]


def test_a_clean_cluster_is_in_step_and_untouched(cluster: Cluster) -> None:
    before, pids = snapshot(cluster), cluster.pids()
    result = cluster.drift()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "in step" in result.stdout
    assert snapshot(cluster) == before
    assert cluster.pids() == pids


ALTERATIONS = {
    "content": ("kafka2", "echo '# by hand' >>/etc/strongbox/kafka/server.properties"),
    "mode": ("zk2", "chmod 644 /etc/strongbox/zookeeper/zoo.cfg"),
    "owner": ("kafka3", "chown root:root /srv/strongbox/kafka/tls/internal.pem"),
    "key mode": ("kafka3", "chmod 644 /srv/strongbox/kafka/tls/client.pem"),
    "folder": ("zk3", "chmod 755 /srv/strongbox/zookeeper/tls"),
    "certificate": ("kafka1", f"cp -p {TLS}/internal.pem {TLS}/client.pem"),
    "truststore": ("zk1", "cat /srv/strongbox/zookeeper/tls/server.pem "
                          "| sed -n '/BEGIN CERT/,/END CERT/p' "
                          ">>/srv/strongbox/zookeeper/tls/server-trust.pem"),
    "key": ("kafka2", f"openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 >/tmp/k; "
                      f"sed -n '/BEGIN CERT/,$p' {TLS}/zookeeper.pem >>/tmp/k; "
                      f"cat /tmp/k >{TLS}/zookeeper.pem; rm /tmp/k"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ALTERATIONS)
@pytest.mark.usefixtures("repaired")
def test_what_was_altered_by_hand_is_drift(cluster: Cluster, kind: str) -> None:
    host, command = ALTERATIONS[kind]
    cluster.ssh(host, command)
    result = cluster.drift()
    assert result.returncode == 2, result.stdout + result.stderr
    assert host in result.stdout


def test_the_dry_run_tells_what_the_real_run_does(cluster: Cluster) -> None:
    """Files of each kind on several hosts altered, and two settings that restart services."""
    settings = ["--data", "zookeeper_snap_retain_count=4", "--data", "kafka_heap=400m"]
    cluster.ssh("kafka1", "chmod 600 /etc/strongbox/kafka/server.properties")
    cluster.ssh("zk1", "rm -f /srv/strongbox/zookeeper/tls/server.pem")
    before, pids = snapshot(cluster), cluster.pids()
    dry = cluster.pyinfra("--dry", "--json", *settings)
    assert dry.returncode == 0, dry.stderr[-3000:]
    assert snapshot(cluster) == before
    assert cluster.pids() == pids
    told = {
        item["name"]: sorted(item["hosts_with_change"])
        for item in json.loads(dry.stdout)["plan"]
        if item["hosts_with_change"]
    }
    done = changed(cluster.site(*settings))
    assert told == done
    assert "Kafka: restart kafka2 if outdated" in done
    assert "ZooKeeper: restart zk3 if outdated" in done
    assert done["TLS: keys, certificates and truststores"] == ["zk1"]
    # And back to the declared settings.
    assert "Kafka: restart kafka1 if outdated" in changed(cluster.site())
    assert cluster.drift().returncode == 0


def test_the_diff_shows_configuration_and_certificates_but_no_secret(cluster: Cluster) -> None:
    canary = "CANARY-password-typed-into-a-file-by-hand"
    cluster.ssh(
        "kafka1", f"echo 'ssl.key.password={canary}' >>/etc/strongbox/kafka/server.properties"
    )
    cluster.ssh("zk1", "rm -f /srv/strongbox/zookeeper/tls/server.pem")
    result = cluster.pyinfra("--dry", "--diff", "-vvv")
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-3000:]
    assert "-ssl.key.password=********" in output
    assert canary not in output
    assert "+subject CN=zk1.lab.test,OU=zookeepers,O=lab" in output
    assert "names DNS:zk1.lab.test IP:10.77.0.11" in output
    assert cluster.pyinfra("-y").returncode == 0


def test_a_host_that_is_down_is_could_not_tell(cluster: Cluster) -> None:
    assert cluster.python("-m", "lab", "stop", "kafka3").returncode == 0
    try:
        result = cluster.drift()
        assert result.returncode == 1, result.stdout
        assert "could not tell" in result.stderr
        assert "kafka3" in result.stderr
    finally:
        assert cluster.python("-m", "lab", "start", "kafka3").returncode == 0
        assert cluster.pyinfra("-y").returncode == 0
