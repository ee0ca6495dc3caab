from __future__ import annotations

from typing import Any

import pytest

from roles.common.settings import SettingsError
from roles.ebs import discover
from roles.ebs.discover import TaggedInstance
from roles.ebs.errors import AwsError
from roles.ebs.settings import EbsSettings, problems
from tests.unit.test_ebs_plan import ACCOUNT, ARN, DISK, ROLE

GOOD: dict[str, Any] = {
    "ebs_instance": "i-0123456789abcdef0",
    "ebs_region": "eu-central-1",
    "ebs_volumes": {"main": {"size_gib": 50}},
    "ebs_key_users": [ROLE],
}


def test_a_host_elsewhere_needs_none_of_it() -> None:
    assert EbsSettings.load({"kafka_heap": "1g"}) == EbsSettings()


def test_defaults() -> None:
    settings = EbsSettings.load(GOOD)
    assert settings.alias("payments") == "alias/strongbox-payments-ebs"
    assert (settings.rotation_days, settings.encryption_by_default) == (365, False)
    volume = settings.volumes["main"]
    assert (volume.type, volume.iops, volume.throughput_mib) == ("gp3", 3000, 125)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ebs_instance": "kafka1"}, "must be the id of an EC2 instance"),
        ({"ebs_region": ""}, "set both or neither"),
        ({"ebs_region": "Frankfurt"}, "must be a region such as"),
        ({"ebs_volumes": {}}, "the instance has no volume declared"),
        ({"ebs_instance": "", "ebs_region": ""}, "needs ebs_instance and ebs_region"),
        ({"ebs_volumes": {"Data": {"size_gib": 1}}}, "'Data' is not 1-16 of"),
        ({"ebs_volumes": {"main": {"size_gib": 0}}}, "greater than or equal to 1"),
        ({"ebs_volumes": {"main": {"size_gib": 1, "type": "gp2"}}}, "'gp3' or 'io2'"),
        ({"ebs_volumes": {"main": {"size_gib": 1, "iops": 100}}}, "iops of gp3 are 3000"),
        ({"ebs_volumes": {"main": {"size_gib": 1, "iosp": 1}}}, "Extra inputs"),
        ({"ebs_kms_alias": "strongbox"}, "ebs_kms_alias: must be alias/NAME"),
        ({"ebs_kms_alias": "alias/aws/ebs"}, "not one of AWS's own"),
        ({"ebs_kms_key": "alias/x"}, "ebs_kms_key: must be a key's ARN"),
        ({"ebs_kms_key": ARN.replace("eu-central-1", "eu-west-1")}, "is a key in eu-west-1"),
        ({"ebs_rotation_days": 30}, "90 to 2560"),
        ({"ebs_rotation_days": 2561}, "less than or equal to 2560"),
        ({"ebs_key_users": ["*"]}, "ebs_key_users: must be ARNs of IAM roles"),
        ({"ebs_key_users": [f"arn:aws:iam::{ACCOUNT}:root"]}, "must be ARNs of IAM roles"),
        ({"ebs_key_administrators": ["admin"]}, "ebs_key_administrators: must be ARNs"),
        ({"ebs_tags": {"strongbox:state": "x"}}, "have their own meaning"),
        ({"ebs_tags": {"aws:x": "x"}}, "have their own meaning"),
        ({"ebs_delete_old": "all"}, "must be the id of a volume"),
        ({"ebs_rotation": 1}, "unknown setting 'ebs_rotation': did you mean"),
    ],
)
def test_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match="kafka1: ") as caught:
        EbsSettings.load(GOOD | change, "kafka1")
    assert said in str(caught.value)


def load(**change: Any) -> EbsSettings:
    return EbsSettings.load(GOOD | change)


def test_hosts_must_agree() -> None:
    one = load()
    other = load(ebs_instance="i-00000001", ebs_rotation_days=180, ebs_tags={"a": "b"})
    elsewhere = EbsSettings()
    assert problems({"a": one, "b": other, "c": elsewhere}, "") == [
        "ebs_rotation_days differs between hosts: set it for all of them",
        "ebs_tags differs between hosts: set it for all of them",
    ]
    assert problems({"a": one, "b": one}, "") == ["ebs_instance: a and b have i-0123456789abcdef0"]
    assert "are one key" in problems({"a": load(ebs_kms_key=ARN)}, ARN)[0]
    assert problems({"c": elsewhere}, ARN) == []


def tagged(name: str, role: str = "broker", number: str = "1") -> TaggedInstance:
    tags = {"strongbox:role": role, "strongbox:number": number}
    return TaggedInstance(name, tags, "10.0.0.1", "ip-10-0-0-1.internal")


def test_hosts_by_tags() -> None:
    found = discover.hosts("payments", [tagged("i-2", number="10"), tagged("i-1", "zookeeper")])
    assert [(host.name, host.number, host.instance) for host in found] == [
        ("kafka10", 10, "i-2"),
        ("zk1", 1, "i-1"),
    ]


@pytest.mark.parametrize(
    ("instances", "said"),
    [
        ([], "no running instance has the tag strongbox:cluster=payments"),
        ([tagged("i-1", role="kafka")], "i-1: its tags strongbox:role='kafka'"),
        ([tagged("i-1", number="one")], "strongbox:number='one' must be"),
        ([tagged("i-1"), tagged("i-2", number="01")], "i-1 and i-2 are both kafka1"),
    ],
)
def test_hosts_that_are_tagged_wrongly(instances: list[TaggedInstance], said: str) -> None:
    with pytest.raises(AwsError) as caught:
        discover.hosts("payments", instances)
    assert said in str(caught.value)


def test_which_volume_is_in_place() -> None:
    from dataclasses import replace

    from roles.ebs.model import Stage

    old = replace(DISK, id="vol-00000001", stage=Stage.REPLACED)
    new = replace(DISK, id="vol-00000002")
    assert discover.present([]) is discover.present([old]) is None
    assert discover.present([old, replace(new, stage=Stage.COPY)]) == new.id
    assert discover.present([old, replace(new, stage=Stage.SWAPPED)]) == new.id
    assert discover.present([replace(old, stage=Stage.CURRENT), replace(new, stage=Stage.COPY)]) \
        == old.id  # fmt: skip
    tagged = {"main": [old, new], "data1": [], "data2": []}
    found = discover.layout(
        {"main": 100, "data1": 1, "data2": 1}, tagged.__getitem__, filesystem="ext4"
    )
    assert found["main"] == {
        "device": "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol00000002",
        "ebs_volume": new.id,
        "encryption": "ebs",
        "min_gib": 99.0,
        "max_gib": 101.0,
        "filesystem": "ext4",
    }
    # Those that are yet to be made are told apart.
    assert found["data1"]["ebs_volume"] == "vol-00000000000000000"
    assert found["data2"]["ebs_volume"] == "vol-00000000000000001"
