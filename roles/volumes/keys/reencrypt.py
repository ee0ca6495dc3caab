"""Gives a volume a new volume key and writes all its data anew under it, while it is in use.

Backups of the header are taken before, once the re-encryption has begun (from then on an older one
would destroy data) and at the end. cryptsetup keeps only the keyslots of the key it is given, so
the recovery key is added again at the end, the same one as before.
"""

from __future__ import annotations

from collections.abc import Iterator

from roles.custody.protocol import Custody
from roles.custody.records import Records
from roles.volumes.keys import plan, tokens
from roles.volumes.keys.header import Header
from roles.volumes.keys.life import Life, VolumeKeys, check_disk, look
from roles.volumes.keys.plan import Refusal
from roles.volumes.keys.script import Runner, Script, key_line, run

BEGIN = "make a new volume key, and note in the header that the re-encryption began"
BACKUP = "seal a backup of the header"
GO_ON = "re-encrypt all data; this takes long, and a run that is killed is gone on with by the next"


def begun(found: Header) -> bool:
    return any(item.startswith("online-reencrypt") for item in found.requirements)


def steps(volume: VolumeKeys, found: Header) -> list[str]:
    """What `reencrypt` will do, for people.

    :raises Refusal: when the volume is not one that can be re-encrypted.
    """
    check_disk(volume, found)
    if not found.whole:
        plan.check((), whole=False)
    if not found.holders:
        raise Refusal(f"{volume.name} is not open: open it with deploys/unlock.py first")
    return [GO_ON] if begun(found) else [BACKUP, BEGIN, BACKUP, GO_ON, BACKUP]


class Reencryption:
    """
    :param offline: work on a volume that is not open, for tests without a device mapper.
    """

    def __init__(
        self,
        volume: VolumeKeys,
        runner: Runner,
        custody: Custody,
        records: Records,
        offline: bool = False,
    ) -> None:
        self._volume = volume
        self._runner = runner
        self._records = records
        self._offline = offline
        self._life = Life(volume, runner, custody, records)

    def reach(self) -> Iterator[str]:
        """Begins or goes on, and yields what was done.

        :raises Refusal, ScriptError, CustodyError, RecordError: whenever this ends, the same call
            goes on from there.
        """
        found = self._look()
        if not begun(found):
            _, seen = self._life.look()
            yield from map(str, self._life.reach(plan.goal(seen)))
            found = self._look()
            token = self._machine(found)
            key = self._life.prove(found, token)
            self._run("begin", found, str(token.slot), key=key)
            yield BEGIN
            found = self._look()
        # Whatever is restored from now on must say that it was begun.
        self._backup(found)
        yield BACKUP
        key = self._life.key_of(self._machine(found))
        self._run("go-on", found, key=key)
        yield GO_ON
        _, seen = self._life.look()
        yield from map(str, self._life.reach(plan.goal(seen)))

    def _look(self) -> Header:
        found = look(self._runner, self._volume)
        check_disk(self._volume, found)
        plan.check((), found.whole)
        if not found.holders and not self._offline:
            raise Refusal(f"{self._volume.name} is not open: open it with deploys/unlock.py first")
        return found

    def _machine(self, found: Header) -> plan.KeyToken:
        token = tokens.seen(found).machine
        if token is None:
            raise Refusal(f"{self._volume.name} has no machine key: run deploys/site.py first")
        return token

    def _backup(self, found: Header) -> None:
        context = self._volume.context("header")
        epochs = [item.epoch for item in self._records.headers(context)]
        self._records.put_header(
            context, self._volume.uuid, max(epochs, default=0) + 1, self._life.backup(found)
        )

    def _run(self, name: str, found: Header, *rest: str, key: bytes) -> None:
        arguments = (self._volume.device, found.digest, name, *rest)
        run(self._runner, Script("keys-reencrypt", arguments, (key_line(key),)))
