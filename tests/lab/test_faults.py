"""Bad input and faults: one clear line, exit code not 0, the cluster serving, a rerun converges."""

from __future__ import annotations

import datetime
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from roles.tls import authority
from roles.tls.passphrase import Passphrase
from tests.examples import THOROUGH
from tests.lab.conftest import INVENTORY, PROJECT, SITE, Cluster, said

REISSUE = "rm -f /srv/strongbox/zookeeper/tls/server.pem"


def serves(cluster: Cluster) -> None:
    report = json.loads(cluster.run(*cluster.load("--topic", "bulk", "--messages", "500")).stdout)
    assert report["acknowledged"] == report["received"] == 500, report


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the run ended before it said {text!r}")


def test_a_second_run_at_the_same_time_is_refused(cluster: Cluster) -> None:
    """On whichever hosts: what one run may restart depends on what the other does."""
    first = cluster.start(SITE, "--data", "kafka_heap=386m", "--limit", "kafka1")
    try:
        wait_for(first, "Starting operation: Host: packages")
        for options in ((), ("--limit", "kafka2")):
            output = said(cluster.pyinfra("-y", *options))
            assert "another run is at work here" in output
            assert f"process {first.pid}" in output
    finally:
        first.communicate(timeout=400)
    assert first.returncode == 0
    assert cluster.pyinfra("-y").returncode == 0


MOMENTS = ("TLS: keys", "Kafka: configuration", "Kafka: restart kafka1", "Kafka: restart kafka3")
SIGNALS = (signal.SIGINT, signal.SIGKILL)
# Each takes a roll of all brokers, so a short run takes each moment with one of the signals.
ENDS = [
    (moment, number)
    for position, moment in enumerate(MOMENTS)
    for number in SIGNALS
    if THOROUGH or number is SIGNALS[position % 2]
]


@pytest.mark.parametrize(("moment", "number"), ENDS)
def test_a_run_that_is_ended_at_any_moment_is_finished_by_the_next(
    cluster: Cluster, number: signal.Signals, moment: str
) -> None:
    cluster.ssh("zk2", REISSUE)
    heap = f"kafka_heap={388 if number is signal.SIGINT else 392}m"
    run = cluster.start(SITE, "--data", heap)
    wait_for(run, f"Starting operation: {moment}")
    run.send_signal(number)
    run.communicate(timeout=60)
    assert run.returncode not in (0, None)
    serves(cluster)
    again = cluster.pyinfra("-y", "--data", heap)
    assert again.returncode == 0, (again.stdout + again.stderr)[-3000:]
    dry = cluster.python("-m", "pyinfra", INVENTORY, SITE, "--dry", "--json", "--data", heap)
    assert not [item for item in json.loads(dry.stdout)["plan"] if item["hosts_with_change"]]


def test_afterwards_the_declared_state_is_back(cluster: Cluster) -> None:
    assert cluster.pyinfra("-y").returncode == 0
    assert cluster.drift().returncode == 0


def test_an_archive_with_a_wrong_digest_installs_nothing(cluster: Cluster) -> None:
    before = cluster.ssh("kafka1", "ls /opt/strongbox/dist")
    wrong = "a" * 128
    output = said(cluster.pyinfra("-y", "--data", f"kafka_archive_sha512={wrong}"))
    assert "has SHA-512" in output
    assert "nothing was installed" in output
    assert cluster.ssh("kafka1", "ls -A /opt/strongbox/dist") == before
    serves(cluster)


def test_authorities_missing(cluster: Cluster, tmp_path: Path) -> None:
    output = said(cluster.pyinfra("-y", "--data", f"tls_authority_dir={tmp_path}"))
    assert "strongbox ca init" in output


def test_a_wrong_passphrase_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    canary = "CANARY-a-passphrase-that-is-wrong"
    file = tmp_path / "passphrase"
    file.touch(mode=0o600)
    file.write_text(canary)
    cluster.ssh("zk2", REISSUE)
    modes = cluster.ssh("kafka1", "chmod 600 /etc/strongbox/kafka/server.properties; "
                        "stat -c %a /etc/strongbox/kafka/server.properties")  # fmt: skip
    output = said(cluster.pyinfra("-y", "--data", f"tls_passphrase_file={file}"))
    assert "passphrase" in output
    assert canary not in output
    now = cluster.ssh("kafka1", "stat -c %a /etc/strongbox/kafka/server.properties")
    assert now == modes
    serves(cluster)
    assert cluster.pyinfra("-y").returncode == 0


def test_other_authorities_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    """Made anew for the same cluster, where the real ones were not at hand."""
    authority.create(
        tmp_path,
        "lab",
        Passphrase("CANARY-of-new-authorities"),
        datetime.datetime.now(datetime.UTC),
    )
    before = cluster.ssh("kafka1", "sha256sum /srv/strongbox/kafka/tls/*")
    for options in (["-y"], ["--dry"]):
        output = said(cluster.pyinfra(*options, "--data", f"tls_authority_dir={tmp_path}"))
        assert "none of the authorities" in output
        assert "Nothing was changed on any host" in output
    assert cluster.ssh("kafka1", "sha256sum /srv/strongbox/kafka/tls/*") == before
    serves(cluster)


def test_a_link_in_place_of_a_store_is_refused(cluster: Cluster) -> None:
    """Following it would give the mode of a key to what it leads to."""
    trust = "/srv/strongbox/kafka/tls/client-trust.pem"
    cluster.ssh("kafka1", f"mv {trust} /root/ && install -m 755 /dev/null /root/target && "
                          f"ln -s /root/target {trust}")  # fmt: skip
    try:
        output = said(cluster.pyinfra("-y"))
        assert f"kafka1: {trust} is a symbolic link" in output
        assert cluster.ssh("kafka1", "stat -c '%a %U %s' /root/target") == "755 root 0\n"
    finally:
        cluster.ssh("kafka1", f"mv /root/client-trust.pem {trust}; rm /root/target")
    assert cluster.pyinfra("-y").returncode == 0


@pytest.mark.parametrize(("name", "user"), [("kafka1", "kafka"), ("zk1", "zookeeper")])
def test_a_service_cannot_change_what_it_trusts(cluster: Cluster, name: str, user: str) -> None:
    root = f"/srv/strongbox/{user}"
    for attempt in (
        f"touch {root}/tls/new", f"mv {root}/tls {root}/away", f"mv {root}/logs {root}/away",
        f"for f in {root}/tls/*; do echo x >>$f && exit; done; false",
        f"touch /etc/strongbox/{user}/new",
    ):  # fmt: skip
        script = f"runuser -u {user} -- sh -c '{attempt}' 2>/dev/null && echo done || echo refused"
        assert cluster.ssh(name, script) == "refused\n", attempt
    assert (
        cluster.ssh(name, f"runuser -u {user} -- touch {root}/logs/new && rm {root}/logs/new") == ""
    )


def test_nobody_else_can_hold_the_lock(cluster: Cluster) -> None:
    lock = "/run/strongbox.lock"
    assert cluster.ssh("kafka1", f"flock --nonblock {lock} echo free") == "free\n"
    script = f"runuser -u nobody -- flock --nonblock {lock} echo free 2>&1 || :"
    assert "Permission denied" in cluster.ssh("kafka1", script)


def test_a_lock_that_is_lost_stops_the_run(cluster: Cluster) -> None:
    cluster.ssh("zk2", REISSUE)
    run = cluster.start(SITE, "--data", "kafka_heap=396m")
    wait_for(run, "Starting operation: TLS")
    cluster.ssh("kafka2", "pkill -f '[f]lock --nonblock 9'")
    output = run.communicate(timeout=400)[0]
    assert run.returncode == 1, output[-3000:]
    assert "this run's lock on kafka2 is gone" in output
    assert cluster.pyinfra("-y").returncode == 0


def test_expired_authorities_are_named(cluster: Cluster, tmp_path: Path) -> None:
    long_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=40)
    authority.create(tmp_path, "lab", Passphrase("CANARY-of-an-old-authority"), long_ago, days=30)
    output = said(cluster.pyinfra("-y", "--data", f"tls_authority_dir={tmp_path}"))
    assert "expired" in output
    serves(cluster)


def test_a_changed_host_key_is_refused(cluster: Cluster) -> None:
    known = cluster.lab.known_hosts
    right = known.read_text()
    lines = right.splitlines()
    keys = [line.split()[2] for line in lines]
    swapped = [line.replace(keys[0], keys[1]) for line in lines[:1]] + lines[1:]
    known.write_text("\n".join(swapped) + "\n")
    try:
        output = said(cluster.pyinfra("-y"))
        assert "zk1" in output
        assert "host key" in output.lower()
    finally:
        known.write_text(right)


def test_sudo_that_asks_for_a_password_is_told(cluster: Cluster) -> None:
    cluster.ssh("kafka2", "sed -i 's/NOPASSWD: //' /etc/sudoers.d/deploy")
    try:
        for options in (["-y"], ["--dry"]):
            output = said(cluster.pyinfra(*options))
            assert "kafka2: sudo does not work for deploy without a password" in output
    finally:
        pid = cluster.python("-m", "lab", "pid", "kafka2").stdout.strip()
        subprocess.run(
            ["nsenter", "-t", pid, "-m", "sed", "-i", "s/ALL$/NOPASSWD: ALL/",
             "/etc/sudoers.d/deploy"], check=True,
        )  # fmt: skip
    assert cluster.ssh("kafka2", "id -u").strip() == "0"


def test_a_host_lost_in_the_middle_stops_the_run(cluster: Cluster) -> None:
    cluster.ssh("zk2", REISSUE)
    run = cluster.start(SITE, "--data", "kafka_heap=394m")
    wait_for(run, "Starting operation: TLS")
    pid = cluster.python("-m", "lab", "pid", "kafka3").stdout.strip()
    subprocess.run(["nsenter", "-t", pid, "-n", "ip", "link", "set", "host0", "down"], check=True)
    try:
        output = run.communicate(timeout=400)[0]
        assert run.returncode == 1, output[-3000:]
        assert "kafka3" in output
    finally:
        subprocess.run(["nsenter", "-t", pid, "-n", "ip", "link", "set", "host0", "up"], check=True)
    # The host notices at its next attempt to send, and then gives up the lost run's lock.
    cluster.ssh("kafka3", "timeout 150 flock /run/strongbox.lock true")
    assert cluster.pyinfra("-y").returncode == 0
    assert cluster.drift().returncode == 0


def test_a_full_disk_leaves_the_old_store(cluster: Cluster) -> None:
    """The keys' folder is a file system without a free block while a truststore is renewed."""
    tls = "/srv/strongbox/kafka/tls"
    pid = cluster.python("-m", "lab", "pid", "kafka1").stdout.strip()
    inside = ["nsenter", "-t", pid, "-a"]
    script = (
        f"cp -a {tls} /root/tls-before && mount -t tmpfs -o size=64k,mode=750 full {tls} && "
        f"chown root:kafka {tls} && cp -a /root/tls-before/. {tls}/ && "
        f"cat {tls}/zookeeper-trust.pem >>{tls}/client-trust.pem && "
        f"dd if=/dev/zero of={tls}/filler bs=1k 2>/dev/null; true"
    )
    subprocess.run([*inside, "sh", "-c", script], check=True)
    try:
        before = cluster.ssh("kafka1", f"sha256sum {tls}/*.pem; df --output=avail {tls}")
        result = cluster.pyinfra("-y")
        output = said(result)
        assert "No space left" in output
        assert "kafka1" in output
        assert cluster.ssh("kafka1", f"sha256sum {tls}/*.pem; df --output=avail {tls}") == before
        assert cluster.ssh("kafka1", f"ls {tls} | grep -c strongbox-new", check=False) == "0\n"
    finally:
        subprocess.run([*inside, "sh", "-c", f"umount {tls}; rm -rf /root/tls-before"], check=True)
    assert cluster.pyinfra("-y").returncode == 0
    serves(cluster)


def test_without_authorities_strongbox_says_what_to_do(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path)
    result = subprocess.run(
        [sys.executable, "-m", "strongbox", "ca", "show", "-i", "inventories/none.py"],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr == (
        "strongbox: inventory inventories/none.py does not exist "
        "(run this in the project's folder)\n"
    )
