"""Least-privilege policies for a KMS key of custody, to be put into place by an administrator.

Who may do what: administrators run the key and can use it for nothing; the controller wraps and
unwraps keys of its cluster; a host unwraps only its own volume keys, and recovery keys never. The
encryption context decides, which KMS checks and CloudTrail logs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roles.custody.protocol import KeyContext

Policy = dict[str, Any]

ADMINISTRATION = (
    "kms:CancelKeyDeletion",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:EnableKey",
    "kms:EnableKeyRotation",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListKeyRotations",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:RevokeGrant",
    "kms:RotateKeyOnDemand",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateKeyDescription",
)
CONTROLLER = (
    "kms:Decrypt",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)
HOST = ("kms:Decrypt",)
_ALL_USE = (
    "kms:Decrypt",
    "kms:Encrypt",
    "kms:GenerateDataKey*",
    "kms:ReEncrypt*",
)
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+")
_ROLE_NAME_LIMIT = 64


class PolicyError(ValueError):
    """A policy that AWS would refuse; one line with what to do."""


@dataclass(frozen=True)
class Principals:
    """ARNs of the roles.

    :param hosts: host name (common_hostname) -> the role of its instance profile; empty unless
        hosts unlock themselves.
    """

    admin: str
    controller: str
    hosts: Mapping[str, str]

    def __post_init__(self) -> None:
        for role in (self.admin, self.controller, *self.hosts.values()):
            if not _ROLE.fullmatch(role):
                raise PolicyError(
                    f"{role} is not the ARN of a role: arn:aws:iam::ACCOUNT:role/NAME"
                )
            name = role.rpartition("/")[2]
            if len(name) > _ROLE_NAME_LIMIT:
                raise PolicyError(
                    f"role name {name!r} is longer than {_ROLE_NAME_LIMIT} characters: choose "
                    "shorter ones with --host-role"
                )
        if len(set(self.hosts.values())) < len(self.hosts):
            raise PolicyError(
                "two hosts have the same role, so each could unwrap the other's keys: give every "
                "host its own (--host-role with {host} in it)"
            )
        if {self.admin, self.controller} & set(
            self.hosts.values()
        ) or self.admin == self.controller:
            raise PolicyError("administrators, controller and hosts need a role each")


def key_policy(key_arn: str, cluster: str, principals: Principals) -> Policy:
    """For ``aws kms put-key-policy``."""
    partition, account = key_arn.split(":")[1], key_arn.split(":")[4]
    root = f"arn:{partition}:iam::{account}:root"
    statements = [
        # Not kms:*, the default, with which any IAM policy of the account could allow Decrypt.
        _allow("AccountCanRecoverAdministration", root, ADMINISTRATION),
        _allow("Administration", principals.admin, ADMINISTRATION),
        _allow("ControllerLooks", principals.controller, ("kms:DescribeKey",)),
        _allow("ControllerUses", principals.controller, CONTROLLER, _of_cluster(cluster)),
        *(
            _allow(f"HostUnlocks{number}", role, HOST, _of_host(cluster, host))
            for number, (host, role) in enumerate(sorted(principals.hosts.items()), 1)
        ),
        {
            "Sid": "NothingWithoutContext",
            "Effect": "Deny",
            "Principal": {"AWS": "*"},
            "Action": list(_ALL_USE),
            "Resource": "*",
            "Condition": {"Null": {_condition("cluster"): "true"}},
        },
        {
            "Sid": "NoGrants",
            "Effect": "Deny",
            "Principal": {"AWS": "*"},
            "Action": ["kms:CreateGrant"],
            "Resource": "*",
        },
    ]
    return {"Version": "2012-10-17", "Id": f"strongbox-{cluster}", "Statement": statements}


def controller_policy(key_arn: str, cluster: str) -> Policy:
    """For the controller's role; needed only if the key is of another account."""
    return _role_policy(
        {"Effect": "Allow", "Action": ["kms:DescribeKey"], "Resource": key_arn},
        {
            "Effect": "Allow",
            "Action": list(CONTROLLER),
            "Resource": key_arn,
            "Condition": _of_cluster(cluster),
        },
    )


def host_policy(key_arn: str, cluster: str, host: str) -> Policy:
    """For the role of one host's instance profile."""
    return _role_policy(
        {
            "Effect": "Allow",
            "Action": list(HOST),
            "Resource": key_arn,
            "Condition": _of_host(cluster, host),
        }
    )


def _role_policy(*statements: Policy) -> Policy:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(
    sid: str, principal: str, actions: tuple[str, ...], condition: Policy | None = None
) -> Policy:
    statement: Policy = {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"AWS": principal},
        "Action": list(actions),
        "Resource": "*",
    }
    return statement | ({"Condition": condition} if condition else {})


def _condition(field: str) -> str:
    key = f"strongbox:{field}"
    assert key in KeyContext("", "", "", "").as_dict()
    return f"kms:EncryptionContext:{key}"


def _of_cluster(cluster: str) -> Policy:
    return {"StringEquals": {_condition("cluster"): cluster}}


def _of_host(cluster: str, host: str) -> Policy:
    return {
        "StringEquals": {
            _condition("cluster"): cluster,
            _condition("host"): host,
            _condition("purpose"): "volume",
        }
    }
