"""No secret leaves its place: not into output, argv, environments, logs or temporary files.

Every private key and password of the cluster is a canary: they are random, so each is unique.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import INVENTORY, PROJECT, SITE, Cluster

# A private key's PEM, without its header: the part of its first line that differs between keys.
_KEYS = (
    "cd /srv/strongbox; for f in */tls/*.pem; do "
    "sed -n '/BEGIN PRIVATE KEY/,/END PRIVATE KEY/p' $f | sed '1d;$d' | tr -d '\\n' "
    "| cut -c 60-120; "
    "done; cat */tls/*.password 2>/dev/null; true"
)


def secrets(cluster: Cluster) -> set[str]:
    """The passphrase, and a part of every private key and password on every host."""
    found = {cluster.lab.passphrase.read_text().strip()}
    for host in cluster.hosts:
        found |= {line for line in cluster.ssh(host, _KEYS).split() if len(line) > 20}
    return found


def encoded(secret: str) -> set[str]:
    """The secret as it is, and as base64 would carry it at each of the three alignments."""
    import base64

    forms = {secret}
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + secret.encode()).decode()
        forms.add(text[4 if shift else 0 : -4])
    return forms


def assert_none(text: str, secrets_: set[str], where: str) -> None:
    for secret in secrets_:
        for form in encoded(secret):
            assert form not in text, f"{where} shows a secret"


@contextlib.contextmanager
def traced(pids: list[int], target: Path) -> Iterator[None]:
    """Every execve of these processes and all their children, with arguments and environment."""
    words = ["strace", "-f", "-v", "-s", "65536", "-e", "trace=execve", "-o", str(target)]
    for pid in pids:
        words += ["-p", str(pid)]
    tracer = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    attached = 0
    while attached < len(pids):
        line = tracer.stderr.readline()
        assert line, "strace did not attach"
        attached += "attached" in line
    try:
        yield
    finally:
        tracer.terminate()
        tracer.wait(20)


def sshd_pids(cluster: Cluster, hosts: list[str]) -> list[int]:
    """This machine's process ids of the hosts' sshd."""
    found = []
    for host in hosts:
        init = cluster.python("-m", "lab", "pid", host).stdout.strip()
        children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
        found += [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "sshd\n"]
    assert len(found) == len(hosts)
    return found


# Sees a host's files as that host does, as its user nobody; says what it could read of a key.
WATCH = """
import os, sys, time
os.chroot(sys.argv[1]); os.chdir("/")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
folders = ["/tmp", "/var/tmp", "/srv/strongbox", "/etc/strongbox", "/home/deploy", "/run"]
folders += [f"/srv/strongbox/{role}/tls" for role in ("kafka", "zookeeper")]
folders += [f"/etc/strongbox/{role}" for role in ("kafka", "zookeeper")]
print("watching", flush=True)
while True:
    for folder in folders:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            try:
                with open(f"{folder}/{name}", errors="replace") as file:
                    text = file.read(100000)
            except OSError:
                continue
            if "PRIVATE KEY" in text or "UFJJVkFURSBLRVk" in text:
                print(f"{folder}/{name}", flush=True)
    time.sleep(0.003)
"""


@contextlib.contextmanager
def watched(cluster: Cluster) -> Iterator[list[str]]:
    """Another user on every host, who tries to read whatever appears, all the time."""
    watchers = []
    for host in cluster.hosts:
        root = f"/proc/{cluster.python('-m', 'lab', 'pid', host).stdout.strip()}/root"
        watchers.append(
            subprocess.Popen([sys.executable, "-c", WATCH, root], stdout=subprocess.PIPE, text=True)
        )
    seen: list[str] = []
    for watcher in watchers:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "watching\n"
    try:
        yield seen
    finally:
        for watcher in watchers:
            watcher.terminate()
            assert watcher.stdout is not None
            seen += watcher.stdout.read().splitlines()


def test_the_watcher_sees_a_readable_key(cluster: Cluster) -> None:
    """The control: a key that lies open for a moment is noticed."""
    with watched(cluster) as readable:
        cluster.ssh("zk1", "echo 'BEGIN PRIVATE KEY' >/tmp/open; for i in $(seq 200); do "
                           "cat /tmp/open >/dev/null; done; rm /tmp/open")  # fmt: skip
    assert "/tmp/open" in readable


def renew_everything(cluster: Cluster) -> None:
    for host in cluster.hosts:
        cluster.ssh(host, "find /srv/strongbox/*/tls -type f -name '*.pem' ! -name '*-trust.pem' "
                          "-delete")  # fmt: skip


def journal(cluster: Cluster, host: str) -> str:
    return cluster.ssh(
        host,
        "journalctl --no-pager -o cat; cat /var/log/*.log /var/log/auth.log 2>/dev/null; "
        "for f in $(find /tmp /var/tmp /root /home -type f); do cat $f; done; true",
    )


@pytest.mark.parametrize(
    "options",
    [["-y", "-vvv", "--debug", "--diff"], ["-y"]],
    ids=["verbose", "plain"],
)
def test_a_run_that_writes_every_secret_shows_none(
    cluster: Cluster, tmp_path: Path, options: list[str]
) -> None:
    """With all of pyinfra's verbosity, and without."""
    renew_everything(cluster)
    trace = tmp_path / "execve"
    # A JVM under strace is very slow, so of the brokers, whose gates start one, only one is traced.
    hosts = [*cluster.zookeepers, cluster.brokers[0]]
    with watched(cluster) as readable, traced(sshd_pids(cluster, hosts), trace):
        controller = tmp_path / "controller"
        result = cluster.run(
            "strace", "-f", "--seccomp-bpf", "-v", "-s", "65536", "-e", "trace=execve",
            "-o", str(controller),
            sys.executable, "-m", "pyinfra", INVENTORY, SITE, *options, timeout=900,
        )  # fmt: skip
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-4000:]
    assert "PRIVATE KEY" not in output
    found = secrets(cluster)
    assert len(found) >= 1 + len(cluster.zookeepers) + 3 * len(cluster.brokers)
    assert_none(output, found, "pyinfra's output")
    executed = trace.read_text()
    assert "strongbox" in executed, "the trace saw nothing"
    assert_none(executed, found, "argv or environment on a host")
    assert_none(controller.read_text(), found, "argv or environment on the controller")
    for host in cluster.hosts:
        assert_none(journal(cluster, host), found, f"journal or temporary files of {host}")
    assert readable == []


def test_failing_and_dry_runs_show_none(cluster: Cluster) -> None:
    """A run that fails while it writes keys, and a dry one."""
    found = secrets(cluster)
    cluster.ssh("kafka1",
                          "mv /srv/strongbox/kafka/tls/client.pem /srv/strongbox/kafka/tls/away; "
                          "mkdir /srv/strongbox/kafka/tls/client.pem.strongbox-new; "
                          "touch /srv/strongbox/kafka/tls/client.pem.strongbox-new/x")  # fmt: skip
    try:
        dry = cluster.pyinfra("--dry", "--diff", "-vvv", "--debug")
        assert dry.returncode == 0
        assert_none(dry.stdout + dry.stderr, found, "a dry run's output")
        failed = cluster.pyinfra("-y", "-vvv", "--debug", "--diff")
        output = failed.stdout + failed.stderr
        assert failed.returncode == 1
        assert "PRIVATE KEY" not in output
        assert_none(output, found, "a failing run's output")
    finally:
        cluster.ssh("kafka1", "rm -rf /srv/strongbox/kafka/tls/client.pem.strongbox-new "
                              "/srv/strongbox/kafka/tls/away")  # fmt: skip
    assert cluster.pyinfra("-y").returncode == 0
    assert cluster.drift().returncode == 0


def test_the_leak_search_finds_a_leak(cluster: Cluster, tmp_path: Path) -> None:
    """The control of the tests above: a secret in argv, in base64 too, is found."""
    secret = sorted(secrets(cluster))[0]
    trace = tmp_path / "execve"
    with traced(sshd_pids(cluster, ["zk1"]), trace):
        cluster.ssh("zk1", f"true {secret}")
    with pytest.raises(AssertionError, match="shows a secret"):
        assert_none(trace.read_text(), {secret}, "argv")
    import base64

    for prefix in ("", "x", "xy"):
        carried = base64.b64encode(f"{prefix}{secret} and more".encode()).decode()
        with pytest.raises(AssertionError, match="shows a secret"):
            assert_none(carried, {secret}, "base64")


def test_the_passphrase_is_in_nobodys_environment(cluster: Cluster) -> None:
    """Given by variable, it is gone from pyinfra's own environment once it was read."""
    cluster.ssh("zk2", "rm -f /srv/strongbox/zookeeper/tls/server.pem")
    passphrase = cluster.lab.passphrase.read_text().strip()
    run = subprocess.Popen(
        [sys.executable, "-m", "pyinfra", INVENTORY, SITE, "-y"],
        cwd=PROJECT, env=cluster.environment(STRONGBOX_CA_PASSPHRASE=passphrase),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert run.stdout is not None
    lines = []
    for line in run.stdout:
        lines.append(line)
        if "Starting operation: ZooKeeper" in line:
            break
    else:
        raise AssertionError(f"the run ended too early:\n{''.join(lines)[-4000:]}")
    environment = Path(f"/proc/{run.pid}/environ").read_bytes()
    rest = run.communicate(timeout=300)[0]
    assert run.returncode == 0, "".join(lines)[-2000:] + rest[-2000:]
    assert passphrase.encode() not in environment
