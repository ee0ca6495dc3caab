"""A ZooKeeper host with a kernel and a LUKS disk of its own that opens its volume by itself when it
boots, with a KMS that is there, or is not; and the way back to the other mode of unlocking."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.state import PROJECT, Lab
from roles.custody import identity
from roles.volumes.boot import files
from tests import aws
from tests.examples import THOROUGH
from tests.lab.conftest import INVENTORY, SITE, Cluster, changed

pytestmark = pytest.mark.own_kernel

HOST, MOUNT = "zk1", "/srv/strongbox"
PORT = 8200
PATIENCE_S = 120  # of a busy machine; nothing waits that long when all is well
BOOT = {
    "custody_kind": "aws-kms",
    "custody_kms_key": aws.KEY,
    "custody_kms_endpoint": f"http://10.77.0.1:{PORT}",
    "volumes_unlock": "boot",
    "volumes_unlock_imds": f"http://10.77.0.1:{PORT + 1}",
}
CONTROLLER = BOOT | {"volumes_unlock": "controller"}


@dataclass
class Booting:
    """The host, and the AWS that it asks."""

    cluster: Cluster
    state: Path
    server: aws.FakeAws

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

    def deploy(
        self, deploy: str, settings: dict[str, str], *options: str
    ) -> subprocess.CompletedProcess[str]:
        data = [word for item in settings.items() for word in ("--data", "=".join(item))]
        operator = self.server.operator()
        return self.cluster.pyinfra(
            "-y", *data, *options, deploy=deploy,
            AWS_ACCESS_KEY_ID=operator["aws_access_key_id"],
            AWS_SECRET_ACCESS_KEY=operator["aws_secret_access_key"],
        )  # fmt: skip

    def works(self, deploy: str, settings: dict[str, str], *options: str) -> str:
        result = self.deploy(deploy, settings, *options)
        assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
        return result.stdout


@pytest.fixture(scope="module")
def booting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booting]:
    # Beside the lab of the other tests, which may still be up.
    cluster = Cluster(Lab(f"{os.environ.get('STRONGBOX_LAB', 'test')[:7]}b"))
    up = cluster.python(
        "-m", "lab", "up", "--driver", "uml", "--zookeepers", "1", "--brokers", "0", timeout=900
    )
    assert up.returncode == 0, up.stderr
    identity.create(cluster.lab.identity)
    for words in (("-m", "lab.dist"), ("-m", "strongbox", "ca", "init", "-i", INVENTORY)):
        result = cluster.python(*words)
        assert result.returncode == 0, result.stdout + result.stderr
    state = tmp_path_factory.mktemp("aws") / "state"
    made = Booting(cluster, state, aws.FakeAws())
    server = subprocess.Popen(
        [sys.executable, "-m", "lab", "exec", "--", sys.executable, "-m", "tests.aws",
         "--listen", "10.77.0.1", "--port", str(PORT), "--state", str(state)],
        cwd=PROJECT, env=cluster.environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("KMS ")
        made.works(SITE, BOOT)
        yield made
    finally:
        server.terminate()
        server.wait()
        if not os.environ.get("STRONGBOX_KEEP_LAB"):
            down = cluster.python("-m", "lab", "down")
            assert down.returncode == 0, down.stderr


ACTIVE = "systemctl is-active zookeeper || :"


def test_a_second_run_changes_nothing(booting: Booting) -> None:
    assert changed(json.loads(booting.works(SITE, BOOT, "--json"))) == {}


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


@pytest.mark.skipif(not THOROUGH, reason="another boot and two more runs: make test-long")
def test_back_to_unlocking_by_the_controller(booting: Booting) -> None:
    booting.works(SITE, CONTROLLER)
    assert booting.ssh(f"ls -d {' '.join(files.OWN_PATHS)} 2>/dev/null || :") == ""
    assert booting.ssh("systemctl is-active strongbox-key.socket || :").strip() == "inactive"
    assert "strongbox" not in booting.ssh("cat /etc/crypttab")
    booting.boot()
    assert booting.ssh(ACTIVE).strip() == "inactive"
    assert booting.ssh("ls /dev/mapper").split() == ["control"]
    # A server that never had a client wrote nothing, and unlocking starts only what has data.
    result = booting.deploy("deploys/unlock.py", CONTROLLER)
    assert result.returncode == 1
    assert "hold no data: run deploys/site.py" in result.stdout + result.stderr
    booting.works(SITE, CONTROLLER)
    assert booting.ssh(ACTIVE).strip() == "active"
