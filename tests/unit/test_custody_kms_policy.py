from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from moto import mock_aws

from roles.custody import kms_policy
from roles.custody.kms_policy import Principals
from roles.custody.protocol import KeyContext

ACCOUNT = "arn:aws:iam::123456789012"
ADMIN, CONTROLLER = f"{ACCOUNT}:role/admin", f"{ACCOUNT}:role/controller"
HOSTS = {f"kafka{number}.test": f"{ACCOUNT}:role/kafka{number}" for number in (1, 2)}
ARN = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"
USE = ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:ReEncryptTo"]
POLICY = kms_policy.key_policy(ARN, "payments", Principals(ADMIN, CONTROLLER, HOSTS))


def allowed(
    policy: dict[str, Any], principal: str, action: str, context: KeyContext | None = None
) -> bool:
    """As AWS decides: what is denied is denied, the rest is allowed when something allows it."""
    given = {
        f"kms:EncryptionContext:{k}": v for k, v in (context.as_dict() if context else {}).items()
    }
    effects = set()
    for statement in policy["Statement"]:
        who = statement.get("Principal", {"AWS": principal})["AWS"]
        conditions = statement.get("Condition", {})
        if (
            who in ("*", principal)
            and any(fnmatchcase(action, pattern) for pattern in statement["Action"])
            and all(given.get(k) == v for k, v in conditions.get("StringEquals", {}).items())
            and all((k in given) != (v == "true") for k, v in conditions.get("Null", {}).items())
        ):
            effects.add(statement["Effect"])
    return effects == {"Allow"}


def context(**changed: str) -> KeyContext:
    values = {"cluster": "payments", "host": "kafka1.test", "volume": "main", "purpose": "volume"}
    return KeyContext(**(values | changed))


def test_administrators_use_the_key_for_nothing() -> None:
    for principal in (ADMIN, f"{ACCOUNT}:root"):
        assert allowed(POLICY, principal, "kms:PutKeyPolicy")
        assert allowed(POLICY, principal, "kms:CancelKeyDeletion")
        for action in (*USE, "kms:CreateGrant", "kms:GenerateDataKeyWithoutPlaintext"):
            assert not allowed(POLICY, principal, action, context())


@pytest.mark.parametrize("policy", [POLICY, kms_policy.controller_policy(ARN, "payments")])
def test_controller_uses_it_for_its_cluster_only(policy: dict[str, Any]) -> None:
    assert allowed(policy, CONTROLLER, "kms:DescribeKey")
    for action in USE:
        for purpose in ("volume", "recovery", "header"):
            assert allowed(policy, CONTROLLER, action, context(purpose=purpose))
        assert not allowed(policy, CONTROLLER, action, context(cluster="orders"))
        assert not allowed(policy, CONTROLLER, action)
    for action in ("kms:PutKeyPolicy", "kms:ScheduleKeyDeletion", "kms:CreateGrant"):
        assert not allowed(policy, CONTROLLER, action, context())


@pytest.mark.parametrize("policy", [POLICY, kms_policy.host_policy(ARN, "payments", "kafka1.test")])
def test_host_unwraps_its_own_volume_keys_only(policy: dict[str, Any]) -> None:
    role = HOSTS["kafka1.test"]
    assert allowed(policy, role, "kms:Decrypt", context())
    assert allowed(policy, role, "kms:Decrypt", context(volume="data1"))
    for other in (
        context(host="kafka2.test"),
        context(cluster="orders"),
        context(purpose="recovery"),
        context(purpose="header"),
        None,
    ):
        assert not allowed(policy, role, "kms:Decrypt", other)
    for action in (*USE[1:], "kms:DescribeKey", "kms:CreateGrant", "kms:PutKeyPolicy"):
        assert not allowed(policy, role, action, context())


def test_strangers_may_do_nothing() -> None:
    for action in (*USE, "kms:DescribeKey", "kms:PutKeyPolicy"):
        assert not allowed(POLICY, f"{ACCOUNT}:role/other", action, context())


def test_kms_takes_it() -> None:
    import json

    import boto3

    with mock_aws():
        kms = boto3.client("kms", region_name="eu-central-1")
        arn = kms.create_key(Policy=json.dumps(POLICY))["KeyMetadata"]["Arn"]
        stored = kms.get_key_policy(KeyId=arn, PolicyName="default")["Policy"]
    assert json.loads(stored) == POLICY
    assert len(json.dumps(POLICY)) < 32 * 1024
    assert len({statement["Sid"] for statement in POLICY["Statement"]}) == len(POLICY["Statement"])
    assert all(statement["Sid"].isalnum() for statement in POLICY["Statement"])
