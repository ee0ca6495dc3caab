"""deploys/ebs.py and ebs_reencrypt.py through the pyinfra CLI against a moto server.

Every request is recorded as it comes over the wire. Hosts are recorded ones: what they say of
their NVMe disks is written by hand.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import boto3
import pytest
from werkzeug.serving import make_server

from roles.common.facts import END
from tests.fake.conftest import PROJECT, Inventory, Pyinfra

REGION = "eu-central-1"
EBS, REENCRYPT = "deploys/ebs.py", "deploys/ebs_reencrypt.py"
READING = ("Describe", "Get", "List")
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class Cloud:
    """An AWS of its own, and the names of the requests that it was sent."""

    url: str
    requests: list[str] = field(default_factory=list)

    @property
    def changes(self) -> list[str]:
        return [name for name in self.requests if not name.startswith(READING)]

    @property
    def variables(self) -> dict[str, str]:
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )


def recording(app: Callable[..., Any], requests: list[str]) -> Callable[..., Any]:
    def recorded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        target = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        action = target or parse_qs(body.decode(errors="replace")).get("Action", ["?"])[0]
        requests.append(action)
        return app(environ, start_response)

    return recorded


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    # There are thousands.
    monkey = pytest.MonkeyPatch()
    monkey.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    made = Cloud("")
    app = recording(DomainDispatcherApplication(create_backend_app), made.requests)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()
    monkey.undo()


@dataclass
class OnAws:
    inventory: Inventory
    cloud: Cloud
    instances: dict[str, str]

    def says(
        self,
        host: str,
        disks: dict[str, str],
        verified: bytes | None = None,
        more: tuple[str, ...] = (),
    ) -> None:
        """What the host answers: NVMe serials and models, more lines, and the file that it has."""
        lines = [f"nvme\tnvme{n}n1\t{serial}\t{model}" for n, (serial, model) in
                 enumerate(disks.items())]  # fmt: skip
        there = (
            f"81c0\troot\troot\t600\t{hashlib.sha256(verified).hexdigest()}" if verified else "-"
        )
        self.inventory.data(host)["fake_responses"] = {
            "look.sh": [*lines, *more, END],
            "if {": ["yes", END],
            "stat --printf": [
                "/etc/strongbox\t41ed\troot\troot\t755\t",
                f"/etc/strongbox/ebs-verified\t{there}",
                END,
            ],
        }

    def zone(self, name: str) -> str:
        found = self.cloud.client("ec2").describe_instances(InstanceIds=[self.instances[name]])
        return str(found["Reservations"][0]["Instances"][0]["Placement"]["AvailabilityZone"])

    def unencrypted(self, name: str) -> str:
        """Id of a volume with the tags of the host's main volume that is not encrypted."""
        ec2 = self.cloud.client("ec2")
        tags = {
            "strongbox:cluster": self.inventory.all["common_cluster"],
            "strongbox:host": f"{name}.fake.test",
            "strongbox:volume": "main",
        }
        made = ec2.create_volume(AvailabilityZone=self.zone(name), Size=8, VolumeType="gp3")
        ec2.create_tags(
            Resources=[made["VolumeId"]], Tags=[{"Key": k, "Value": v} for k, v in tags.items()]
        )
        return str(made["VolumeId"])

    def volumes(self) -> dict[str, dict[str, Any]]:
        found = self.cloud.client("ec2").describe_volumes(
            Filters=[
                {"Name": "tag:strongbox:cluster", "Values": [self.inventory.all["common_cluster"]]}
            ]
        )["Volumes"]
        return {
            {tag["Key"]: tag["Value"] for tag in item["Tags"]}["strongbox:host"]: item
            for item in found
        }


@pytest.fixture
def on_aws(inventory: Inventory, cloud: Cloud, request: pytest.FixtureRequest) -> OnAws:
    ec2 = cloud.client("ec2")
    names = ("zk1", "kafka1")
    found = ec2.run_instances(ImageId="ami-00000001", MinCount=2, MaxCount=2)["Instances"]
    instances = {name: item["InstanceId"] for name, item in zip(names, found, strict=True)}
    inventory.all["common_cluster"] = request.node.name.replace("_", "-")[5:30].rstrip("-")
    inventory.all["ebs_key_users"] = ["arn:aws:iam::123456789012:role/provisioner"]
    made = OnAws(inventory, cloud, instances)
    for name, instance in instances.items():
        inventory.data(name).update(
            ebs_instance=instance, ebs_region=REGION, ebs_volumes={"main": {"size_gib": 8}}
        )
        made.says(name, {})
    cloud.requests.clear()
    return made


def serial(volume: str) -> str:
    return volume.replace("-", "")


def changing(result: Any) -> set[str]:
    plan = json.loads(result.stdout)["plan"]
    return {item["name"] for item in plan if item["hosts_with_change"]}


def test_a_dry_run_tells_and_sends_no_change_then_the_run_makes_it(
    on_aws: OnAws, pyinfra: Pyinfra
) -> None:
    def run(*options: str) -> Any:
        on_aws.cloud.requests.clear()
        return pyinfra(on_aws.inventory, EBS, *options, variables=on_aws.cloud.variables)

    dry = run("--dry")
    said = dry.stdout + dry.stderr
    assert dry.returncode == 0, said
    assert "make the KMS key" in said
    assert "volume 'main' (new): make the volume" in said
    assert on_aws.cloud.changes == []
    assert {"DescribeVolumes", "DescribeInstances", "DescribeKey"} <= set(on_aws.cloud.requests)
    assert on_aws.volumes() == {}

    # The instance store has the serial of none, and an EBS volume of others does not count.
    for name in on_aws.instances:
        on_aws.says(name, {"AWS1234": "Amazon EC2 NVMe Instance Storage",
                           "vol0ffffffffffffffff": "Amazon Elastic Block Store"})  # fmt: skip
    unseen = run("-y")
    said = unseen.stdout + unseen.stderr
    assert unseen.returncode == 1
    assert "the host has no NVMe disk with the serial vol" in said
    assert "Traceback" not in said
    changes = on_aws.cloud.changes
    assert changes[:3] == ["CreateKey", "CreateAlias", "EnableKeyRotation"]
    assert sorted(changes[3:]) == ["AttachVolume"] * 2 + ["CreateVolume"] * 2
    volumes = on_aws.volumes()
    assert set(volumes) == {"zk1.fake.test", "kafka1.fake.test"}
    assert all(item["Encrypted"] and item["State"] == "in-use" for item in volumes.values())

    files = {}
    for name in on_aws.instances:
        item = volumes[f"{name}.fake.test"]
        files[name] = f"{item['VolumeId']} {item['KmsKeyId']}\n".encode()
        on_aws.says(name, {serial(item["VolumeId"]): "Amazon Elastic Block Store"})
    written = run("-y")
    assert written.returncode == 0, written.stdout + written.stderr
    assert on_aws.cloud.changes == []

    for name, content in files.items():
        item = volumes[f"{name}.fake.test"]
        on_aws.says(name, {serial(item["VolumeId"]): "Amazon Elastic Block Store"}, content)
    again = run("--dry", "--json")
    assert again.returncode == 0, again.stderr
    assert changing(again) == set()
    assert on_aws.cloud.changes == []


def test_an_unencrypted_volume_is_refused_before_anything_is_made(
    on_aws: OnAws, pyinfra: Pyinfra
) -> None:
    volume = on_aws.unencrypted("kafka1")
    on_aws.cloud.requests.clear()
    result = pyinfra(on_aws.inventory, EBS, "-y", variables=on_aws.cloud.variables)
    said = result.stdout + result.stderr
    assert result.returncode == 1
    assert f"kafka1.fake.test: volume 'main': {volume} is not encrypted" in said
    assert "Nothing was changed." in said
    assert "Traceback" not in said
    assert on_aws.cloud.changes == []


def test_a_broker_moves_onto_an_encrypted_volume(on_aws: OnAws, pyinfra: Pyinfra) -> None:
    """As far as recorded hosts go: what AWS does is done, what the host does is answered."""
    inventory, ec2 = on_aws.inventory, on_aws.cloud.client("ec2")
    del inventory.all["volumes_unencrypted"]
    inventory.everywhere(
        volumes_layout={
            "main": {
                "device": "/dev/disk/by-id/x",
                "min_gib": 7.0,
                "max_gib": 9.0,
                "encryption": "ebs",
                "ebs_volume": "vol-00000000",
            }
        }
    )
    for name in ("ebs_instance", "ebs_region", "ebs_volumes"):
        del inventory.data("zk1")[name]
    old = on_aws.unencrypted("kafka1")
    ec2.attach_volume(VolumeId=old, InstanceId=on_aws.instances["kafka1"], Device="/dev/sdf")

    def run(*options: str, deploy: str = REENCRYPT) -> Any:
        on_aws.cloud.requests.clear()
        return pyinfra(inventory, deploy, *options, variables=on_aws.cloud.variables)

    early = run("-y")
    assert early.returncode == 1
    assert "the KMS key is not as declared yet" in early.stdout + early.stderr
    key = make_key(on_aws)

    on_aws.says("kafka1", {serial(old): "Amazon Elastic Block Store"},
                more=("mounted\t/srv/strongbox\t/dev/nvme0n1", "running"))  # fmt: skip
    dry = run("--dry")
    said = dry.stdout + dry.stderr
    assert dry.returncode == 0, said
    for step in ("stop the broker", "unmount the old volume", "detach the old volume",
                 "make a snapshot of the old volume", "mount the new volume"):  # fmt: skip
        assert f"volume 'main': {step}" in said
    assert on_aws.cloud.changes == []

    # The gate asks the broker, which these answers do not let it do: nothing is stopped.
    gated = run("-y")
    assert gated.returncode == 1
    assert "not restarted" in gated.stdout + gated.stderr
    assert on_aws.cloud.changes == []

    on_aws.says("kafka1", {})
    copied = run("-y")
    said = copied.stdout + copied.stderr
    assert copied.returncode == 1
    assert "the host has no NVMe disk with the serial vol" in said
    assert on_aws.cloud.changes == [
        "DetachVolume", "CreateSnapshot", "CopySnapshot", "CreateVolume", "AttachVolume",
        "CreateTags", "CreateTags",
    ]  # fmt: skip
    (new,) = ec2.describe_volumes(Filters=[{"Name": "tag:strongbox:copy-of", "Values": [old]}])[
        "Volumes"
    ]
    assert new["KmsKeyId"] == key

    on_aws.says("kafka1", {serial(new["VolumeId"]): "Amazon Elastic Block Store"},
                more=("mounted\t/srv/strongbox\t/dev/nvme0n1", "running",
                      f"verified\t{new['VolumeId']}\t{key}"))  # fmt: skip
    finished = run("-y")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert on_aws.cloud.changes == ["CreateTags"]

    deleted = run("-y", "--data", f"ebs_delete_old={old}")
    assert deleted.returncode == 0, deleted.stdout + deleted.stderr
    assert on_aws.cloud.changes == ["DeleteSnapshot", "DeleteSnapshot", "DeleteVolume"]


def make_key(on_aws: OnAws) -> str:
    """What deploys/ebs.py would make."""
    from roles.ebs import work
    from roles.ebs.aws import Aws
    from roles.ebs.host import EbsHost
    from roles.ebs.settings import EbsSettings

    settings = EbsSettings.load(
        on_aws.inventory.data("kafka1") | {"ebs_key_users": on_aws.inventory.all["ebs_key_users"]}
    )
    cluster = on_aws.inventory.all["common_cluster"]
    clients = {name: on_aws.cloud.client(name) for name in ("ec2", "kms", "sts")}
    return work.settle_key(
        Aws(REGION, dry=False, clients=clients),
        EbsHost(cluster, "kafka1.fake.test", settings, {}, "kafka"),
        lambda _line: None,
    )


def test_without_credentials_the_aws_inventory_says_so_in_one_line(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path),
                   "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
    for command in (("-m", "pyinfra", "inventories/aws.py", EBS, "--dry"),
                    ("-m", "strongbox", "ca", "show", "-i", "inventories/aws.py")):  # fmt: skip
        result = subprocess.run(
            [sys.executable, *command], cwd=PROJECT, env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 1
        (line,) = [item for item in result.stderr.splitlines() if not item.startswith("-->")]
        assert line.startswith("inventories/aws.py: AWS: sts get_caller_identity: no credentials")
