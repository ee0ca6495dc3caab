"""What every port refuses, tried from another host's network, with what it accepts as control."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.state import PROJECT
from roles.tls import authority, leaf, passphrase
from roles.tls.authority import Keyring
from roles.tls.keys import to_pem
from roles.tls.passphrase import PassphraseSource
from tests.lab.conftest import Cluster

ISSUED_BY = {2182: "zookeeper", 2888: "zookeeper", 3888: "zookeeper", 9093: "cluster",
             9094: "clients"}  # fmt: skip
PROTOCOLS = {2182: "zookeeper", 2888: "quorum", 3888: "quorum", 9093: "kafka", 9094: "kafka"}


@pytest.fixture(scope="module")
def identities(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A PEM file with key and certificate for each kind of peer, from the lab's authorities."""
    folder = tmp_path_factory.mktemp("identities")
    authorities = authority.load(cluster.lab.authority_dir, "lab")
    source = PassphraseSource(file=str(cluster.lab.passphrase))
    keyring = Keyring(lambda: passphrase.read(source))
    now = datetime.datetime.now(datetime.UTC)
    peer = ("peer.lab.test", ["10.77.0.101"])
    specs = {
        "zookeeper": leaf.zookeeper_server("lab", *peer),
        "zookeeper-client": leaf.broker_zookeeper_client("lab"),
        "cluster": leaf.broker_internal("lab", *peer),
        "operator": leaf.operator("lab", "admin"),
        "clients": leaf.client("lab", "demo"),
        # A client that calls itself what the brokers are called must not become one.
        "impostor": leaf.client("lab", "broker"),
    }
    made = {}
    for name, spec in specs.items():
        issuer = authorities.current(spec.authority, now)
        for suffix, when, days in (("", now, 1.0), ("-expired", now, 1 / 86400 / 1000)):
            if suffix:
                # Issued with the authority's real key, a day that ended before now.
                item = leaf.issue(
                    spec, issuer.certificate, keyring.key(issuer),
                    datetime.timedelta(seconds=1), when,
                )  # fmt: skip
            else:
                item = keyring.issue(spec, issuer, datetime.timedelta(days=days), when)
            path = folder / f"{name}{suffix}.pem"
            path.touch(mode=0o600)
            path.write_bytes(to_pem(item.key) + _pem(item.certificate))
            made[f"{name}{suffix}"] = str(path)
    for name in ("cluster", "zookeeper", "clients"):
        ca = folder / f"{name}-ca.pem"
        ca.write_bytes(_pem(authorities.current(leaf.AuthorityName(name), now).certificate))
        made[f"ca-{name}"] = str(ca)
    return made


def _pem(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    data: bytes = certificate.public_bytes(Encoding.PEM)
    return data


def ports(cluster: Cluster) -> list[tuple[str, int]]:
    """Every TLS port that is open now (only the ZooKeeper leader has its quorum port open)."""
    found = []
    for host in cluster.hosts:
        listening = cluster.ssh(host, "ss -Hltn | awk '{print $4}'")
        numbers = {int(line.rpartition(":")[2]) for line in listening.split()}
        found += [(host, number) for number in sorted(numbers - {22})]
    return found


def probe(cluster: Cluster, attempts: list[dict[str, Any]], source: str) -> list[str]:
    """Makes the attempts from a host's own network namespace, so with its address."""
    pid = cluster.python("-m", "lab", "pid", source).stdout.strip()
    script = str(Path(__file__).with_name("probe.py"))
    result = subprocess.run(
        ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, script],
        input=json.dumps(attempts), capture_output=True, text=True, check=True, cwd=PROJECT,
        timeout=120,
    )  # fmt: skip
    return list(json.loads(result.stdout))


def attempt(cluster: Cluster, host: str, port: int, **how: Any) -> dict[str, Any]:
    return {
        "address": cluster.address(host), "port": port, "name": f"{host}.lab.test",
        "protocol": PROTOCOLS[port],
    } | how  # fmt: skip


def test_only_the_expected_ports_listen(cluster: Cluster) -> None:
    for host in cluster.hosts:
        listening = cluster.ssh(host, "ss -Hltun | awk '{print $1, $5}'").splitlines()
        numbers = {int(line.rpartition(":")[2]) for line in listening}
        expected = {22, 9093, 9094} if host in cluster.brokers else {22, 2182, 3888}
        assert numbers - {2888} == expected, f"{host}: {listening}"
        assert not [line for line in listening if line.startswith("udp")], listening
    leaders = [host for host, port in ports(cluster) if port == 2888]
    assert len(leaders) == 1


def test_the_right_certificate_is_accepted(cluster: Cluster, identities: dict[str, str]) -> None:
    """The control of all refusals: the same attempts with the right identity do get through."""
    targets = ports(cluster)
    assert {port for _, port in targets} == set(ISSUED_BY)
    attempts = [
        attempt(
            cluster, host, port,
            certificate=identities[ISSUED_BY[port]],
            ca=identities[f"ca-{ISSUED_BY[port]}"],
        )
        for host, port in targets
    ]  # fmt: skip
    answers = probe(cluster, attempts, "kafka1")
    for (host, port), answer in zip(targets, answers, strict=True):
        assert answer in ("answered", "open"), f"{host}:{port} {answer}"


REFUSALS = ["plaintext", "TLSv1", "TLSv1_1", "no certificate", "zookeeper", "cluster", "operator",
            "clients", "expired"]  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("source", ["kafka1", "zk1"])
def test_refused_on_every_port(
    cluster: Cluster, identities: dict[str, str], case: str, source: str
) -> None:
    targets, attempts = [], []
    for host, port in ports(cluster):
        right = ISSUED_BY[port]
        how: dict[str, Any] = {"certificate": identities[right]}
        if case == "plaintext":
            how = {"plaintext": True}
        elif case.startswith("TLSv1"):
            how["legacy"] = case
        elif case == "no certificate":
            how = {}
        elif case == "expired":
            how = {"certificate": identities[f"{right}-expired"]}
        elif {"operator": "cluster"}.get(case, case) == right:
            continue
        else:
            how = {"certificate": identities[case]}
        targets.append((host, port))
        attempts.append(attempt(cluster, host, port, **how))
    answers = probe(cluster, attempts, source)
    assert attempts
    for (host, port), answer in zip(targets, answers, strict=True):
        assert answer.startswith("refused"), f"{host}:{port} with {case}: {answer}"


def test_a_wrong_name_is_noticed_on_every_port(
    cluster: Cluster, identities: dict[str, str]
) -> None:
    targets = ports(cluster)
    attempts = [
        attempt(cluster, host, port, certificate=identities[ISSUED_BY[port]],
                ca=identities[f"ca-{ISSUED_BY[port]}"]) | {"name": "other.lab.test"}
        for host, port in targets
    ]  # fmt: skip
    for (host, port), answer in zip(targets, probe(cluster, attempts, "kafka2"), strict=True):
        assert "CERTIFICATE_VERIFY_FAILED" in answer, f"{host}:{port} {answer}"


def test_a_brokers_zookeeper_identity_cannot_join_the_quorum(
    cluster: Cluster, identities: dict[str, str]
) -> None:
    """It has no host name, so the members' check of names refuses it; the client port takes it."""
    for host, port in ports(cluster):
        if ISSUED_BY[port] != "zookeeper":
            continue
        how = attempt(cluster, host, port, certificate=identities["zookeeper-client"])
        (answer,) = probe(cluster, [how], "kafka1")
        if port == 2182:
            assert answer == "answered"
        else:
            assert answer.startswith("refused"), f"{host}:{port} {answer}"


def test_a_member_certificate_from_a_strange_address_cannot_join_the_quorum(
    cluster: Cluster, identities: dict[str, str]
) -> None:
    """The same certificate that is accepted from the address it names is refused from another."""
    targets = [(host, port) for host, port in ports(cluster) if PROTOCOLS[port] == "quorum"]
    attempts = [
        attempt(cluster, host, port, certificate=identities["zookeeper"]) for host, port in targets
    ]
    for target, answer in zip(targets, probe(cluster, attempts, "kafka2"), strict=True):
        assert answer.startswith("refused"), f"{target} {answer}"


def test_a_client_named_like_a_broker_is_no_super_user(
    cluster: Cluster, identities: dict[str, str]
) -> None:
    from tests.lab.clients import list_topics

    for name in ("impostor", "clients"):
        topics = list_topics(cluster, identities[name], identities["ca-clients"])
        assert "__consumer_offsets" not in topics, name
