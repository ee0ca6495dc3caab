"""Settings of the volumes on which everything a host keeps lies."""

from __future__ import annotations

import itertools
import re
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from roles.common.settings import HOSTNAME, RemotePath, RoleSettings
from roles.volumes.names import MAIN

_NAME = re.compile(r"[a-z][a-z0-9]{0,15}")
_IMDS = re.compile(
    r"http://(169\.254\.169\.254|\[fd00:ec2::254\]|(127\.0\.0\.1|localhost|10\.77\.0\.1):[0-9]+)/?"
)
_STABLE = ("/dev/disk/by-id/", "/dev/disk/by-path/", "/dev/disk/by-partuuid/", "/dev/mapper/")


def _device(value: str) -> str:
    if not value.startswith(_STABLE) and not re.fullmatch(r"/dev/loop[0-9]+", value):
        raise ValueError(
            f"{value} can mean another disk after a reboot: name it by one of "
            f"{', '.join(_STABLE)} (ls -l /dev/disk/by-id)"
        )
    return value


def _imds(value: str) -> str:
    # Whoever answers there decides with which role the host asks, so it cannot be just anyone.
    if value and not _IMDS.fullmatch(value):
        raise ValueError(
            "is not the address of an instance metadata service: leave it empty, or "
            "http://[fd00:ec2::254] on IPv6"
        )
    return value


def _wipe(value: object) -> object:
    # Before the type: pyinfra reads --data of digits only as a number.
    host, _, serial = str(value).partition(":")
    if value != "" and not (HOSTNAME.fullmatch(host) and serial):
        raise ValueError(
            f"{value!r} does not say on which host: give HOST:SERIAL, as the refusal of the disk "
            "prints it (HOST is the host's common_hostname)"
        )
    return value


class Volume(BaseModel):
    """One disk, or an LVM volume or partition, that becomes an encrypted file system."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    device: Annotated[RemotePath, AfterValidator(_device)] = Field(
        description="The disk by a name that stays: /dev/disk/by-id/…"
    )
    min_gib: float = Field(ge=0, description="Smaller is another disk, and refused; GiB.")
    max_gib: float = Field(gt=0, description="Larger is another disk, and refused; GiB.")
    mount: RemotePath | None = Field(
        default=None,
        description="Mount point; common_base_dir for `main`, else common_base_dir-NAME.",
    )
    filesystem: Literal["xfs", "ext4"] = Field(default="xfs", description="File system.")
    encryption: Literal["luks", "ebs"] = Field(
        default="luks",
        description="`luks`, or `ebs`: an EBS volume verified to be encrypted under the right key.",
    )
    ebs_volume: str = Field(
        default="", description="Id of the EBS volume (vol-…), required with encryption = 'ebs'."
    )
    rotational: bool | None = Field(
        default=None,
        description="Whether it is a spinning disk; found out by itself when left out. Decides on "
        "the flags below.",
    )
    discard: bool | None = Field(
        default=None,
        description="Whether freed blocks are told to the disk (shows which are free). Default: on "
        "unless the disk spins.",
    )
    workqueues: bool | None = Field(
        default=None,
        description="Whether dm-crypt hands work to threads. Default: only if the disk spins.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Volume:
        if self.min_gib > self.max_gib:
            raise ValueError("min_gib is more than max_gib")
        if self.encryption == "ebs" and not re.fullmatch(r"vol-[0-9a-f]{8,17}", self.ebs_volume):
            raise ValueError("ebs_volume must be the id of the EBS volume, such as vol-0abc…")
        return self


class VolumesSettings(RoleSettings):
    prefix: ClassVar[str] = "volumes"

    layout: dict[str, Volume] = Field(
        default={},
        strict=False,
        description="The host's volumes by name. `main` is required and holds everything but, when "
        "there are others, a broker's data: those lie on the others then.",
    )
    unencrypted: bool = Field(
        default=False,
        description="Keep everything on the root file system, whatever lies below it. For tests "
        "only; reported by every verification.",
    )
    unlock: Literal["controller", "boot"] = Field(
        default="controller",
        description="Who opens LUKS volumes after a reboot: `controller` (deploys/unlock.py; no "
        "key rests on the host) or `boot` (the host itself, through AWS KMS).",
    )
    unlock_imds: Annotated[str, AfterValidator(_imds)] = Field(
        default="",
        description="URL of the instance metadata service that gives a host its role with "
        "volumes_unlock = 'boot'; empty for AWS's own, http://169.254.169.254.",
    )
    wipe_confirm: Annotated[str, BeforeValidator(_wipe)] = Field(
        default="",
        description="The host (its common_hostname) and the serial of one disk whose content may "
        "be destroyed, for one run: --data volumes_wipe_confirm=HOST:SERIAL. Never in group_data.",
    )

    rotate: Literal["volume", "recovery", "all"] = Field(
        default="volume",
        description="Which keys deploys/rotate_volume_keys.py makes anew, for one run: the machine "
        "keys (`volume`), the recovery keys, or both: --data volumes_rotate=all.",
    )
    keyslot_confirm: str = Field(
        default="",
        description="A keyslot that no token names and deploys/rotate_volume_keys.py may remove, "
        "for one run: --data volumes_keyslot_confirm=HOST/VOLUME/NUMBER. Never in group_data.",
    )
    reencrypt_confirm: str = Field(
        default="",
        description="The volume that deploys/reencrypt_volumes.py writes anew, for one run: "
        "--data volumes_reencrypt_confirm=HOST/VOLUME. Never in group_data.",
    )
    restore: str = Field(
        default="",
        description="The volume whose LUKS header deploys/restore_header.py restores, for one run: "
        "--data volumes_restore=HOST/VOLUME. Never in group_data.",
    )
    erase_confirm: str = Field(
        default="",
        description="Serial or LUKS UUID of the one disk that deploys/erase_volumes.py makes "
        "unreadable for ever, for one run: --data volumes_erase_confirm=DISK. Never in group_data.",
    )

    @model_validator(mode="after")
    def _fits(self) -> VolumesSettings:
        if self.unencrypted:
            if self.layout:
                raise ValueError("volumes_unencrypted contradicts volumes_layout: drop one of them")
            return self
        if MAIN not in self.layout:
            raise ValueError(
                f"volumes_layout: declares no volume {MAIN!r}; see docs/volumes.md (a test host "
                "without disks of its own says volumes_unencrypted = True)"
            )
        for name in self.layout:
            if not _NAME.fullmatch(name):
                raise ValueError(f"volumes_layout: {name!r} is not 1-16 of a-z and 0-9")
        for field in ("device", "mount"):
            values = [getattr(volume, field) for volume in self.layout.values()]
            given = [value for value in values if value]
            if len(set(given)) < len(given):
                raise ValueError(f"volumes_layout: two volumes have the same {field}")
        return self

    def mount_point(self, name: str, base_dir: str) -> str:
        """Where the volume of that name is mounted."""
        given = self.layout[name].mount
        return given or (base_dir if name == MAIN else f"{base_dir}-{name}")

    def mount_problems(self, base_dir: str) -> list[str]:
        """Mount points that would hide one another."""
        points = sorted((f"{self.mount_point(name, base_dir)}/", name) for name in self.layout)
        return [
            f"volumes_layout: the mount point of {below!r} lies in that of {above!r}"
            for (upper, above), (lower, below) in itertools.combinations(points, 2)
            if lower.startswith(upper)
        ]

    @property
    def data_volumes(self) -> list[str]:
        """Names of the volumes for a broker's data, in order; empty when `main` holds it."""
        return sorted(name for name in self.layout if name != MAIN)
