"""Crypto-erase: without its keyslots nobody can read a volume again, whoever had its keys."""

from __future__ import annotations

from collections.abc import Mapping

from roles.custody.records import Records
from roles.volumes.keys.header import Header
from roles.volumes.keys.life import VolumeKeys, check_disk, look
from roles.volumes.keys.plan import Refusal
from roles.volumes.keys.script import Runner, Script, run


def named(confirm: str, found: Mapping[VolumeKeys, Header]) -> VolumeKeys:
    """The one volume whose disk is named by its serial or its LUKS UUID.

    :raises Refusal: when it names none or several.
    """
    if not confirm:
        raise Refusal(
            "nothing is erased without --data volumes_erase_confirm=DISK, where DISK is the serial "
            "or the LUKS UUID of the one disk to erase"
        )
    those = [
        volume
        for volume, header in found.items()
        if header.there and confirm in (header.serial, _uuid(volume, header))
    ]
    if len(those) != 1:
        names = ", ".join(volume.name for volume in those)
        raise Refusal(
            f"volumes_erase_confirm: {confirm!r} is "
            + (
                f"the serial of several disks ({names})"
                if those
                else "no disk of a declared volume (one that is damaged or erased is named by its "
                "serial)"
            )
            + "; nothing was erased"
        )
    return those[0]


def _uuid(volume: VolumeKeys, found: Header) -> str | None:
    """What the disk itself says, if that is beyond doubt: the declaration does not prove that the
    volume is on it."""
    return volume.uuid if found.whole and found.claimed == {volume.uuid} else None


def check(volume: VolumeKeys, found: Header) -> None:
    """
    :raises Refusal: for another volume's disk, or one in use.
    """
    check_disk(volume, found)
    if found.signature not in ("", "crypto_LUKS"):
        raise Refusal(f"{volume.device} holds {found.signature}, so it is not erased")
    if found.holders:
        raise Refusal(
            f"{volume.name} is open ({', '.join(found.holders)}): stop its service, unmount it "
            "and close it with cryptsetup close first"
        )


def done(volume: VolumeKeys, found: Header, records: Records) -> bool:
    """Whether neither the disk nor the records have anything of the volume."""
    context = volume.context("header")
    left = records.headers(context) or records.recoveries(context)
    return found.signature == "" and found.newest is None and not found.claimed and not left


def erase(volume: VolumeKeys, runner: Runner, records: Records) -> None:
    """Erases the header with all keyslots on the disk, then forgets the records.

    :raises Refusal, ScriptError: see `check`.
    """
    found = look(runner, volume)
    check(volume, found)
    run(runner, Script("keys-erase", (volume.device, found.digest, found.serial)))
    records.forget(volume.context("header"))
