"""Puts a damaged LUKS header back from the newest sealed backup."""

from __future__ import annotations

import base64
import gzip
from enum import Enum
from typing import Any

from roles.custody import record_file
from roles.custody.records import Records
from roles.volumes.keys import header, tokens
from roles.volumes.keys.header import Header
from roles.volumes.keys.life import Life, VolumeKeys, check_disk, look
from roles.volumes.keys.plan import Refusal
from roles.volumes.keys.script import Runner, Script, run

_LINE = 65536  # characters


class Action(Enum):
    """What a damaged header needs; the value says it to the operator."""

    REPAIR = "renew the damaged copy of the header from the one that is whole"
    RESTORE = "restore the header from the newest backup, unless the machine key opens the volume"


def decide(volume: VolumeKeys, found: Header, records: Records) -> Action:
    """
    :raises Refusal: when there is nothing to restore from, or it would do harm.
    """
    check_disk(volume, found)
    if found.signature not in ("", "crypto_LUKS"):
        raise Refusal(
            f"{volume.device} holds {found.signature} now, so no header is restored over it: look "
            "at what is there; if it is known to be worthless, remove its signature with wipefs"
        )
    if found.requirements:
        raise Refusal("a re-encryption was begun: finish it with deploys/reencrypt_volumes.py")
    if not found.whole and found.newest is not None:
        return Action.REPAIR
    if not records.headers(volume.context("header")):
        raise Refusal(
            f"there is no header backup of {volume.name} in the records: get the records from the "
            "controller that has them"
        )
    return Action.RESTORE


def restore(volume: VolumeKeys, runner: Runner, life: Life, records: Records) -> tuple[Action, str]:
    """Restores, proves that the machine key opens, and says what was done.

    :raises Refusal: when the header is intact, or what is on the disk is newer than the backup.
    """
    found = look(runner, volume)
    action = decide(volume, found, records)
    if action is Action.REPAIR:
        run(runner, Script("keys-restore", (volume.device, found.digest, volume.uuid, "repair")))
    else:
        if found.whole and (slot := _opened(life, found)) is not None:
            raise Refusal(
                f"the header of {volume.device} is intact: the machine key opens keyslot {slot}"
            )
        _from_backup(volume, found, runner, records)
    found = look(runner, volume)
    slot = _opened(life, found) if found.whole else None
    if slot is None:
        raise Refusal(
            f"after {action.value!r} no machine key opens {volume.device}"
            + ("; run again to restore it from the backup" if action is Action.REPAIR else "")
        )
    return action, f"the machine key opens keyslot {slot}"


def _from_backup(volume: VolumeKeys, found: Header, runner: Runner, records: Records) -> None:
    context = volume.context("header")
    newest = records.headers(context)[0]
    image = records.open_header(context, newest.path)
    _check(volume, found, image)
    packed = base64.b64encode(gzip.compress(image, mtime=0)).decode()
    lines = tuple(packed[at : at + _LINE] for at in range(0, len(packed), _LINE))
    digest = record_file.read_head(newest.path).sha256
    arguments = (volume.device, found.digest, volume.uuid, "restore", digest)
    run(runner, Script("keys-restore", arguments, lines))


def _check(volume: VolumeKeys, found: Header, image: bytes) -> None:
    """
    :raises Refusal: for a backup that would do harm.
    """
    backup = header.read_backup(image)
    if backup is None or backup.uuid != volume.uuid:
        raise Refusal(f"the newest header backup of {volume.name} is not of this volume")
    if header.requirements(backup.metadata):
        raise Refusal(
            f"the header of {volume.device} was lost in the middle of a re-encryption, and nothing "
            "says how far that was: make the volume anew and let its replicas fill it"
        )
    if found.newest is not None and _keys(found.metadata) != _keys(backup.metadata):
        raise Refusal(
            f"the header of {volume.device} is whole and has other keyslots than the newest "
            "backup, which would bring back removed keys: get the records from the controller that "
            "changed its keys last"
        )


def _keys(metadata: Any) -> Any:
    return [metadata.get(part) for part in ("keyslots", "digests", "segments")]


def _opened(life: Life, found: Header) -> int | None:
    """The keyslot that the machine key opens, None when it does not or has no token."""
    token = tokens.seen(found).machine
    return token.slot if token is not None and life.opens(found, token) else None
