"""Settings of EBS volumes that are encrypted under a customer's KMS key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from roles.common.settings import RoleSettings

REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]")
KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):([0-9]{12}):key/[A-Za-z0-9-]+")
_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:(role|user)/[A-Za-z0-9+=,.@_/-]+")
_ALIAS = re.compile(r"alias/(?!aws/)[A-Za-z0-9/_-]{1,240}")
_INSTANCE = re.compile(r"i-[0-9a-f]{8,17}")
_NAME = re.compile(r"[a-z][a-z0-9]{0,15}")
#: Of tags that this project sets and decides by.
TAG_PREFIX = "strongbox:"


def _principals(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _ROLE_ARN.fullmatch(value):
            raise ValueError(
                "must be ARNs of IAM roles or users, arn:aws:iam::ACCOUNT:role/NAME: one that "
                "stands for everybody would open the key to everybody"
            )
    return tuple(sorted(set(values)))


Principals = Annotated[tuple[str, ...], AfterValidator(_principals)]


class EbsVolume(BaseModel):
    """One EBS volume of a host, made when there is none with the host's tags."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    size_gib: int = Field(ge=1, le=65536, description="Size in GiB.")
    type: Literal["gp3", "io2"] = Field(default="gp3", description="Volume type.")
    iops: int = Field(default=3000, ge=100, le=256000, description="Provisioned IOPS.")
    throughput_mib: int = Field(
        default=125, ge=125, le=2000, description="Provisioned throughput in MiB/s; gp3 only."
    )


class EbsSettings(RoleSettings):
    prefix: ClassVar[str] = "ebs"

    instance: str = Field(
        default="",
        description="Id of the host's EC2 instance (i-…), or empty for a host elsewhere, which "
        "needs none of these settings.",
    )
    region: str = Field(default="", description="AWS region of the instance and of the key.")
    volumes: dict[str, EbsVolume] = Field(
        default={},
        strict=False,
        description="The host's EBS volumes by the names they have in volumes_layout: size_gib, "
        "type (gp3 or io2), iops, throughput_mib.",
    )
    kms_alias: str = Field(
        default="",
        description="Alias of the KMS key; default alias/strongbox-CLUSTER-ebs. A key that is "
        "missing is made.",
    )
    kms_key: str = Field(
        default="",
        description="ARN of the KMS key, once it is known: the run is then refused when the alias "
        "names another.",
    )
    rotation_days: int = Field(
        default=365,
        ge=0,
        le=2560,
        description="Days between rotations of the key's material, 90 to 2560; 0 leaves them to "
        "others.",
    )
    key_administrators: Principals = Field(
        default=(),
        strict=False,
        description="ARNs of the IAM roles that may change and delete the key, and never use it.",
    )
    key_users: Principals = Field(
        default=(),
        strict=False,
        description="ARNs of the IAM roles that make and attach volumes (those that run "
        "deploys/ebs.py, or start instances); they may use the key only through EC2.",
    )
    tags: dict[str, str] = Field(
        default={},
        strict=False,
        description="More tags for the key and the volumes when they are made, such as a cost "
        "centre.",
    )
    encryption_by_default: bool = Field(
        default=False,
        description="Also turn on EBS encryption by default under this key for the whole account "
        "in this region: it changes what others' new volumes are encrypted with.",
    )
    delete_old: str = Field(
        default="",
        description="Id of a volume that deploys/ebs_reencrypt.py has replaced, to be deleted with "
        "the snapshots it was copied through, for one run: --data ebs_delete_old=vol-…. Never in "
        "group_data.",
    )
    wait_s: int = Field(
        default=600,
        ge=10,
        le=86400,
        description="Seconds until a volume that is being made, attached or detached counts as "
        "failed; a snapshot may take twelve times as long.",
    )

    @model_validator(mode="after")
    def _fits(self) -> EbsSettings:
        if self.instance and not _INSTANCE.fullmatch(self.instance):
            raise ValueError("ebs_instance: must be the id of an EC2 instance, such as i-0abc…")
        if bool(self.instance) != bool(self.region):
            raise ValueError("ebs_instance and ebs_region: set both or neither")
        if self.region and not REGION.fullmatch(self.region):
            raise ValueError("ebs_region: must be a region such as eu-central-1")
        if self.instance and not self.volumes:
            raise ValueError("ebs_volumes: the instance has no volume declared")
        if self.volumes and not self.instance:
            raise ValueError("ebs_volumes: needs ebs_instance and ebs_region")
        for name, volume in self.volumes.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"ebs_volumes: {name!r} is not 1-16 of a-z and 0-9")
            if volume.type == "gp3" and not 3000 <= volume.iops <= 80000:
                raise ValueError(f"ebs_volumes: {name}: iops of gp3 are 3000 to 80000")
        if self.kms_alias and not _ALIAS.fullmatch(self.kms_alias):
            raise ValueError(
                "ebs_kms_alias: must be alias/NAME, and not one of AWS's own (alias/aws/…)"
            )
        self._check_key()
        if 0 < self.rotation_days < 90:
            raise ValueError("ebs_rotation_days: AWS takes 90 to 2560, or 0 to leave it to others")
        if self.delete_old and not re.fullmatch(r"vol-[0-9a-f]{8,17}", self.delete_old):
            raise ValueError("ebs_delete_old: must be the id of a volume, such as vol-0abc…")
        for key in self.tags:
            if key.startswith((TAG_PREFIX, "aws:")):
                raise ValueError(f"ebs_tags: {key!r}: tags with that prefix have their own meaning")
        return self

    def _check_key(self) -> None:
        if not self.kms_key:
            return
        found = KEY_ARN.fullmatch(self.kms_key)
        if not found:
            raise ValueError("ebs_kms_key: must be a key's ARN, arn:aws:kms:REGION:ACCOUNT:key/ID")
        if self.region and found[1] != self.region:
            raise ValueError(
                f"ebs_kms_key: is a key in {found[1]}, EBS can use only one in {self.region}"
            )

    def alias(self, cluster: str) -> str:
        return self.kms_alias or f"alias/strongbox-{cluster}-ebs"


_SHARED = (
    "region",
    "kms_alias",
    "kms_key",
    "rotation_days",
    "key_administrators",
    "key_users",
    "tags",
    "encryption_by_default",
)


def problems(nodes: Mapping[str, EbsSettings], custody_key: str) -> list[str]:
    """How the hosts' settings fit together, one line for each problem.

    :param custody_key: ARN of the key under which LUKS keys are wrapped, or empty.
    """
    here = {name: item for name, item in nodes.items() if item.instance}
    found = []
    for field in _SHARED:
        if len({repr(getattr(item, field)) for item in here.values()}) > 1:
            found.append(f"ebs_{field} differs between hosts: set it for all of them")
    owner: dict[str, str] = {}
    for name, item in here.items():
        if item.instance in owner:
            found.append(f"ebs_instance: {owner[item.instance]} and {name} have {item.instance}")
        owner.setdefault(item.instance, name)
        if item.kms_key and item.kms_key == custody_key:
            found.append(
                f"{name}: ebs_kms_key and custody_kms_key are one key: whoever may attach a volume "
                "could then unwrap its LUKS key; use two"
            )
    return found
