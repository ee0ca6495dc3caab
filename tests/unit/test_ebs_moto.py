"""Key and volumes made, verified, refused and re-encrypted against moto, in this process."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from roles.ebs import work
from roles.ebs.aws import Aws, AwsError, DryRunError
from roles.ebs.host import EbsHost
from roles.ebs.model import CLUSTER, STATE, Place, Stage
from roles.ebs.plan import KeyStep, Refusal
from roles.ebs.settings import EbsSettings, EbsVolume
from roles.ebs.swap import HostState, Step, Swap, next_step, plan_delete, swap
from strongbox.cluster import Declared, load

PROJECT = Path(__file__).resolve().parents[2]
REGION = "eu-central-1"
USER = "arn:aws:iam::123456789012:role/provisioner"


def never(_seconds: float) -> None:
    raise AssertionError("moto is never waited for")


def quiet(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, Any]]:
    """Of one account for all tests, as making clients is slow; each test has its own cluster."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # there are thousands
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        session = boto3.session.Session(region_name=REGION)
        yield {name: session.client(name) for name in ("ec2", "kms", "sts")}


@pytest.fixture
def ec2(clients: dict[str, Any]) -> Any:
    return clients["ec2"]


@pytest.fixture
def aws(clients: dict[str, Any]) -> Aws:
    return Aws(REGION, dry=False, wait_s=10, sleep=never, clients=clients)


@pytest.fixture
def node(ec2: Any, request: pytest.FixtureRequest) -> EbsHost:
    (instance,) = ec2.run_instances(ImageId="ami-00000001", MinCount=1, MaxCount=1)["Instances"]
    settings = EbsSettings(
        instance=instance["InstanceId"],
        region=REGION,
        volumes={"main": EbsVolume(size_gib=8)},
        key_users=(USER,),
        tags={"cost": "42"},
    )
    return EbsHost(request.node.name.replace("_", "-"), "kafka1.test", settings, {}, "kafka")


def test_key_and_volume_are_made_once(aws: Aws, node: EbsHost, clients: dict[str, Any]) -> None:
    ec2, kms = clients["ec2"], clients["kms"]
    before = len(kms.list_keys()["Keys"])
    key = work.settle_key(aws, node, quiet)
    disk = work.settle_volume(aws, node, "main", key, quiet)
    assert disk.is_under(key)
    assert disk.attached_to == (node.settings.instance,)
    said: list[str] = []
    assert work.settle_key(aws, node, said.append) == key
    assert work.settle_volume(aws, node, "main", key, said.append) == disk
    assert said == []
    assert kms.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"]
    assert len(kms.list_keys()["Keys"]) == before + 1
    (made,) = ec2.describe_volumes(VolumeIds=[disk.id])["Volumes"]
    assert {tag["Key"]: tag["Value"] for tag in made["Tags"]} == {
        "cost": "42",
        "Name": f"{node.cluster} kafka1.test main",
        "strongbox:cluster": node.cluster,
        "strongbox:host": "kafka1.test",
        "strongbox:volume": "main",
        "strongbox:state": "current",
    }


def test_a_run_killed_before_the_alias_goes_on_with_its_key(aws: Aws, node: EbsHost) -> None:
    wanted = work.look_at_key(aws, node).wanted
    made = aws.create_key(node.cluster, wanted.policy, {})
    assert work.look_at_key(aws, node).steps == [KeyStep.ALIAS, KeyStep.ROTATION]
    assert work.settle_key(aws, node, quiet) == made


def test_a_changed_policy_is_set(aws: Aws, node: EbsHost) -> None:
    key = work.settle_key(aws, node, quiet)
    other = replace(
        node, settings=node.settings.model_copy(update={"key_administrators": (USER + "-2",)})
    )
    said: list[str] = []
    work.settle_key(aws, other, said.append)
    assert said == [KeyStep.POLICY.value]
    found = aws.key(key, node.cluster)
    assert found is not None
    assert USER + "-2" in str(found.policy)


def test_another_volume_is_refused_and_left_alone(aws: Aws, node: EbsHost, ec2: Any) -> None:
    key = work.settle_key(aws, node, quiet)
    place = node.place("main")
    zone = aws.instances([node.settings.instance])[node.settings.instance].zone
    plain = ec2.create_volume(AvailabilityZone=zone, Size=8, VolumeType="gp3")["VolumeId"]
    ec2.create_tags(
        Resources=[plain], Tags=[{"Key": k, "Value": v} for k, v in place.tags().items()]
    )
    with pytest.raises(AwsError, match=rf"{plain} is not encrypted: .*ebs_reencrypt"):
        work.settle_volume(aws, node, "main", key, quiet)
    before = ec2.describe_volumes(VolumeIds=[plain])["Volumes"]
    assert before[0]["State"] == "available"


def test_a_pinned_key_that_is_not_there(aws: Aws, node: EbsHost) -> None:
    arn = f"arn:aws:kms:{REGION}:123456789012:key/00000000-0000-0000-0000-000000000000"
    pinned = replace(node, settings=node.settings.model_copy(update={"kms_key": arn}))
    with pytest.raises(AwsError, match=r"ebs_kms_key: .* does not exist"):
        work.look_at_key(aws, pinned)


def test_a_dry_client_sends_no_change(node: EbsHost, clients: dict[str, Any]) -> None:
    before = clients["kms"].list_keys()["Keys"]
    dry = Aws(REGION, dry=True, sleep=never)
    assert work.look_at_key(dry, node).steps == [
        KeyStep.CREATE,
        KeyStep.ALIAS,
        KeyStep.ROTATION,
    ]
    with pytest.raises(DryRunError):
        dry.create_alias("alias/a", "b")
    # Also one that forgets to go through the place for changes.
    with pytest.raises(DryRunError, match="CreateKey was asked for in a dry run"):
        dry._call("kms", "create_key")
    assert clients["kms"].list_keys()["Keys"] == before


HOST_STEPS = {Step.STOP, Step.UNMOUNT, Step.RECORD, Step.MOUNT, Step.START}


def test_reencryption(aws: Aws, node: EbsHost, ec2: Any) -> None:
    key = work.settle_key(aws, node, quiet)
    place = node.place("main")
    name = node.settings.instance
    zone = aws.instances([name])[name].zone
    old = ec2.create_volume(AvailabilityZone=zone, Size=8, VolumeType="gp3")["VolumeId"]
    ec2.create_tags(Resources=[old], Tags=[{"Key": k, "Value": v} for k, v in place.tags().items()])
    ec2.attach_volume(VolumeId=old, InstanceId=name, Device="/dev/sdf")
    host = HostState(running=True, mounted=old)

    def look() -> Swap:
        found = swap(
            place,
            key,
            aws.instances([name])[name],
            host,
            aws.volumes(node.cluster)[place],
            work.snapshots_at(aws, place),
            8,
        )
        assert isinstance(found, Swap)
        return found

    taken: list[Step] = []
    new = ""
    while True:
        now = look() if Step.FINISH not in taken else None
        step = next_step(now) if now else None
        if now is None or step is None:
            break
        assert isinstance(step, Step), step
        taken.append(step)
        new = now.new.id if now.new else new
        if step not in HOST_STEPS:
            work.take_swap_step(aws, node, now, step)
        elif step is Step.STOP:
            host = replace(host, running=False)
        elif step is Step.UNMOUNT:
            host = replace(host, mounted="")
        elif step is Step.RECORD:
            host = replace(host, recorded=True)
        elif step is Step.MOUNT:
            host = replace(host, mounted=new)
        else:
            host = replace(host, running=True, in_sync=True)
    assert taken == [step for step in Step if not step.name.startswith("WAIT")]
    disks = {disk.id: disk for disk in aws.volumes(node.cluster)[place]}
    assert disks[old].stage is Stage.REPLACED
    assert disks[old].state == "available"
    assert disks[new].is_under(key)
    assert disks[new].attached_to == (name,)
    plan, _ = work.look_at_volume(aws, node, "main", key)
    assert plan.verified
    assert plan.kept == (old,)

    snapshots = work.snapshots_at(aws, place)
    assert len(snapshots) == 2
    refused = plan_delete(new, key, [name], list(disks.values()), snapshots)
    assert isinstance(refused, Refusal)
    delete = plan_delete(old, key, [name], list(disks.values()), snapshots)
    assert not isinstance(delete, Refusal)
    work.delete_old(aws, delete.volume, delete.snapshots)
    assert [disk.id for disk in aws.volumes(node.cluster)[place]] == [new]
    assert work.snapshots_at(aws, place) == []


def test_tags_of_another_cluster_are_not_ours(aws: Aws, node: EbsHost, ec2: Any) -> None:
    volume = ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=8)["VolumeId"]
    tags = Place("other", "kafka1.test", "main").tags() | {STATE: "current"}
    ec2.create_tags(Resources=[volume], Tags=[{"Key": k, "Value": v} for k, v in tags.items()])
    assert aws.volumes(node.cluster) == {}


def test_the_aws_inventory(
    aws: Aws, node: EbsHost, ec2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [node.settings.instance]
    more = ec2.run_instances(ImageId="ami-00000001", MinCount=6, MaxCount=6)["Instances"]
    ids += [item["InstanceId"] for item in more]
    roles = [(role, number) for role in ("broker", "zookeeper") for number in (1, 2, 3)]
    for name, (role, number) in zip(ids, [*roles, ("broker", 4)], strict=True):
        tags = {CLUSTER: "inv", "strongbox:role": role, "strongbox:number": str(number)}
        ec2.create_tags(Resources=[name], Tags=[{"Key": k, "Value": v} for k, v in tags.items()])
    ec2.terminate_instances(InstanceIds=[ids[6]])
    dns = ec2.describe_instances(InstanceIds=[ids[0]])["Reservations"][0]["Instances"][0]
    host = replace(node, cluster="inv", hostname=dns["PrivateDnsName"])
    key = work.settle_key(aws, host, quiet)
    volume = work.settle_volume(aws, host, "main", key, quiet).id

    monkeypatch.setenv("STRONGBOX_CLUSTER", "inv")
    monkeypatch.setenv("AWS_REGION", REGION)
    made = runpy.run_path(str(PROJECT / "inventories" / "aws.py"))
    hosts = dict(made["brokers"] + made["zookeepers"])
    assert list(hosts) == ["kafka1", "kafka2", "kafka3", "zk1", "zk2", "zk3"]
    # It is a declaration that is right, but for the archives, which are in group_data.
    declared = {
        name: Declared((group,), data | {f"{role}_archive": "x"})
        for group, role in (("brokers", "kafka"), ("zookeepers", "zookeeper"))
        for name, data in made[group]
    }
    cluster = load(declared, ("ssh_hostname", "ssh_user"))
    layout = cluster.nodes["kafka1"].volumes.layout
    assert layout["main"].ebs_volume == volume
    assert layout["main"].device.endswith(volume.replace("-", ""))
    assert layout["data1"].ebs_volume == "vol-00000000000000000"
    assert cluster.nodes["kafka1"].ebs.instance == ids[0]

    monkeypatch.setenv("STRONGBOX_CLUSTER", "absent")
    with pytest.raises(
        SystemExit, match="no running instance has the tag strongbox:cluster=absent"
    ):
        runpy.run_path(str(PROJECT / "inventories" / "aws.py"))
