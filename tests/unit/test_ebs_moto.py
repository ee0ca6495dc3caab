"""Key and volumes made, verified, refused and re-encrypted against moto, in this process."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from roles.ebs import work
from roles.ebs.aws import Aws
from roles.ebs.errors import AwsError, DryRunError
from roles.ebs.host import EbsHost
from roles.ebs.model import CLUSTER, STATE, Place, Stage
from roles.ebs.plan import KeyStep, Refusal, free_device
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


class Killed(Exception):
    pass


class MortalAws(Aws):
    """The run that uses it is killed once, right after AWS has got its Nth change."""

    changes = 0
    last = 0

    def _change(self, service: str, operation: str, **arguments: Any) -> Any:
        answer = super()._change(service, operation, **arguments)
        self.changes += 1
        if self.changes == self.last:
            raise Killed(operation)
        return answer


def mortal(clients: dict[str, Any], last: int) -> MortalAws:
    made = MortalAws(REGION, dry=False, wait_s=10, sleep=never, clients=clients)
    made.last = last
    return made


def until_it_lives(act: Callable[[], str]) -> str:
    try:
        return act()
    except Killed:
        return act()


def test_killed_after_each_change_no_second_key_or_volume_is_made(
    clients: dict[str, Any], node: EbsHost
) -> None:
    kms = clients["kms"]
    for last in range(1, 6):
        aws = mortal(clients, last)
        host = replace(node, cluster=f"killed-{last}")
        before = len(kms.list_keys()["Keys"])
        key = until_it_lives(partial(work.settle_key, aws, host, quiet))
        until_it_lives(lambda aws=aws, host=host, key=key: work.settle_volume(
            aws, host, "main", key, quiet).id)  # fmt: skip
        assert aws.changes == 5
        assert len(kms.list_keys()["Keys"]) == before + 1
        (disk,) = aws.volumes(host.cluster)[host.place("main")]
        assert disk.is_under(key)
        assert disk.attached_to == (node.settings.instance,)


def unencrypted(aws: Aws, node: EbsHost, ec2: Any) -> str:
    """Id of a volume with the host's tags that is attached and not encrypted."""
    name, tags = node.settings.instance, node.place("main").tags()
    instance = aws.instances([name])[name]
    made = ec2.create_volume(AvailabilityZone=instance.zone, Size=8, VolumeType="gp3")["VolumeId"]
    ec2.create_tags(Resources=[made], Tags=[{"Key": k, "Value": v} for k, v in tags.items()])
    device = free_device(instance.devices)
    ec2.attach_volume(VolumeId=made, InstanceId=name, Device=device)
    return str(made)


def exchange(aws: Aws, node: EbsHost, key: str, old: str) -> list[Step]:
    """What the deploy does, with a host that does as it is told."""
    place, name = node.place("main"), node.settings.instance
    host = HostState(running=True, mounted=old)
    taken: list[Step] = []
    while True:
        now = swap(
            place,
            key,
            aws.instances([name])[name],
            host,
            aws.volumes(node.cluster)[place],
            work.snapshots_at(aws, place),
            8,
        )
        step = next_step(now) if isinstance(now, Swap) else None
        if step is None:
            assert now is None
            return taken
        assert isinstance(step, Step), step
        assert isinstance(now, Swap)
        taken.append(step)
        if step not in HOST_STEPS:
            with suppress(Killed):
                work.take_swap_step(aws, node, now, step)
        elif step is Step.STOP:
            host = replace(host, running=False)
        elif step is Step.UNMOUNT:
            host = replace(host, mounted="")
        elif step is Step.RECORD:
            host = replace(host, recorded=True)
        elif step is Step.MOUNT:
            assert now.new
            host = replace(host, mounted=now.new.id)
        else:
            host = replace(host, running=True, in_sync=True)


PLAIN = [step for step in Step if not step.name.startswith("WAIT")]


def test_a_reencryption_killed_after_each_change(clients: dict[str, Any], node: EbsHost) -> None:
    key = work.settle_key(mortal(clients, 0), node, quiet)
    for last in range(1, 9):
        aws, host = mortal(clients, last), replace(node, cluster=f"moved-{last}")
        old = unencrypted(aws, host, clients["ec2"])
        assert exchange(aws, host, key, old) == PLAIN
        assert aws.changes == 8
        disks = {disk.stage: disk for disk in aws.volumes(host.cluster)[host.place("main")]}
        assert set(disks) == {Stage.REPLACED, Stage.CURRENT}
        assert disks[Stage.REPLACED].id == old
        assert disks[Stage.CURRENT].is_under(key)
        assert len(work.snapshots_at(aws, host.place("main"))) == 2
        # There are only so many names for attachments.
        aws.detach(disks[Stage.CURRENT].id, node.settings.instance, disks[Stage.CURRENT].device)


def test_reencryption(aws: Aws, node: EbsHost, ec2: Any) -> None:
    key = work.settle_key(aws, node, quiet)
    place, name = node.place("main"), node.settings.instance
    old = unencrypted(aws, node, ec2)
    assert exchange(aws, node, key, old) == PLAIN
    (new,) = [disk.id for disk in aws.volumes(node.cluster)[place] if disk.id != old]
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
