"""Settings of custody: who holds the keys of the volumes."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from roles.common.secret_source import command_words
from roles.common.settings import RoleSettings

_ARN = re.compile(r"arn:aws[a-z-]*:kms:([a-z0-9-]+):[0-9]{12}:key/[A-Za-z0-9-]+")
_ENDPOINT = re.compile(
    r"https://[a-z0-9.:-]+/?|http://(127\.0\.0\.1|localhost|10\.77\.0\.1):[0-9]+/?"
)
_RECIPIENT = re.compile(r"age1[02-9ac-hj-np-z]{58}")


def _recipients(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value.startswith("AGE-SECRET-KEY"):
            raise ValueError("holds an age identity: recipients are public and start with age1")
        if not _RECIPIENT.fullmatch(value):
            raise ValueError(
                "must be age recipients such as age1… (`strongbox custody init` makes one)"
            )
    return tuple(sorted(set(values)))


class CustodySettings(RoleSettings):
    prefix: ClassVar[str] = "custody"

    kind: Literal["local", "aws-kms"] = Field(
        default="local",
        description="Who can unwrap volume keys: `local` (operators who hold an age identity) or "
        "`aws-kms` (whoever the KMS key's policy lets).",
    )
    recipients: Annotated[tuple[str, ...], AfterValidator(_recipients)] = Field(
        default=(),
        strict=False,
        description="age recipients (public, age1…) under which keys are wrapped with `local`: one "
        "for each operator or vault that must be able to unlock alone.",
    )
    identity_file: str = Field(
        default="",
        description="File on the controller with the age identity that unwraps; mode 0600.",
    )
    identity_command: Annotated[tuple[str, ...], BeforeValidator(command_words)] = Field(
        default=(),
        description="Command that prints the age identity, as a list of words or as text, such as "
        "`pass show kafka/age`; it runs without a shell, and only when a key must be unwrapped.",
    )
    kms_key: str = Field(
        default="",
        description="ARN of the KMS key with `aws-kms` (arn:aws:kms:REGION:ACCOUNT:key/ID): not an "
        "alias, which can come to mean another key.",
    )
    kms_old_keys: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="ARNs of KMS keys under which keys may still be wrapped: these are unwrapped "
        "too, while nothing new is wrapped under them. For a change of custody_kms_key.",
    )
    kms_endpoint: str = Field(
        default="",
        description="URL of the KMS endpoint when it is not the region's own, such as a VPC's.",
    )
    records_dir: str = Field(
        default="custody",
        description="Folder on the controller for wrapped recovery keys and sealed header backups; "
        "safe to commit.",
    )

    @property
    def kms_region(self) -> str:
        found = _ARN.fullmatch(self.kms_key)
        return found[1] if found else ""

    @model_validator(mode="after")
    def _fits(self) -> CustodySettings:
        if self.kms_key and not _ARN.fullmatch(self.kms_key):
            raise ValueError(
                "custody_kms_key: must be a key's ARN, arn:aws:kms:REGION:ACCOUNT:key/ID"
            )
        if not all(_ARN.fullmatch(key) for key in self.kms_old_keys):
            raise ValueError(
                "custody_kms_old_keys: must be keys' ARNs, arn:aws:kms:REGION:ACCOUNT:key/ID"
            )
        if self.kind == "aws-kms" and not self.kms_key:
            raise ValueError("custody_kms_key: is required with custody_kind = 'aws-kms'")
        if self.kms_endpoint and not _ENDPOINT.fullmatch(self.kms_endpoint):
            raise ValueError(
                "custody_kms_endpoint: must be an https URL without path or credentials"
            )
        if self.identity_file and self.identity_command:
            raise ValueError("custody_identity_file and custody_identity_command: set one of them")
        return self
