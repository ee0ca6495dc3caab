"""Carries the steps of `plan` out on one volume. Does not know how scripts reach the host."""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from roles.custody import record_file, recovery
from roles.custody.protocol import Custody, CustodyError, KeyContext
from roles.custody.records import RecordError, Records
from roles.volumes.keys import header, plan, tokens
from roles.volumes.keys.header import Header, HeaderError
from roles.volumes.keys.plan import Goal, KeysSeen, KeyToken, Purpose, Refusal, Step
from roles.volumes.keys.script import WRONG_KEY, Runner, Script, ScriptError, key_line, run
from roles.volumes.names import luks_uuid

ERRORS = (CustodyError, RecordError, HeaderError, Refusal, ScriptError)


@dataclass(frozen=True)
class VolumeKeys:
    """A LUKS volume whose keys are taken care of.

    :param host: its hostname, as in the UUID of the header and the context of the keys.
    """

    cluster: str
    host: str
    volume: str
    device: str

    @property
    def uuid(self) -> str:
        return luks_uuid(self.cluster, self.host, self.volume)

    @property
    def name(self) -> str:
        """As confirmations name it."""
        return f"{self.host}/{self.volume}"

    def context(self, purpose: str) -> KeyContext:
        return KeyContext(self.cluster, self.host, self.volume, purpose)


def look(runner: Runner, volume: VolumeKeys) -> Header:
    """
    :raises HeaderError: when the answer cannot be understood.
    :raises ScriptError: when the host could not look.
    """
    found = header.parse(run(runner, Script("keys-look", (volume.device,))))
    return found[volume.device]


def keys_seen(volume: VolumeKeys, found: Header, records: Records) -> KeysSeen:
    """The volume's keys as its header and the records have them; asks no custody.

    :raises Refusal: when the device is not this volume, or its header is damaged.
    :raises RecordError: when the records cannot be read.
    """
    check(volume, found)
    return _with_records(tokens.seen(found), volume, records)


def formatted(volume: VolumeKeys, records: Records) -> KeysSeen:
    """What formatting will leave; records may be there of the disk that was the volume before.

    :raises RecordError: when the records cannot be read.
    """
    machine = KeyToken(0, Purpose.VOLUME, 1, 0)
    return _with_records(KeysSeen(frozenset({0}), (machine,), image="formatted"), volume, records)


def _with_records(seen: KeysSeen, volume: VolumeKeys, records: Records) -> KeysSeen:
    context = volume.context("header")
    backups = [item for item in records.headers(context) if item.uuid == volume.uuid]
    return replace(
        seen,
        escrowed=frozenset(
            item.epoch for item in records.recoveries(context) if item.uuid == volume.uuid
        ),
        backups=frozenset(item.epoch for item in backups),
        backup=record_file.read_head(backups[0].path).sha256 if backups else "",
    )


def check(volume: VolumeKeys, found: Header) -> None:
    """
    :raises Refusal: unless it is this volume with a whole header and no re-encryption begun.
    """
    check_disk(volume, found)
    plan.check(found.requirements, found.whole)


def check_disk(volume: VolumeKeys, found: Header) -> None:
    """
    :raises Refusal: when the device is not there, or another volume's.
    """
    if not found.there:
        raise Refusal(f"{volume.device} is not there")
    if found.claimed - {volume.uuid}:
        uuids = " and ".join(sorted(found.claimed))
        raise Refusal(
            f"{volume.device} has the LUKS header {uuids}, but {volume.name} has {volume.uuid}: "
            "it is another disk"
        )


class Life:
    """One volume's keys, with what is needed to change them."""

    def __init__(
        self, volume: VolumeKeys, runner: Runner, custody: Custody, records: Records
    ) -> None:
        self._volume = volume
        self._runner = runner
        self._custody = custody
        self._records = records

    def look(self) -> tuple[Header, KeysSeen]:
        found = look(self._runner, self._volume)
        return found, keys_seen(self._volume, found, self._records)

    def reach(self, goal: Goal) -> Iterator[Step]:
        """Does one step after the other until the goal is reached, and yields each when done.

        :raises Refusal, ScriptError, CustodyError, RecordError: whenever this ends, the volume has
            a known key, and the same call goes on from there.
        """
        found, seen = self.look()
        while (step := plan.next_step(seen, goal)) is not None:
            self._do(step, found, seen)
            expected = plan.after(seen, step)
            found, seen = self.look()
            if _outline(seen) != _outline(expected):
                raise Refusal(
                    f"after the step {str(step)!r} the header of {self._volume.device} is not as "
                    "it had to be; another program may be changing it: look at it with "
                    "cryptsetup luksDump, then run again"
                )
            yield step

    def key_of(self, token: KeyToken) -> bytes:
        """The key of a token, unwrapped by custody now."""
        context = self._volume.context(token.purpose)
        if token.wrapped is not None:
            return self._custody.unwrap(token.wrapped, context)
        for record in self._records.recoveries(context):
            if record.epoch == token.epoch and record.uuid == self._volume.uuid:
                return self._custody.unwrap(record.wrapped, context)
        raise Refusal(f"the recovery key of epoch {token.epoch} is in no record here")

    def prove(self, found: Header, token: KeyToken) -> bytes:
        """The key of a token, once it has opened its keyslot.

        :raises Refusal: when it does not.
        """
        key = self.key_of(token)
        self._run("keys-prove", found, str(token.slot), stdin=(key_line(key),), tokens=(token,))
        return key

    def opens(self, found: Header, token: KeyToken) -> bool:
        """Whether a token's key opens its keyslot; other errors are raised."""
        lines = (key_line(self.key_of(token)),)
        try:
            run(self._runner, self._script("keys-prove", found, str(token.slot), stdin=lines))
        except ScriptError as error:
            if error.status == WRONG_KEY:
                return False
            raise
        return True

    def backup(self, found: Header) -> bytes:
        """The header as a backup has it."""
        lines = run(self._runner, self._script("keys-header", found))
        try:
            image = gzip.decompress(base64.b64decode("".join(lines), validate=True))
        except (binascii.Error, OSError, EOFError) as error:
            raise Refusal(f"the header backup of {self._volume.device} is damaged") from error
        if hashlib.sha256(image).hexdigest() != found.image or header.read_backup(image) is None:
            raise Refusal(f"the header backup of {self._volume.device} is not whole: run again")
        return image

    def _do(self, step: Step, found: Header, seen: KeysSeen) -> None:
        if isinstance(step, plan.Escrow):
            key = recovery.generate().passphrase
            context = self._volume.context(Purpose.RECOVERY)
            self._records.put_recovery(context, self._volume.uuid, step.epoch, key)
        elif isinstance(step, plan.Stage):
            self._stage(step, found, seen)
        elif isinstance(step, plan.AddKey):
            self._add(step, found, seen)
        elif isinstance(step, plan.Bind):
            token = replace(_token(seen, step.token), staged=False)
            self._run(
                "keys-token", found, "write", str(token.id), str(token.slot),
                stdin=(tokens.bound(token), key_line(self.key_of(token))), tokens=(token,),
            )  # fmt: skip
        elif isinstance(step, plan.Kill):
            keep = seen.current(step.keep)
            if keep is None:
                raise Refusal(f"the {step.keep.label} that shall stay has no token")
            self._run(
                "keys-kill", found, str(step.slot), str(keep.slot),
                stdin=(key_line(self.key_of(keep)),), tokens=(keep,),
            )  # fmt: skip
        elif isinstance(step, plan.RemoveToken):
            self._run("keys-token", found, "remove", str(step.token))
        elif isinstance(step, plan.Backup):
            context = self._volume.context("header")
            epoch = plan.backup_epoch(seen)
            self._records.put_header(context, self._volume.uuid, epoch, self.backup(found))
        else:
            self._forget(seen)

    def _stage(self, step: plan.Stage, found: Header, seen: KeysSeen) -> None:
        by = self._authority(seen)
        authority = key_line(self.key_of(by))
        wrapped = None
        if step.purpose is Purpose.VOLUME:
            # The key itself is dropped here: what is added later is unwrapped from the token.
            wrapped = self._custody.new_key(self._volume.context(step.purpose))[1]
        token = tokens.staged(step.purpose, step.epoch, step.slot, wrapped)
        self._run(
            "keys-token", found, "stage", str(step.token), str(by.slot),
            stdin=(token, authority), tokens=(by,),
        )  # fmt: skip

    def _add(self, step: plan.AddKey, found: Header, seen: KeysSeen) -> None:
        by = self._authority(seen)
        token = next(item for item in seen.staged(step.purpose) if item.epoch == step.epoch)
        kdf = "pbkdf2" if step.purpose is Purpose.VOLUME else "argon2id"
        keys = key_line(self.key_of(by)), key_line(self.key_of(token))
        self._run(
            "keys-add", found, str(by.slot), str(step.slot), kdf, stdin=keys, tokens=(by, token)
        )

    def _authority(self, seen: KeysSeen) -> KeyToken:
        by = plan.authority(seen)
        if by is None:
            raise Refusal(f"no key of {self._volume.name} is known")
        return by

    def _forget(self, seen: KeysSeen) -> None:
        context = self._volume.context("header")
        newest = seen.current(Purpose.RECOVERY)
        for epoch in (max(seen.backups, default=0), newest.epoch if newest else 0):
            if epoch:
                self._records.forget_before(context, epoch)

    def _script(self, name: str, found: Header, *rest: str, stdin: tuple[str, ...] = ()) -> Script:
        return Script(name, (self._volume.device, found.digest, *rest), stdin)

    def _run(
        self,
        name: str,
        found: Header,
        *rest: str,
        stdin: tuple[str, ...] = (),
        tokens: tuple[KeyToken, ...] = (),
    ) -> None:
        try:
            run(self._runner, self._script(name, found, *rest, stdin=stdin))
        except ScriptError as error:
            if error.status != WRONG_KEY:
                raise
            named = ", ".join(
                f"token {token.id} ({token.purpose.label}, epoch {token.epoch})" for token in tokens
            )
            raise Refusal(
                f"{error}: {named} on {self._volume.device} is not of that keyslot; nothing was "
                f"changed. If that is known, remove the token with cryptsetup token remove "
                f"--token-id {tokens[-1].id} {self._volume.device}, and run again"
            ) from None


def _token(seen: KeysSeen, number: int) -> KeyToken:
    return next(token for token in seen.tokens if token.id == number)


def _outline(seen: KeysSeen) -> KeysSeen:
    """What can be told in advance."""
    return replace(seen, image="", backup="" if seen.backup != seen.image else "current")
