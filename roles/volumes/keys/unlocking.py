"""The keys with which a volume may be opened, the machine key's before the recovery key."""

from __future__ import annotations

from collections.abc import Iterator

from roles.custody.protocol import Custody, CustodyError
from roles.custody.records import Records
from roles.volumes.keys import tokens
from roles.volumes.keys.header import Header
from roles.volumes.keys.life import VolumeKeys
from roles.volumes.keys.plan import Purpose, Refusal


def keys_to_try(
    volume: VolumeKeys, found: Header, custody: Custody, records: Records
) -> Iterator[tuple[str, bytes]]:
    """What each key is, for people, and the key. The caller tries each until one opens the volume,
    without naming a keyslot: while it is re-encrypted a key has two and both are needed.

    :raises CustodyError: when custody unwrapped none of them: the first reason.
    :raises Refusal: when there is none.
    """
    failed: CustodyError | None = None
    offered = False
    for token in tokens.seen(found).bound(Purpose.VOLUME):
        assert token.wrapped is not None
        try:
            key = custody.unwrap(token.wrapped, volume.context(Purpose.VOLUME))
        except CustodyError as error:
            failed = failed or error
            continue
        offered = True
        yield f"machine key, epoch {token.epoch}", key
    for record in records.recoveries(volume.context(Purpose.RECOVERY)):
        if record.uuid != volume.uuid:
            continue
        try:
            key = custody.unwrap(record.wrapped, volume.context(Purpose.RECOVERY))
        except CustodyError as error:
            failed = failed or error
            continue
        offered = True
        yield f"recovery key, epoch {record.epoch}", key
    if offered:
        return
    if failed is not None:
        raise failed
    raise Refusal(
        f"no key of {volume.name} is known: its header has no machine key's token, and the "
        "records have no recovery key"
    )
