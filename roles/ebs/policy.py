"""The policy of the KMS key: who may change it, and who may use it through EC2 alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

# Enumerated, as kms:Create* would hold kms:CreateGrant, by which an administrator could let anyone
# decrypt.
MANAGE = [
    "kms:CancelKeyDeletion",
    "kms:CreateAlias",
    "kms:DeleteAlias",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:DisableKeyRotation",
    "kms:EnableKey",
    "kms:EnableKeyRotation",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListKeyRotations",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:RetireGrant",
    "kms:RevokeGrant",
    "kms:RotateKeyOnDemand",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateAlias",
    "kms:UpdateKeyDescription",
]
USE = [
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
]


def key_policy(
    account: str,
    region: str,
    administrators: Sequence[str],
    users: Sequence[str],
    partition: str = "aws",
) -> dict[str, Any]:
    """
    The account's IAM may manage the key, so it cannot be locked out, and cannot use it. Users may
    use it only in requests that EC2 makes for them in this account and region, and make grants only
    for AWS's own resources: EBS needs one for as long as a volume is attached.
    """
    through_ec2 = {
        "StringEquals": {
            "kms:CallerAccount": account,
            "kms:ViaService": f"ec2.{region}.{_suffix(partition)}",
        }
    }
    managers = [f"arn:{partition}:iam::{account}:root", *administrators]
    statements: list[dict[str, Any]] = [
        {
            "Sid": "ManageWithoutUse",
            "Effect": "Allow",
            "Principal": {"AWS": managers},
            "Action": MANAGE,
            "Resource": "*",
        }
    ]
    if users:
        statements += [
            {
                "Sid": "UseThroughEc2",
                "Effect": "Allow",
                "Principal": {"AWS": list(users)},
                "Action": USE,
                "Resource": "*",
                "Condition": through_ec2,
            },
            {
                "Sid": "GrantToAttachedVolumes",
                "Effect": "Allow",
                "Principal": {"AWS": list(users)},
                "Action": "kms:CreateGrant",
                "Resource": "*",
                "Condition": {**through_ec2, "Bool": {"kms:GrantIsForAWSResource": "true"}},
            },
            {
                # Without EC2, as deploys/ebs.py looks at the key itself.
                "Sid": "Look",
                "Effect": "Allow",
                "Principal": {"AWS": list(users)},
                "Action": ["kms:DescribeKey", "kms:GetKeyPolicy", "kms:GetKeyRotationStatus",
                           "kms:ListResourceTags"],
                "Resource": "*",
            },
        ]  # fmt: skip
    return {"Version": "2012-10-17", "Id": "kafka-strongbox-ebs", "Statement": statements}


def _suffix(partition: str) -> str:
    return "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com"


def to_json(policy: Mapping[str, Any]) -> str:
    return json.dumps(policy, sort_keys=True)


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two policies say the same: AWS may hold a list of one as that one, in any order."""
    return bool(_normal(one) == _normal(other))


def _normal(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _normal(item) for key, item in value.items()}
    if isinstance(value, list):
        items = sorted((_normal(item) for item in value), key=lambda item: json.dumps(item))
        return items[0] if len(items) == 1 else items
    return value
