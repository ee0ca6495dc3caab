"""Answers of AWS that moto does not give, and errors: each is one line with what to do."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError
from botocore.stub import ANY, Stubber

from roles.ebs import work
from roles.ebs.aws import Aws
from roles.ebs.errors import AwsError, explain
from roles.ebs.host import EbsHost
from roles.ebs.model import Place
from roles.ebs.plan import KeyStep, Refusal
from roles.ebs.policy import key_policy
from roles.ebs.settings import EbsSettings, EbsVolume

REGION = "eu-central-1"
ACCOUNT = "123456789012"
ID = "11111111-1111-1111-1111-111111111111"
ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{ID}"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/provisioner"
PLACE = Place("payments", "kafka1.test", "main")
NODE = EbsHost(
    "payments",
    "kafka1.test",
    EbsSettings(
        instance="i-0123456789abcdef0",
        region=REGION,
        volumes={"main": EbsVolume(size_gib=8)},
        key_users=(ROLE,),
        rotation_days=180,
    ),
    {},
    "kafka",
)
ALIAS = "alias/strongbox-payments-ebs"


class Stubs:
    def __init__(self, clients: dict[str, Any]) -> None:
        self._stubs = {name: Stubber(client) for name, client in clients.items()}
        for stub in self._stubs.values():
            stub.activate()
        self.clients = clients
        self.slept = 0.0

    def aws(self, **options: Any) -> Aws:
        return Aws(REGION, dry=False, sleep=self._sleep, clients=self.clients, **options)

    def _sleep(self, seconds: float) -> None:
        self.slept += seconds

    def answer(self, service: str, operation: str, answer: Any, expected: Any = None) -> None:
        self._stubs[service].add_response(operation, answer, expected)

    def fail(self, service: str, operation: str, code: str, message: str = "Said so.") -> None:
        self._stubs[service].add_client_error(operation, code, message)

    def key(self, state: str = "Enabled", rotation: dict[str, Any] | None = None) -> None:
        """Answers everything that is asked about the key."""
        metadata = {
            "KeyId": ID, "Arn": ARN, "KeyState": state, "KeyManager": "CUSTOMER",
            "KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT",
        }  # fmt: skip
        self.answer("kms", "describe_key", {"KeyMetadata": metadata}, {"KeyId": ALIAS})
        tags = [{"TagKey": "strongbox:cluster", "TagValue": "payments"}]
        self.answer("kms", "list_resource_tags", {"Tags": tags})
        if state == "Enabled":
            rotation = rotation or {"KeyRotationEnabled": True, "RotationPeriodInDays": 180}
            self.answer("kms", "get_key_rotation_status", rotation)
            policy = key_policy(ACCOUNT, REGION, (), (ROLE,))
            self.answer("kms", "get_key_policy", {"Policy": json.dumps(policy)})

    def identity(self) -> None:
        arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/provisioner/me"
        self.answer("sts", "get_caller_identity", {"Account": ACCOUNT, "Arn": arn})

    def done(self) -> None:
        for stub in self._stubs.values():
            stub.assert_no_pending_responses()
            stub.deactivate()


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    session = boto3.session.Session("testing", "testing", region_name=REGION)
    return {name: session.client(name) for name in ("ec2", "kms", "sts")}


@pytest.fixture
def stubs(made: dict[str, Any]) -> Iterator[Stubs]:
    stubs = Stubs(made)
    yield stubs
    stubs.done()


def volume(**change: Any) -> dict[str, Any]:
    return {
        "VolumeId": "vol-00000001", "State": "available", "AvailabilityZone": f"{REGION}a",
        "Encrypted": True, "KmsKeyId": ARN, "Size": 8, "VolumeType": "gp3", "Iops": 3000,
        "Throughput": 125, **change,
    }  # fmt: skip


# What moto says otherwise


@pytest.mark.parametrize(
    ("state", "said"),
    [("Disabled", "is disabled"), ("PendingDeletion", "is to be deleted")],
)
def test_a_key_that_is_off(stubs: Stubs, state: str, said: str) -> None:
    stubs.identity()
    stubs.key(state)
    found = work.look_at_key(stubs.aws(), NODE).steps
    assert isinstance(found, Refusal)
    assert said in str(found)


def test_the_rotation_period_is_read(stubs: Stubs) -> None:
    stubs.identity()
    stubs.key(rotation={"KeyRotationEnabled": True, "RotationPeriodInDays": 365})
    assert work.look_at_key(stubs.aws(), NODE).steps == [KeyStep.ROTATION]
    stubs.identity()
    stubs.key()
    assert work.look_at_key(stubs.aws(), NODE).steps == []
    stubs.identity()
    stubs.key(rotation={"KeyRotationEnabled": True})
    assert work.look_at_key(stubs.aws(), NODE).steps == [KeyStep.ROTATION]


def test_a_change_without_effect_ends_the_run(stubs: Stubs) -> None:
    for _ in range(2):
        stubs.identity()
        stubs.key(rotation={"KeyRotationEnabled": False})
        if not _:
            wanted = {"KeyId": ARN, "RotationPeriodInDays": 180}
            stubs.answer("kms", "enable_key_rotation", {}, wanted)
    with pytest.raises(AwsError, match="set the rotation of the KMS key: it was done and has had"):
        work.settle_key(stubs.aws(), NODE, lambda _line: None)


def test_the_accounts_default_key(stubs: Stubs) -> None:
    settings = NODE.settings.model_copy(update={"encryption_by_default": True})
    node = EbsHost(NODE.cluster, NODE.hostname, settings, {}, "kafka")
    answers = [(False, "alias/aws/ebs"), (False, ARN), (True, ARN)]
    for on, key in answers:
        stubs.identity()
        stubs.key()
        stubs.answer("ec2", "get_ebs_encryption_by_default", {"EbsEncryptionByDefault": on})
        stubs.answer("ec2", "get_ebs_default_kms_key_id", {"KmsKeyId": key})
        if key != ARN:
            stubs.answer("ec2", "modify_ebs_default_kms_key_id", {}, {"KmsKeyId": ARN})
        elif not on:
            stubs.answer("ec2", "enable_ebs_encryption_by_default", {})
    assert work.settle_key(stubs.aws(), node, lambda _line: None) == ARN


def test_the_request_for_a_volume(stubs: Stubs) -> None:
    """It is idempotent by its token, and encrypted whatever the account's default is."""
    tokens = []
    for _ in range(2):
        expected = {
            "AvailabilityZone": f"{REGION}a", "Size": 8, "VolumeType": "gp3", "Iops": 3000,
            "Throughput": 125, "Encrypted": True, "KmsKeyId": ARN, "ClientToken": ANY,
            "TagSpecifications": ANY,
        }  # fmt: skip
        stubs.answer("ec2", "create_volume", {"VolumeId": "vol-00000001"}, expected)

    def note(params: dict[str, Any], **_more: Any) -> None:
        tokens.append(params["ClientToken"])

    events = stubs.clients["ec2"].meta.events
    events.register("provide-client-params.ec2.CreateVolume", note)
    for minute in (0, 59):
        wanted = NODE.settings.volumes["main"]
        at = datetime.datetime(2026, 1, 1, 10, minute, tzinfo=datetime.UTC)
        stubs.aws(clock=lambda at=at: at).create_volume(
            PLACE, wanted, ARN, f"{REGION}a", more_tags={}
        )
    events.unregister("provide-client-params.ec2.CreateVolume", note)
    assert len(tokens) == 2
    assert len(set(tokens)) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"KmsKeyId": ""}, "is encrypted under no key, not under"),
        ({"KmsKeyId": ARN.replace("1111-1111", "2222-2222")}, "not under"),
        ({"Encrypted": False, "KmsKeyId": ""}, "is not encrypted, not under"),
        ({"State": "error"}, "went to state error"),
    ],
)
def test_a_volume_that_came_out_otherwise(stubs: Stubs, change: dict[str, Any], said: str) -> None:
    stubs.answer("ec2", "describe_volumes", {"Volumes": [volume(**change)]})
    with pytest.raises(AwsError, match=said):
        stubs.aws().wait_volume("vol-00000001", "available", ARN)


def test_a_volume_that_vanishes(stubs: Stubs) -> None:
    """A key that EC2 cannot use: the request was accepted."""
    stubs.answer("ec2", "describe_volumes", {"Volumes": []})
    stubs.answer("ec2", "describe_volumes", {"Volumes": [volume(State="creating")]})
    stubs.answer("ec2", "describe_volumes", {"Volumes": []})
    with pytest.raises(AwsError, match=r"accepted and then given up.*KMS key"):
        stubs.aws().wait_volume("vol-00000001", "available", ARN)


def test_a_volume_is_waited_for_and_no_longer_than_told(stubs: Stubs) -> None:
    for state in ("creating", "creating", "available"):
        stubs.answer("ec2", "describe_volumes", {"Volumes": [volume(State=state)]})
    assert stubs.aws(wait_s=60).wait_volume("vol-00000001", "available", ARN).is_under(ARN)
    attachment = {"InstanceId": "i-1", "State": "attaching"}
    for _ in range(3):
        item = volume(State="in-use", Attachments=[attachment])
        stubs.answer("ec2", "describe_volumes", {"Volumes": [item]})
    with pytest.raises(AwsError, match="did not become in-use within 6 s, it is in-use"):
        stubs.aws(wait_s=6).wait_volume("vol-00000001", "in-use", ARN)


def test_a_snapshot_that_fails_or_takes_too_long(stubs: Stubs) -> None:
    def answer(state: str) -> None:
        item = {"SnapshotId": "snap-1", "State": state, "Encrypted": False, "Progress": "7%"}
        stubs.answer("ec2", "describe_snapshots", {"Snapshots": [item]})

    answer("error")
    with pytest.raises(AwsError, match="snap-1 failed"):
        stubs.aws().wait_snapshot("snap-1", 60)
    for _ in range(2):
        answer("pending")
    with pytest.raises(AwsError, match=r"is not complete after 3 s \(7%\)"):
        stubs.aws().wait_snapshot("snap-1", 3)


# Errors


@pytest.mark.parametrize(
    ("service", "operation", "code", "said"),
    [
        ("ec2", "create_volume", "UnauthorizedOperation", "was denied: allow it"),
        ("ec2", "create_volume", "VolumeLimitExceeded", "a quota is used up"),
        ("ec2", "create_volume", "MaxIOPSLimitExceeded", "a quota is used up"),
        ("ec2", "create_volume", "IdempotentParameterMismatch", "run again in an hour"),
        ("ec2", "create_volume", "InsufficientVolumeCapacity", "run again later"),
        ("ec2", "attach_volume", "VolumeInUse", "something is attached to it"),
        ("ec2", "attach_volume", "IncorrectState", "correct it, then run again"),
        ("ec2", "create_snapshot", "SnapshotCreationPerVolumeRateExceeded", "too many requests"),
        ("ec2", "attach_volume", "InvalidVolume.NotFound", "it is gone"),
        ("kms", "create_key", "AccessDeniedException", "in the key's policy"),
        ("kms", "create_key", "MalformedPolicyDocumentException", "ebs_key_users exist"),
        ("kms", "create_key", "LimitExceededException", "a quota is used up"),
        ("kms", "create_alias", "AlreadyExistsException", "something else has that name"),
        ("kms", "enable_key_rotation", "DisabledException", "the key is disabled"),
        ("kms", "enable_key_rotation", "KMSInvalidStateException", "the key's state does not"),
        ("kms", "put_key_policy", "KMSInternalException", "KMS is not well"),
        ("kms", "put_key_policy", "DependencyTimeoutException", "KMS is not well"),
        ("kms", "put_key_policy", "ThrottlingException", "run again later"),
        ("kms", "put_key_policy", "NotFoundException", "there is no such key"),
        ("kms", "create_key", "ExpiredTokenException", "the credentials are not accepted"),
        ("kms", "create_key", "UnrecognizedClientException", "the credentials are not accepted"),
    ],
)
def test_errors_are_one_line(
    stubs: Stubs, service: str, operation: str, code: str, said: str
) -> None:
    stubs.fail(service, operation, code, "Said so.\nCANARY-second-line")
    aws = stubs.aws()
    wanted = NODE.settings.volumes["main"]
    acts = {
        "create_volume": lambda: aws.create_volume(PLACE, wanted, ARN, "a", more_tags={}),
        "attach_volume": lambda: aws.attach("vol-1", "i-1", "/dev/sdf"),
        "create_snapshot": lambda: aws.create_snapshot(PLACE, "vol-1"),
        "create_key": lambda: aws.create_key("payments", {}, {}),
        "create_alias": lambda: aws.create_alias(ALIAS, ARN),
        "enable_key_rotation": lambda: aws.rotate_every(ARN, 180),
        "put_key_policy": lambda: aws.put_policy(ARN, {}),
    }
    with pytest.raises(AwsError) as caught:
        acts[operation]()
    message = str(caught.value)
    assert said in message
    assert operation in message
    assert "\n" not in message
    assert "CANARY" not in message


def test_a_profile_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(AwsError, match=r"sts get_caller_identity: .*profile \(absent\)"):
        Aws(REGION, dry=True).identity()


def test_errors_without_an_answer() -> None:
    said = explain("ec2 describe_volumes", NoCredentialsError())
    assert said == (
        "AWS: ec2 describe_volumes: no credentials were found: set AWS_PROFILE, or run where an "
        "instance role is"
    )
    away = EndpointConnectionError(endpoint_url="https://ec2.eu-central-1.amazonaws.com/")
    assert "Could not connect" in explain("ec2 describe_volumes", away)


def test_a_key_whose_tags_may_not_be_read_is_none_of_ours(stubs: Stubs) -> None:
    stubs.answer("kms", "list_keys", {"Keys": [{"KeyId": ID, "KeyArn": ARN}]})
    stubs.fail("kms", "list_resource_tags", "AccessDeniedException")
    assert stubs.aws().keys_of("payments") == ()
    stubs.answer("kms", "list_keys", {"Keys": [{"KeyId": ID, "KeyArn": ARN}]})
    stubs.fail("kms", "list_resource_tags", "KMSInternalException")
    with pytest.raises(AwsError, match="KMS is not well"):
        stubs.aws().keys_of("payments")
