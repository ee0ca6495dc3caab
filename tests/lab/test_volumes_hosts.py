"""Six hosts with kernels and LUKS disks of their own: what lies on the disks, and what comes back.

In this order: each test leaves a whole cluster to the next.
"""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from roles.custody.build import custody
from roles.custody.protocol import KeyContext
from roles.custody.settings import CustodySettings
from roles.volumes import token
from tests.examples import THOROUGH
from tests.lab import raw
from tests.lab.conftest import PROJECT, Cluster, changed, nothing_lost

pytestmark = pytest.mark.own_kernel

UNLOCK = "deploys/unlock.py"
ROTATE = "deploys/rotate_volume_keys.py"
takes_long = pytest.mark.skipif(
    not THOROUGH, reason="takes a quarter of an hour: make test-long runs it"
)
RATE = 200  # messages a second: these hosts' JVMs run at a tenth of the machine's speed
SERVICE = {"zookeepers": "zookeeper", "brokers": "kafka"}


def service(cluster: Cluster, host: str) -> str:
    return "zookeeper" if host in cluster.zookeepers else "kafka"


def active(cluster: Cluster, host: str) -> str:
    return cluster.ssh(host, f"systemctl is-active {service(cluster, host)} || :").strip()


def unlock(cluster: Cluster, *options: str) -> None:
    result = cluster.pyinfra("-y", *options, deploy=UNLOCK)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]


def lab(cluster: Cluster, *words: str) -> None:
    result = cluster.python("-m", "lab", *words)
    assert result.returncode == 0, result.stderr


def serves(cluster: Cluster, topic: str) -> None:
    result = cluster.run(*cluster.load("--topic", topic, "--messages", "300"))
    nothing_lost(json.loads(result.stdout))


def unseen(cluster: Cluster, host: str, script: str) -> str:
    """Runs a script as root that is in no list of processes and no log; its standard output."""
    result = subprocess.run(
        [sys.executable, "-m", "lab", "ssh", host, "sudo sh -s"], input=script, cwd=PROJECT,
        env=cluster.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_a_second_run_changes_nothing(encrypted: Cluster) -> None:
    before = encrypted.pids()
    assert changed(encrypted.site()) == {}
    assert encrypted.pids() == before


def test_the_disks_show_nothing(encrypted: Cluster, tmp_path: Path) -> None:
    """A message, a topic's name in ZooKeeper, a private key and a log line: on no disk, while the
    same search finds each in the same files on a disk that is not encrypted."""
    message, topic = f"CANARY-{uuid.uuid4().hex}", f"canary-{uuid.uuid4().hex}"
    # On a script's standard input: sudo writes arguments into the journal.
    unseen(
        encrypted, "kafka1",
        f"kafka-cli topics --create --topic {topic} --partitions 1 --replication-factor 3; "
        f"echo {message} | kafka-cli console-producer --topic {topic}",
    )  # fmt: skip
    key = encrypted.ssh("kafka1", "sed -n 3p /srv/strongbox/kafka/tls/internal.pem").strip()
    assert len(key) >= 20
    log = unseen(
        encrypted, "kafka1", f"grep -hm1 {topic} /srv/strongbox/kafka/logs/server.log"
    ).strip()
    for host in encrypted.hosts:
        encrypted.ssh(host, "sync")
    # What the control finds is what the hosts really keep: the same bytes, in a plain file system.
    plain = tmp_path / "plain"
    plain.mkdir()
    for host, pattern in (
        ("kafka1", f"/srv/strongbox-data*/kafka/{topic}-0/*.log"),
        ("kafka1", "/srv/strongbox/kafka/tls/*.pem"),
        ("kafka1", "/srv/strongbox/kafka/logs/server.log"),
        ("zk1", "/srv/strongbox/zookeeper/data/version-2/log.*"),
    ):
        # Records are cut off where the logs' preallocated zeros begin.
        packed = unseen(encrypted, host, f"cat {pattern} | gzip | base64 -w0")
        data = subprocess.run(
            ["gzip", "-d"], input=base64.b64decode(packed), capture_output=True, check=True
        ).stdout
        (plain / f"{host}-{len(list(plain.iterdir()))}").write_bytes(data)
    control = tmp_path / "control.img"
    with control.open("wb") as file:
        file.truncate(512 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", plain, control], check=True)
    words = [message.encode(), topic.encode(), key.encode(), log.encode()]
    in_control = raw.found(control, words)
    assert all(in_control.values()), f"the search itself does not work: {in_control}"
    disks = [Path(disk["image"]) for host in encrypted.info["hosts"] for disk in host["disks"]]
    roots = [encrypted.lab.host_folder(host) / "root.cow" for host in encrypted.hosts]
    assert len(disks) == 12 and len(roots) == 6
    for image in [*disks, *roots]:
        assert raw.found(image, words) == dict.fromkeys(words, 0), image


def test_every_folder_is_on_the_mapping(encrypted: Cluster) -> None:
    for host in encrypted.hosts:
        for folder in ("data", "tls", "logs", "tmp"):
            path = f"/srv/strongbox/{service(encrypted, host)}/{folder}"
            device = encrypted.ssh(host, f"findmnt -no SOURCE --target {path}").strip()
            assert device == "/dev/mapper/strongbox-main", (host, path)
        options = encrypted.ssh(host, "findmnt -no OPTIONS --target /srv/strongbox")
        assert {"noatime", "nodev", "nosuid", "noexec"} <= set(options.strip().split(","))
        world = encrypted.ssh(host, "find /srv/strongbox* -xdev -perm /o=rwx ! -type l -print")
        assert world == "", (host, world)


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_every_codec_works_beside_volumes_without_execution(encrypted: Cluster, codec: str) -> None:
    """The broker itself decompresses what it checks, with libraries that it has to unpack."""
    command = encrypted.load("--topic", codec, "--messages", "300", "--compression", codec)
    nothing_lost(json.loads(encrypted.run(*command).stdout))


@takes_long
def test_volume_keys_are_rotated_under_load(encrypted: Cluster, tmp_path: Path) -> None:
    """The old key opens nothing, the new one does, no process was restarted, no produce failed.

    On one host of each kind: every volume takes minutes here.
    """
    rotated = [encrypted.zookeepers[0], encrypted.brokers[0]]
    keys = {host: _volume_key(encrypted, host) for host in rotated}
    before = encrypted.pids()
    with encrypted.under_load("keys", tmp_path / "done", RATE) as report:
        only = [word for host in rotated for word in ("--limit", host)]
        result = encrypted.pyinfra("-y", *only, deploy=ROTATE)
        assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    nothing_lost(report)
    assert encrypted.pids() == before
    for host, old in keys.items():
        assert _opens(encrypted, host, old) == 2, f"the old key still opens {host}"
        new = _volume_key(encrypted, host)
        assert new != old
        assert _opens(encrypted, host, new) == 0
    assert changed(encrypted.site()) == {}


def _device(cluster: Cluster, host: str) -> str:
    disks = next(item["disks"] for item in cluster.info["hosts"] if item["name"] == host)
    return next(str(disk["link"]) for disk in disks if disk["name"] == "main")


def _volume_key(cluster: Cluster, host: str) -> bytes:
    """Unwrapped as the controller does it."""
    dumped = cluster.ssh(host, f"cryptsetup luksDump --dump-json-metadata {_device(cluster, host)}")
    found = [token.parse(item) for item in json.loads(dumped)["tokens"].values()]
    wrapped = next(item.wrapped for item in found if item is not None and item.wrapped)
    name = next(item["fqdn"] for item in cluster.info["hosts"] if item["name"] == host)
    settings = CustodySettings(
        recipients=(cluster.lab.recipient,),
        identity_file=str(cluster.lab.identity),
    )
    return custody(settings).unwrap(wrapped, KeyContext("lab", name, "main", "volume"))


def _opens(cluster: Cluster, host: str, key: bytes) -> int:
    """cryptsetup's exit code: 0 when the key opens the volume, 2 when it does not."""
    script = (
        "head -n 1 | base64 -d | cryptsetup open --test-passphrase --key-file - "
        f"--keyfile-size {len(key)} {_device(cluster, host)}; echo $?"
    )
    result = subprocess.run(
        [sys.executable, "-m", "lab", "ssh", host, f"sudo sh -c {shlex.quote(script)}"],
        input=base64.b64encode(key).decode() + "\n", env=cluster.environment(), cwd=PROJECT,
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return int(result.stdout)


def test_after_a_power_cut_nothing_starts_until_it_is_unlocked(encrypted: Cluster) -> None:
    lab(encrypted, "cut", "kafka2")
    lab(encrypted, "start", "kafka2")
    assert active(encrypted, "kafka2") == "inactive"
    assert encrypted.ssh("kafka2", "ls -A /srv/strongbox") == ""
    # Nor by hand: the unit waits for its mount points.
    encrypted.ssh("kafka2", "systemctl start kafka")
    assert active(encrypted, "kafka2") == "inactive"
    unlock(encrypted)
    assert active(encrypted, "kafka2") == "active"
    serves(encrypted, "after-cut")


@pytest.mark.parametrize("hosts", ["zookeepers", "brokers"])
def test_hosts_reboot_under_load(encrypted: Cluster, hosts: str, tmp_path: Path) -> None:
    """One of them in every run, all of them one after the other in a thorough one."""
    names = encrypted.zookeepers if hosts == "zookeepers" else encrypted.brokers
    with encrypted.under_load("reboots", tmp_path / "done", RATE) as report:
        for host in names if THOROUGH else names[:1]:
            lab(encrypted, "reboot", host)
            unlock(encrypted)
            assert active(encrypted, host) == "active"
    nothing_lost(report)


@takes_long
@pytest.mark.parametrize("how", ["reboot", "power cut"])
def test_all_at_once(encrypted: Cluster, how: str) -> None:
    """What was acknowledged before is there after one command.

    A power cut everywhere at the same moment takes what no broker has written to its disk yet:
    Kafka acknowledges before that. So the disks are given the time first.
    """
    topic = f"before-the-{how.replace(' ', '-')}"
    result = encrypted.run(*encrypted.load("--topic", topic, "--messages", "1000"))
    nothing_lost(json.loads(result.stdout))
    before = {host: boot_id(encrypted, host) for host in encrypted.hosts}
    for host in encrypted.hosts:
        if how == "reboot":
            encrypted.ssh(host, "systemctl --no-block reboot")
        else:
            encrypted.ssh(host, "sync")
    if how == "power cut":
        for host in encrypted.hosts:
            lab(encrypted, "cut", host)
        lab(encrypted, "up", "--data-disks", "2")
    for host in encrypted.hosts:
        ends = time.monotonic() + 400  # of a busy machine, whose services take their time to stop
        while boot_id(encrypted, host) in ("", before[host]):
            assert time.monotonic() < ends, f"{host} does not come back"
            time.sleep(1)
    unlock(encrypted)
    assert {active(encrypted, host) for host in encrypted.hosts} == {"active"}
    offsets = encrypted.kafka("get-offsets", "--topic", topic)
    lines = [line for line in offsets.splitlines() if line.startswith(f"{topic}:")]
    assert sum(int(line.rsplit(":", 1)[1]) for line in lines) == 1000, offsets
    serves(encrypted, f"after-{topic}")
    assert changed(encrypted.site()) == {}


def boot_id(cluster: Cluster, host: str) -> str:
    """Another after each boot; empty while the host does not answer."""
    return cluster.ssh(host, "cat /proc/sys/kernel/random/boot_id", check=False).strip()


def test_a_service_does_not_start_beside_its_volume(encrypted: Cluster) -> None:
    """A plain folder, and a volume that is open but not mounted."""
    host = "kafka3"
    encrypted.ssh(host, "systemctl stop kafka")
    try:
        encrypted.ssh(host, "umount /srv/strongbox")
        refused = encrypted.ssh(
            host, '/usr/local/libexec/strongbox/guard /srv/strongbox 2>&1; echo "exit $?"'
        )
        assert "exit 1" in refused and "/srv/strongbox" in refused
        encrypted.ssh(host, "systemctl start kafka")
        assert active(encrypted, host) == "inactive"
        # Something else is mounted there: the unit's condition holds, the guard still refuses.
        encrypted.ssh(
            host, "mount -t tmpfs tmpfs /srv/strongbox && mkdir -p /srv/strongbox/kafka/tmp"
        )
        encrypted.ssh(host, "systemctl start kafka || :; systemctl stop kafka")
        said = encrypted.ssh(host, "journalctl -u kafka -n 20 --no-pager")
        assert "guard" in said or "strongbox" in said
        assert active(encrypted, host) in ("inactive", "failed")
        encrypted.ssh(host, "umount /srv/strongbox")
    finally:
        encrypted.ssh(host, "mountpoint -q /srv/strongbox || "
                      "mount /dev/mapper/strongbox-main /srv/strongbox; "
                      "systemctl reset-failed kafka 2>/dev/null; :")  # fmt: skip
    assert encrypted.pyinfra("-y").returncode == 0
    assert active(encrypted, host) == "active"
