from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result
from moto.server import ThreadedMotoServer

from roles.custody import identity, recovery
from roles.custody.age import AgeCustody
from roles.custody.aws_kms import AwsKmsCustody
from roles.custody.identity import IdentitySource
from roles.custody.protocol import KeyContext
from roles.custody.records import Records
from strongbox import command, custody_cli
from strongbox.cli import main
from strongbox.cluster import Cluster, Declared, load

from .custody_support import UUID

PROJECT = Path(__file__).resolve().parents[2]
ARN = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
CONTEXT = KeyContext("payments", "zk1.test", "main", "")


@dataclass
class Site:
    """A folder with an inventory of one cluster, in which the command runs."""

    folder: Path
    settings: dict[str, Any]
    hosts: dict[str, Declared] = field(default_factory=dict)

    def write(self, **settings: Any) -> None:
        volume = {"device": "/dev/disk/by-id/one", "min_gib": 1, "max_gib": 9}
        shared = {"common_cluster": "payments", "volumes_layout": {"main": volume}}
        zookeeper = {"zookeeper_id": 1, "zookeeper_archive": "software.tgz"}
        members = [("zk1", "zookeepers", zookeeper)]
        for number in (1, 2, 3):
            broker = {"kafka_broker_id": number, "kafka_archive": "software.tgz"}
            members.append((f"kafka{number}", "brokers", broker))
        for number, (name, group, own) in enumerate(members):
            own |= {"common_hostname": f"{name}.test", "common_addresses": [f"10.0.0.{number}"]}
            self.hosts[name] = Declared({group}, shared | self.settings | settings | own)

    def cluster(self, path: str) -> Cluster:
        """In place of pyinfra's way to read it, which patches this process for gevent."""
        assert path == "cluster.py"
        return load(self.hosts)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["custody", *arguments])

    def custody(self, *recipients: str) -> AgeCustody:
        return AgeCustody(recipients, IdentitySource(file=str(self.folder / "anna.age")))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    recipient = identity.create(tmp_path / "anna.age")
    made = Site(tmp_path, {"custody_recipients": [recipient], "custody_identity_file": "anna.age"})
    made.write()
    for module in (command, custody_cli):
        monkeypatch.setattr(module, "read_cluster", made.cluster)
    return made


def test_init_needs_no_inventory(site: Site) -> None:
    result = site.run("init", "--identity", "ben.age")
    assert result.exit_code == 0, result.output
    path = site.folder / "ben.age"
    assert path.stat().st_mode & 0o777 == 0o600
    (recipient,) = identity.read(IdentitySource(file=str(path))).recipients
    assert f'custody_recipients = ["{recipient}"]' in result.output
    assert 'custody_identity_file = "ben.age"' in result.output
    assert "AGE-SECRET-KEY" not in result.output


def test_init_adds_to_the_recipients_there_are(site: Site) -> None:
    result = site.run("init", "-i", "cluster.py", "--identity", "ben.age")
    anna = site.settings["custody_recipients"][0]
    assert f'custody_recipients = ["{anna}", "age1' in result.output
    assert "strongbox custody rewrap" in result.output


def test_init_works_with_an_inventory_that_is_not_complete(site: Site) -> None:
    site.write(custody_recipients=[])
    result = site.run("init", "-i", "cluster.py", "--identity", "ben.age")
    assert result.exit_code == 0
    assert "cluster.py is not complete yet" in result.output
    assert 'custody_recipients = ["age1' in result.output


def test_init_never_overwrites(site: Site) -> None:
    before = (site.folder / "anna.age").read_bytes()
    result = site.run("init", "--identity", "anna.age")
    assert result.exit_code == 1
    assert "never overwritten" in result.output
    assert (site.folder / "anna.age").read_bytes() == before


def test_show(site: Site) -> None:
    records = Records("custody", site.custody(*site.settings["custody_recipients"]))
    records.put_recovery(CONTEXT, UUID, 2, recovery.generate().passphrase)
    records.put_header(CONTEXT, UUID, 3, b"LUKS")
    gone = replace(CONTEXT, host="gone.test")
    records.put_header(gone, UUID, 1, b"LUKS")
    stranger = Records("custody", site.custody(identity.create(site.folder / "x")))
    stranger.put_header(gone, UUID, 2, b"LUKS")
    (site.folder / "anna.age").unlink()
    result = site.run("show", "-i", "cluster.py")
    assert result.exit_code == 0, result.output
    assert "any one of 1 age recipients" in result.output
    rows = {line.split()[0]: line.split() for line in result.output.splitlines()}
    assert rows["zk1.test"] == ["zk1.test", "main", "epoch", "2", "epoch", "3", "as", "declared"]
    assert rows["kafka1.test"] == ["kafka1.test", "main", "none", "none"]
    assert rows["gone.test"] == ["gone.test", "main", "none", "epoch", "2", "before:", "rewrap"]


def test_recover_prints_only_what_it_is_told_to(site: Site) -> None:
    keys = {epoch: recovery.generate() for epoch in (1, 2)}
    records = Records("custody", site.custody(*site.settings["custody_recipients"]))
    for epoch, key in keys.items():
        records.put_recovery(CONTEXT, UUID, epoch, key.passphrase)
    refused = site.run("recover", "-i", "cluster.py", "zk1", "main")
    assert refused.exit_code == 1
    assert "add --yes-print" in refused.output
    assert not any(key.reveal() in refused.output for key in keys.values())
    result = site.run("recover", "-i", "cluster.py", "zk1", "main", "--yes-print")
    assert result.exit_code == 0
    assert result.stdout == f"{keys[2].reveal()}\n"
    assert "it opens the volume" in result.stderr
    older = site.run("recover", "-i", "cluster.py", "zk1.test", "main", "--epoch=1", "--yes-print")
    assert older.stdout == f"{keys[1].reveal()}\n"


def on_a_terminal(site: Site, **environment: str) -> str:
    """What a person sees of `recover zk1 main`, run as its own process."""
    lines = [
        f"{group} = {[(name, it.data) for name, it in site.hosts.items() if group in it.groups]!r}"
        for group in ("zookeepers", "brokers")
    ]
    (site.folder / "cluster.py").write_text("\n".join(lines))
    ours, theirs = os.openpty()
    words = [sys.executable, "-m", "strongbox", "custody", "recover", "-i", "cluster.py"]
    result = subprocess.run(
        [*words, "zk1", "main"],
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(PROJECT)} | environment,
        timeout=60,
    )
    os.close(theirs)
    assert result.returncode == 0, result.stderr
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    return shown.strip()


def test_recover_on_a_terminal(site: Site) -> None:
    key = recovery.generate()
    records = Records("custody", site.custody(*site.settings["custody_recipients"]))
    records.put_recovery(CONTEXT, UUID, 1, key.passphrase)
    assert on_a_terminal(site) == key.reveal()


def test_recover_through_kms(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, since pyinfra patches ssl, which boto3 has to come after."""
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_CONFIG_FILE": "/absent",
        "AWS_SHARED_CREDENTIALS_FILE": "/absent",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client("kms", region_name="eu-central-1", endpoint_url=endpoint)
        arn = client.create_key()["KeyMetadata"]["Arn"]
        key = recovery.generate()
        records = Records("custody", AwsKmsCustody(arn, endpoint))
        records.put_recovery(CONTEXT, UUID, 1, key.passphrase)
        site.settings = {
            "custody_kind": "aws-kms",
            "custody_kms_key": arn,
            "custody_kms_endpoint": endpoint,
        }
        site.write()
        assert on_a_terminal(site, **environment) == key.reveal()
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("zk1", "main"), "there is no recovery key of volume 'main' on zk1.test"),
        (("kafka1", "main", "--epoch=3"), "on kafka1.test (payments) in custody with epoch 3"),
        (("zk1", "../main"), "cannot be the name of a record's folder"),
    ],
)
def test_recover_without_a_record(site: Site, arguments: tuple[str, ...], reason: str) -> None:
    records = Records("custody", site.custody(*site.settings["custody_recipients"]))
    records.put_recovery(
        replace(CONTEXT, host="kafka1.test"), UUID, 1, recovery.generate().passphrase
    )
    result = site.run("recover", "-i", "cluster.py", *arguments, "--yes-print")
    assert result.exit_code == 1
    assert reason in result.output


def test_recover_what_is_no_recovery_key(site: Site) -> None:
    records = Records("custody", site.custody(*site.settings["custody_recipients"]))
    records.put_recovery(CONTEXT, UUID, 1, b"\x1b[31m something else")
    result = site.run("recover", "-i", "cluster.py", "zk1", "main", "--yes-print")
    assert result.exit_code == 1
    assert "holds something else" in result.output
    assert "\x1b" not in result.output


def test_rewrap(site: Site) -> None:
    anna = site.settings["custody_recipients"][0]
    records = Records("custody", site.custody(anna))
    records.put_recovery(CONTEXT, UUID, 1, recovery.generate().passphrase)
    records.put_header(CONTEXT, UUID, 1, b"LUKS")
    assert "nothing to do" in site.run("rewrap", "-i", "cluster.py").output
    ben = identity.create(site.folder / "ben.age")
    site.write(custody_recipients=[anna, ben])
    result = site.run("rewrap", "-i", "cluster.py")
    assert result.exit_code == 0
    assert "zk1.test main: 2 records wrapped anew" in result.output
    assert "nothing to do" in site.run("rewrap", "-i", "cluster.py").output
    site.write(custody_recipients=[anna, ben], custody_identity_file="ben.age")
    assert site.run("recover", "-i", "cluster.py", "zk1", "main", "--yes-print").exit_code == 0


def test_rewrap_with_the_wrong_identity(site: Site) -> None:
    anna = site.settings["custody_recipients"][0]
    records = Records("custody", site.custody(anna))
    records.put_header(CONTEXT, UUID, 1, b"LUKS")
    ben = identity.create(site.folder / "ben.age")
    site.write(custody_recipients=[anna, ben], custody_identity_file="ben.age")
    result = site.run("rewrap", "-i", "cluster.py")
    assert result.exit_code == 1
    assert "was wrapped before the age identity" in result.output
    assert "run it again to finish" in result.output


@pytest.mark.parametrize("command", ["show", "recover", "rewrap"])
def test_damaged_record(site: Site, command: str) -> None:
    path = site.folder / "custody" / "zk1.test" / "main" / "recovery-1.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    more = ("zk1", "main", "--yes-print") if command == "recover" else ()
    result = site.run(command, "-i", "cluster.py", *more)
    assert result.exit_code == 1
    assert "recovery-1.json is damaged" in result.output


def on_kms(site: Site) -> None:
    site.settings = {"custody_kind": "aws-kms", "custody_kms_key": ARN, "volumes_unlock": "boot"}
    site.write()


def test_policy(site: Site) -> None:
    on_kms(site)
    printed = json.loads(site.run("policy", "-i", "cluster.py").output)
    assert set(printed) == {"key", "controller", "hosts"}
    assert set(printed["hosts"]) == set(f"{name}.test" for name in site.hosts)
    for option, part in (
        (["--key"], printed["key"]),
        (["--controller"], printed["controller"]),
        (["--host", "zk1"], printed["hosts"]["zk1.test"]),
    ):
        assert json.loads(site.run("policy", "-i", "cluster.py", *option).output) == part
    principals = json.dumps(printed["key"])
    assert "arn:aws:iam::123456789012:role/strongbox-zk1.test" in principals
    assert "ACCOUNT" not in principals


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--host-role", "arn:aws:iam::123456789012:role/all"), "two hosts have the same role"),
        (("--admin-role", "root"), "root is not the ARN of a role"),
        (("--host-role", f"arn:aws:iam::ACCOUNT:role/{'x' * 60}{{host}}"), "longer than 64"),
        (("--controller-role", "arn:aws:iam::ACCOUNT:role/strongbox-admin"), "a role each"),
        (("--host", "zk9"), "zk9 needs no role"),
    ],
)
def test_policy_that_cannot_be(site: Site, arguments: tuple[str, ...], reason: str) -> None:
    on_kms(site)
    result = site.run("policy", "-i", "cluster.py", *arguments)
    assert result.exit_code == 1
    assert reason in result.output


def test_policy_without_kms(site: Site) -> None:
    result = site.run("policy", "-i", "cluster.py")
    assert result.exit_code == 1
    assert "custody_kind is 'local'" in result.output
