"""What is refused, and that nothing but what is missing is ever made."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.ebs.model import EbsDisk, Instance, Key, Place, Stage, client_token, device_link
from roles.ebs.plan import (
    KeysSeen,
    KeyStep,
    KeyWanted,
    NvmeDisk,
    Refusal,
    VolumePlan,
    VolumeStep,
    declared_device_problem,
    free_device,
    plan_key,
    plan_volume,
    resolve,
    verified_file,
)
from roles.ebs.policy import MANAGE, USE, key_policy, same
from roles.ebs.settings import EbsVolume
from tests.examples import examples

ACCOUNT = "123456789012"
ARN = f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/11111111-1111-1111-1111-111111111111"
OTHER_ARN = ARN.replace("1111-1111", "2222-2222")
ROLE = f"arn:aws:iam::{ACCOUNT}:role/provisioner"
PLACE = Place("payments", "kafka1.test", "main")
WANTED = EbsVolume(size_gib=100)
INSTANCE = Instance("i-0123456789abcdef0", "running", "eu-central-1a", ("/dev/xvda",))
POLICY = key_policy(ACCOUNT, "eu-central-1", (), (ROLE,))
KEY = KeyWanted("alias/strongbox-payments-ebs", "", 365, POLICY, (ROLE,))
GOOD = Key(ARN, rotation_days=365, policy=POLICY)
DISK = EbsDisk(
    "vol-0123456789abcdef0", "in-use", "eu-central-1a", True, ARN, 100, "gp3", 3000, 125,
    (INSTANCE.id,), "attached", "/dev/sdf",
)  # fmt: skip


def plan(*tagged: EbsDisk, key: str | None = ARN, instance: Instance | None = INSTANCE) -> object:
    return plan_volume(PLACE, WANTED, key, instance, INSTANCE.id, tagged)


def test_a_right_volume_is_verified_and_left() -> None:
    assert plan(DISK) == VolumePlan((), DISK, True)


def test_a_missing_volume_is_made() -> None:
    found = plan()
    assert isinstance(found, VolumePlan)
    assert found.steps == (VolumeStep.CREATE, VolumeStep.ATTACH)
    assert not found.verified


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({"state": "available", "attached_to": (), "attachment": ""}, (VolumeStep.ATTACH,)),
        (
            {"state": "creating", "attached_to": (), "attachment": ""},
            (VolumeStep.WAIT, VolumeStep.ATTACH),
        ),
        ({"attachment": "attaching"}, (VolumeStep.WAIT,)),
    ],
)
def test_an_unfinished_run_goes_on(
    change: dict[str, object], steps: tuple[VolumeStep, ...]
) -> None:
    found = plan(replace(DISK, **change))  # type: ignore[arg-type]
    assert isinstance(found, VolumePlan)
    assert (found.steps, found.verified) == (steps, False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encrypted": False, "key": ""}, "is not encrypted"),
        ({"key": OTHER_ARN}, f"is encrypted under {OTHER_ARN}, not under {ARN}"),
        ({"key": ""}, "under a key that AWS does not name"),
        ({"attached_to": ("i-0000000000000000f",)}, "is attached to i-0000000000000000f"),
        ({"attached_to": (INSTANCE.id, "i-0000000000000000f")}, "is attached to"),
        ({"zone": "eu-central-1b"}, "is in eu-central-1b"),
        ({"state": "error"}, "is in state error"),
        ({"state": "deleting"}, "is deleting"),
        ({"size_gib": 50}, "size_gib is 50, declared 100"),
        ({"type": "gp2"}, "type is gp2, declared gp3"),
        ({"stage": Stage.COPY}, "a re-encryption is not finished"),
        ({"stage": Stage.SWAPPED}, "a re-encryption is not finished"),
        ({"stage": None}, "a re-encryption is not finished"),
        ({"stage": Stage.REPLACED}, "is marked as replaced and what replaced it is gone"),
    ],
)
def test_refused_by_name(change: dict[str, object], said: str) -> None:
    found = plan(replace(DISK, **change))  # type: ignore[arg-type]
    assert isinstance(found, Refusal)
    assert said in str(found)
    assert DISK.id in str(found)
    assert "\n" not in str(found)


def test_other_refusals() -> None:
    twin = replace(DISK, id="vol-0fedcba9876543210")
    assert f"{DISK.id}, {twin.id} all have its tags" in str(plan(DISK, twin))
    assert "there is no i-0123456789abcdef0" in str(plan(DISK, instance=None))
    assert "is terminated" in str(plan(instance=replace(INSTANCE, state="terminated")))
    assert "the KMS key, which is yet to be made" in str(plan(DISK, key=None))


disks = st.builds(
    EbsDisk,
    id=st.sampled_from(["vol-00000001", "vol-00000002", "vol-00000003"]),
    state=st.sampled_from(["creating", "available", "in-use", "deleting", "deleted", "error"]),
    zone=st.sampled_from(["eu-central-1a", "eu-central-1b"]),
    encrypted=st.booleans(),
    key=st.sampled_from(["", ARN, OTHER_ARN]),
    size_gib=st.sampled_from([100, 100, 50]),
    type=st.just("gp3"),
    iops=st.just(3000),
    throughput_mib=st.just(125),
    attached_to=st.sampled_from([(), (INSTANCE.id,), ("i-0000000f",), (INSTANCE.id, "i-0000000f")]),
    attachment=st.sampled_from(["", "attached", "attaching", "detaching"]),
    stage=st.sampled_from([*Stage, Stage.CURRENT, None]),
)


@examples(200)
@given(st.lists(disks, max_size=3), st.sampled_from([ARN, None]))
def test_whatever_there_is(tagged: list[EbsDisk], key: str | None) -> None:
    found = plan(*tagged, key=key)
    if isinstance(found, Refusal):
        assert str(found).count("\n") == 0
        return
    assert isinstance(found, VolumePlan)
    # A new volume only where none has these tags, in whatever state.
    assert (VolumeStep.CREATE in found.steps) == (not tagged) == (found.disk is None)
    if found.disk is not None:
        assert found.disk in tagged
        assert found.disk.stage is Stage.CURRENT
        assert found.disk.encrypted
        assert found.disk.key == key is not None
        assert set(found.disk.attached_to) <= {INSTANCE.id}
        assert sum(disk.stage is Stage.CURRENT for disk in tagged) == 1
    if VolumeStep.ATTACH in found.steps and found.disk:
        assert found.disk.state in ("available", "creating")
    if found.verified:
        assert found.disk is not None
        assert (found.disk.state, found.disk.attachment) == ("in-use", "attached")


# The key


def test_a_key_is_made_in_order_and_kept() -> None:
    made = [KeyStep.CREATE, KeyStep.ALIAS, KeyStep.ROTATION]
    assert plan_key(KEY, KeysSeen(None)) == made
    assert plan_key(KEY, KeysSeen(None, (GOOD,))) == [KeyStep.ALIAS]
    assert plan_key(KEY, KeysSeen(GOOD)) == []
    assert plan_key(replace(KEY, rotation_days=0), KeysSeen(None)) == made[:2]


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({"rotation_days": None}, [KeyStep.ROTATION]),
        ({"rotation_days": 90}, [KeyStep.ROTATION]),
        ({"policy": {}}, [KeyStep.POLICY]),
        ({"policy": {}, "ours": False}, []),
        ({"rotation_days": 90, "ours": False}, []),
    ],
)
def test_a_key_is_brought_in_line(change: dict[str, object], steps: list[KeyStep]) -> None:
    assert plan_key(KEY, KeysSeen(replace(GOOD, **change))) == steps  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": "Disabled"}, "is disabled"),
        ({"state": "PendingDeletion"}, "is to be deleted"),
        ({"state": "PendingImport"}, "is in state PendingImport"),
        ({"manager": "AWS"}, "is AWS's own key"),
        ({"spec": "RSA_4096"}, "EBS needs a symmetric one"),
        ({"usage": "GENERATE_VERIFY_MAC"}, "EBS needs a symmetric one"),
        ({"ours": False, "rotation_days": None}, "does not rotate"),
    ],
)
def test_a_key_that_cannot_be_used(change: dict[str, object], said: str) -> None:
    found = plan_key(KEY, KeysSeen(replace(GOOD, **change)))  # type: ignore[arg-type]
    assert isinstance(found, Refusal)
    assert said in str(found)


def test_which_key_is_meant_must_be_plain() -> None:
    other = replace(GOOD, arn=OTHER_ARN)
    pinned = replace(KEY, pinned=ARN)
    assert "names" in str(plan_key(pinned, KeysSeen(other, by_pin=GOOD)))
    assert plan_key(pinned, KeysSeen(None, by_pin=GOOD)) == [KeyStep.ALIAS]
    assert plan_key(pinned, KeysSeen(None, by_pin=replace(GOOD, ours=False))) == []
    assert "2 keys have this" in str(plan_key(KEY, KeysSeen(None, (GOOD, other))))


def test_nobody_to_use_the_key() -> None:
    nobody = replace(KEY, users=())
    assert "ebs_key_users" in str(plan_key(nobody, KeysSeen(None)))
    assert "ebs_key_users" in str(plan_key(nobody, KeysSeen(replace(GOOD, policy={}))))


def test_the_accounts_default_is_changed_only_when_asked_for() -> None:
    asked = replace(KEY, account_default=True)
    off = KeysSeen(GOOD, default_on=False, default_key="alias/aws/ebs")
    assert plan_key(KEY, off) == []
    assert plan_key(asked, off) == [KeyStep.DEFAULT_KEY, KeyStep.DEFAULT_ON]
    assert plan_key(asked, KeysSeen(GOOD, default_on=True, default_key=ARN)) == []


def test_the_policy_lets_nobody_both_manage_and_use() -> None:
    policy = key_policy(ACCOUNT, "eu-central-1", (ROLE + "-admin",), (ROLE,))
    for statement in policy["Statement"]:
        actions = statement["Action"]
        actions = {actions} if isinstance(actions, str) else set(actions)
        assert not any("*" in action for action in actions)
        if ROLE + "-admin" in statement["Principal"]["AWS"]:
            assert not actions & {*USE, "kms:CreateGrant"} - {"kms:DescribeKey"}
        if "kms:Decrypt" in actions or "kms:CreateGrant" in actions:
            assert statement["Condition"]["StringEquals"] == {
                "kms:CallerAccount": ACCOUNT,
                "kms:ViaService": "ec2.eu-central-1.amazonaws.com",
            }
        if "kms:CreateGrant" in actions:
            assert statement["Condition"]["Bool"] == {"kms:GrantIsForAWSResource": "true"}
    assert "kms:CreateGrant" not in MANAGE


def test_policies_are_compared_by_what_they_say() -> None:
    one = {"Statement": [{"Action": ["b", "a"], "Principal": {"AWS": ["x"]}}]}
    assert same(one, {"Statement": {"Principal": {"AWS": "x"}, "Action": ["a", "b"]}})
    assert not same(one, {"Statement": [{"Action": ["a"], "Principal": {"AWS": "x"}}]})


# The host


EBS = "Amazon Elastic Block Store"
STORE = "Amazon EC2 NVMe Instance Storage"


def test_the_disk_is_found_by_its_serial() -> None:
    right = NvmeDisk("nvme2n1", "vol0123456789abcdef0", EBS)
    others = [NvmeDisk("nvme0n1", "vol0fedcba9876543210", EBS), NvmeDisk("nvme1n1", "AWS12", STORE)]
    assert resolve(PLACE, DISK.id, [*others, right]) == "nvme2n1"
    assert "no NVMe disk with the serial" in str(resolve(PLACE, DISK.id, others))
    twice = [right, replace(right, name="nvme3n1")]
    assert "nvme2n1, nvme3n1 all have" in str(resolve(PLACE, DISK.id, twice))
    disguised = replace(right, model=STORE)
    assert "not an EBS volume" in str(resolve(PLACE, DISK.id, [disguised]))


def test_names() -> None:
    assert device_link(DISK.id) == (
        "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"
    )
    assert declared_device_problem(PLACE, DISK.id, device_link(DISK.id)) == ""
    assert DISK.id in declared_device_problem(PLACE, DISK.id, device_link("vol-00000000"))
    assert free_device(["/dev/xvda", "/dev/xvdf", "/dev/sdg"]) == "/dev/sdh"
    assert free_device([f"/dev/sd{letter}" for letter in "fghijklmnop"]) is None
    assert verified_file({"vol-2": "b", "vol-1": "a"}) == b"vol-1 a\nvol-2 b\n"


def test_the_token_is_the_same_for_the_same_volume_only() -> None:
    now = datetime.datetime(2026, 1, 1, 10, 59, tzinfo=datetime.UTC)
    token = client_token(PLACE, "a", WANTED, now)
    assert len(token) <= 64
    assert token == client_token(PLACE, "a", WANTED, now.replace(minute=0))
    different = [
        client_token(replace(PLACE, volume="data1"), "a", WANTED, now),
        client_token(PLACE, "b", WANTED, now),
        client_token(PLACE, "a", EbsVolume(size_gib=101), now),
        client_token(PLACE, "a", WANTED, now.replace(hour=11)),
    ]
    assert len({token, *different}) == 5
