"""A host with a kernel and a LUKS disk of its own that opens its volume by itself when it boots.

The disk is prepared by hand, and a unit that only sleeps stands in for ZooKeeper: this is about
what systemd, systemd-cryptsetup and the key service make of a KMS that is there, or is not.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from lab.state import PROJECT, Lab
from roles.custody.protocol import KEY_BYTES, KeyContext, WrappedKey
from roles.volumes import names
from roles.volumes.boot import files
from roles.volumes.token import Token
from tests import aws
from tests.examples import THOROUGH
from tests.lab.conftest import Cluster

pytestmark = pytest.mark.own_kernel

HOST, CLUSTER, MOUNT = "zk1", "lab", "/srv/strongbox"
PORT = 8200
PATIENCE_S = 90  # of a busy machine; nothing waits that long when all is well
KEY = os.urandom(KEY_BYTES)
UNIT = f"""[Unit]
RequiresMountsFor={MOUNT}
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""


@dataclass
class Booting:
    """The host, and the AWS that it asks."""

    cluster: Cluster
    state: Path
    fqdn: str
    disk: str

    def aws(self, kms: str) -> None:
        temporary = self.state.with_suffix(".new")
        temporary.write_text(json.dumps({"kms": kms}))
        temporary.rename(self.state)

    def ssh(self, script: str) -> str:
        return self.cluster.ssh(HOST, script)

    def boot(self) -> None:
        result = self.cluster.python("-m", "lab", "reboot", HOST)
        assert result.returncode == 0, result.stderr

    def until(self, script: str, expected: str) -> None:
        """Waits on the host until the script prints that."""
        ends = time.monotonic() + PATIENCE_S
        while (said := self.ssh(script).strip()) != expected:
            assert time.monotonic() < ends, f"{said!r}\n{self.log()}"
            time.sleep(0.5)

    def log(self) -> str:
        return self.ssh("journalctl -b -t strongbox-key -o cat --no-pager")

    def deploy(self, service: str, *options: str) -> subprocess.CompletedProcess[str]:
        return self.cluster.python(
            "-m", "pyinfra", "inventories/lab.py", "tests/lab/key_service_deploy.py", "-y",
            "--limit", HOST, "--data", f"x_key_service={service}", *options,
            STRONGBOX_LAB_PLAIN="1",
        )  # fmt: skip

    @property
    def service(self) -> str:
        return json.dumps({
            "cluster": CLUSTER, "host": self.fqdn, "volumes": ["main"], "kms_key": aws.KEY,
            "kms_endpoint": f"http://10.77.0.1:{PORT}",
            "imds_endpoint": f"http://10.77.0.1:{PORT + 1}",
        })  # fmt: skip


def wrapped(context: KeyContext) -> WrappedKey:
    """The key as custody wraps it: the fake's key material follows from its ARN."""
    with aws.FakeAws() as local:
        kms = boto3.client("kms", endpoint_url=local.kms_url, **local.operator())
        blob = kms.encrypt(KeyId=aws.KEY, Plaintext=KEY, EncryptionContext=context.as_dict())
    return WrappedKey("aws-kms", aws.KEY, base64.b64encode(blob["CiphertextBlob"]).decode())


@pytest.fixture(scope="module")
def booting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booting]:
    # Beside the lab of the other tests, which may still be up.
    cluster = Cluster(Lab(f"{os.environ.get('STRONGBOX_LAB', 'test')[:7]}b"))
    up = cluster.python(
        "-m", "lab", "up", "--driver", "uml", "--zookeepers", "1", "--brokers", "0", timeout=900
    )
    assert up.returncode == 0, up.stderr
    cluster.info = json.loads(cluster.python("-m", "lab", "info", "--json").stdout)
    (host,) = cluster.info["hosts"]
    state = tmp_path_factory.mktemp("aws") / "state"
    made = Booting(cluster, state, host["fqdn"], host["disks"][0]["link"])
    server = subprocess.Popen(
        [sys.executable, "-m", "lab", "exec", "--", sys.executable, "-m", "tests.aws",
         "--listen", "10.77.0.1", "--port", str(PORT), "--state", str(state)],
        cwd=PROJECT, env=cluster.environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("KMS ")
        _prepare(made)
        yield made
    finally:
        server.terminate()
        server.wait()
        if not os.environ.get("STRONGBOX_KEEP_LAB"):
            down = cluster.python("-m", "lab", "down")
            assert down.returncode == 0, down.stderr


def _prepare(of: Booting) -> None:
    uuid = names.luks_uuid(CLUSTER, of.fqdn, "main")
    token = Token(0, 1, wrapped(KeyContext(CLUSTER, of.fqdn, "main", "volume"))).to_json()
    crypttab = f"strongbox-main UUID={uuid} {files.SOCKET} luks,_netdev,nofail,headless=true"
    fstab = (
        f"/dev/mapper/strongbox-main {MOUNT} xfs noatime,nodev,nosuid,noexec,_netdev,nofail,"
        "x-systemd.device-timeout=infinity 0 0"
    )
    script = f"""set -eu
head -n 1 | base64 -d >/dev/shm/key
cryptsetup luksFormat --batch-mode --type luks2 --uuid {uuid} --pbkdf pbkdf2 \
  --pbkdf-force-iterations 1000 --key-file /dev/shm/key {of.disk}
echo {shlex.quote(token)} | cryptsetup token import --token-id 0 {of.disk}
cryptsetup open --key-file /dev/shm/key {of.disk} strongbox-main
rm /dev/shm/key
mkfs.xfs -q /dev/mapper/strongbox-main
cryptsetup close strongbox-main
mkdir -p {MOUNT}
echo {shlex.quote(crypttab)} >/etc/crypttab
echo {shlex.quote(fstab)} >>/etc/fstab
printf %s {shlex.quote(UNIT)} >/etc/systemd/system/user-of-volume.service
systemctl daemon-reload
systemctl enable -q user-of-volume
sync"""
    result = subprocess.run(
        [sys.executable, "-m", "lab", "ssh", HOST, f"sudo sh -c {shlex.quote(script)}"],
        input=base64.b64encode(KEY).decode() + "\n", env=of.cluster.environment(), cwd=PROJECT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    result = of.deploy(of.service)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]


ACTIVE = "systemctl is-active user-of-volume || :"


def test_a_second_run_changes_nothing(booting: Booting) -> None:
    result = booting.deploy(booting.service, "--json")
    assert result.returncode == 0, result.stderr[-3000:]
    operations = json.loads(result.stdout)["results"]["operations"]
    assert [item["name"] for item in operations if item["success"]] == []


def test_a_host_comes_back_by_itself(booting: Booting) -> None:
    booting.aws("ok")
    booting.boot()
    booting.until(ACTIVE, "active")
    source = booting.ssh(f"findmnt -no SOURCE --target {MOUNT}").strip()
    assert source == "/dev/mapper/strongbox-main"
    assert "strongbox-main: key delivered" in booting.log()
    failed = booting.ssh(
        "systemctl list-units --failed --plain --no-legend | grep -i -e strong -e crypt || :"
    )
    assert failed == ""
    journal = booting.ssh("journalctl -b --no-pager -o cat")
    assert KEY.hex() not in journal
    assert base64.b64encode(KEY).decode() not in journal


SAID = {
    "refused": "KMS does not answer: Connection refused",
    "denied": "KMS denies role strongbox-host to decrypt",
    "disabled": "the KMS key is disabled",
}


@pytest.mark.parametrize(
    "states",
    [[state] for state in SAID] if THOROUGH else [list(SAID)],
    ids="-".join,
)
def test_a_host_waits_for_kms(booting: Booting, states: list[str]) -> None:
    """One boot for each state in a thorough run; otherwise one, with one state after the other."""
    booting.aws(states[0])
    booting.boot()
    for state in states:
        booting.aws(state)
        said = shlex.quote(SAID[state])
        booting.until(f"journalctl -b -t strongbox-key -o cat | grep -c {said} || :", "1")
    # Reachable meanwhile, and nothing runs on the empty mount point underneath.
    assert booting.ssh(ACTIVE).strip() in ("inactive", "activating")
    assert booting.ssh(f"ls -A {MOUNT}") == ""
    assert booting.ssh(f"mountpoint -q {MOUNT} || echo no").strip() == "no"
    confined = booting.ssh(
        "pid=$(systemctl show -P MainPID 'strongbox-key@*.service'); "
        "grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/$pid/status"
    )
    assert confined.split() == [
        "CapBnd:", "0000000000000000", "NoNewPrivs:", "1", "Seccomp:", "2"
    ]  # fmt: skip
    booting.aws("ok")
    booting.until(ACTIVE, "active")
    for state in states:
        assert booting.log().count(SAID[state]) == 1


def test_it_is_removed_only_when_nothing_counts_on_it(booting: Booting) -> None:
    result = booting.deploy("remove")
    assert result.returncode == 1
    assert "would stay closed after a reboot" in result.stdout + result.stderr
    assert booting.ssh("systemctl is-active strongbox-key.socket").strip() == "active"
    booting.ssh("sed -i 's,/run/strongbox/key.sock,none,' /etc/crypttab")
    result = booting.deploy("remove")
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    left = booting.ssh(f"ls -d {' '.join(files.OWN_PATHS)} 2>/dev/null || :")
    assert left == ""
    assert booting.ssh("systemctl is-active strongbox-key.socket || :").strip() == "inactive"
