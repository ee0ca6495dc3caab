"""The life of a volume's keys after it was formatted, one step at a time. Pure.

A volume that is complete has two keyslots: one that its machine key opens and one that its recovery
key opens, each named by a token; the wrapped recovery key and a sealed backup of the header, taken
after the last change, lie in the records on the controller.

Nothing is remembered between steps. `next_step` decides on one from what the header and the records
say, and the key it needs is unwrapped anew from there. So a run that was killed after any step
is finished by the next one, and a key that could not be unwrapped again is never relied on.

A new key is announced before it is added: its wrapped form and the keyslot it will have are staged
in a token of the type ``strongbox-next``, a recovery key's in a record before that. There is no
moment at which a keyslot holds a key that only a process knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from roles.custody.protocol import WrappedKey

KEYSLOTS = 32  # of LUKS2
TOKENS = 32


class Purpose(StrEnum):
    VOLUME = "volume"
    RECOVERY = "recovery"

    @property
    def label(self) -> str:
        return "machine key" if self is Purpose.VOLUME else "recovery key"


@dataclass(frozen=True)
class KeyToken:
    """A token of ours.

    :param slot: the keyslot that its key opens; None after that was removed. Of a staged token: the
        keyslot that its key will have.
    :param staged: announces a key that may not have been added yet.
    :param wrapped: the key, in a machine key's token.
    """

    id: int
    purpose: Purpose
    epoch: int
    slot: int | None
    staged: bool = False
    wrapped: WrappedKey | None = field(default=None, compare=False)


@dataclass(frozen=True)
class KeysSeen:
    """A volume's keys as its header and the controller's records have them.

    :param tokens: ours, that can be read.
    :param damaged: ids of tokens of ours that cannot be read.
    :param others: keyslots that tokens of other programs name, and ids of those tokens.
    :param image: digest of the header with its key material.
    :param escrowed: epochs of the recovery keys in the records.
    :param backups: epochs of the header backups in the records: never below that of the machine
        key at the time.
    :param backup: what `image` was when the newest of them was taken, empty when there is none.
    """

    keyslots: frozenset[int]
    tokens: tuple[KeyToken, ...] = ()
    damaged: frozenset[int] = frozenset()
    others: frozenset[int] = frozenset()
    other_tokens: frozenset[int] = frozenset()
    image: str = ""
    escrowed: frozenset[int] = frozenset()
    backups: frozenset[int] = frozenset()
    backup: str = ""

    def bound(self, purpose: Purpose) -> list[KeyToken]:
        """Tokens whose keyslot is there, newest key first."""
        found = [
            token
            for token in self.tokens
            if token.purpose is purpose and not token.staged and token.slot in self.keyslots
        ]
        return sorted(found, key=lambda token: (-token.epoch, token.id))

    def current(self, purpose: Purpose) -> KeyToken | None:
        return next(iter(self.bound(purpose)), None)

    @property
    def machine(self) -> KeyToken | None:
        return self.current(Purpose.VOLUME)

    def staged(self, purpose: Purpose) -> list[KeyToken]:
        found = [token for token in self.tokens if token.purpose is purpose and token.staged]
        return sorted(found, key=lambda token: (-token.epoch, token.id))

    @property
    def unknown(self) -> frozenset[int]:
        """Keyslots that no token names: their keys are known to nobody here."""
        named = {token.slot for token in self.tokens}
        return frozenset(self.keyslots - named - self.others)

    def top(self, purpose: Purpose) -> int:
        """The highest epoch that a key of this purpose ever had, as far as is known."""
        known = [token.epoch for token in self.tokens if token.purpose is purpose]
        if purpose is Purpose.RECOVERY:
            known += self.escrowed
        elif not known:
            known += self.backups
        return max(known, default=0)

    @property
    def new(self) -> bool:
        """Whether nothing on the disk says that it ever had a recovery key.

        One in the records then opens the disk that was the volume before, or was not announced on
        this one before the run was killed: it is not given to this disk. A re-encryption takes the
        keyslot away, but leaves the token.
        """
        recovery = any(token.purpose is Purpose.RECOVERY for token in self.tokens)
        return not recovery and not self.damaged

    @property
    def old_records(self) -> bool:
        """Whether the records hold anything older than what is needed."""
        recovery = self.current(Purpose.RECOVERY)
        escrowed = [epoch for epoch in self.escrowed if recovery and epoch < recovery.epoch]
        return bool(escrowed) or len(self.backups) > 1


@dataclass(frozen=True)
class Goal:
    """Epochs that the keys shall have at least, and unknown keyslots that may be removed."""

    volume: int
    recovery: int
    kill: frozenset[int] = frozenset()

    def of(self, purpose: Purpose) -> int:
        return self.volume if purpose is Purpose.VOLUME else self.recovery


def goal(
    seen: KeysSeen,
    rotate: frozenset[Purpose] = frozenset(),
    kill: frozenset[int] = frozenset(),
) -> Goal:
    """What to reach. A rotation that was begun is finished, and no further one is begun then."""
    volume, recovery = (_epoch(seen, purpose, purpose in rotate) for purpose in Purpose)
    return Goal(volume, recovery, kill)


def _epoch(seen: KeysSeen, purpose: Purpose, rotate: bool) -> int:
    current, top = seen.current(purpose), seen.top(purpose)
    announced = bool(seen.staged(purpose)) or (
        purpose is Purpose.RECOVERY and top > 0 and not seen.new
    )
    if current is None:
        return top if announced else top + 1
    of_purpose = [token for token in seen.tokens if token.purpose is purpose]
    begun = len(of_purpose) > 1 or (
        purpose is Purpose.RECOVERY and max(seen.escrowed, default=0) > current.epoch
    )
    if begun:
        return top if announced else current.epoch
    return top + 1 if rotate else current.epoch


class Refusal(Exception):
    """A state in which nothing may be changed; one line that says what to do."""


@dataclass(frozen=True)
class Escrow:
    """Makes a recovery key and keeps it, wrapped, in the records."""

    epoch: int

    def __str__(self) -> str:
        return f"escrow a new recovery key, epoch {self.epoch}"


@dataclass(frozen=True)
class Stage:
    """Announces the next key in a token, before it is added."""

    purpose: Purpose
    epoch: int
    slot: int
    token: int

    def __str__(self) -> str:
        made = "make a" if self.purpose is Purpose.VOLUME else "announce the"
        return f"{made} new {self.purpose.label}, epoch {self.epoch}, for keyslot {self.slot}"


@dataclass(frozen=True)
class AddKey:
    """Adds the announced key, by the authority of a key that is known."""

    purpose: Purpose
    epoch: int
    slot: int

    def __str__(self) -> str:
        return f"add the new {self.purpose.label} in keyslot {self.slot}"


@dataclass(frozen=True)
class Bind:
    """Turns the announcement into the key's token, once the key has opened its keyslot."""

    purpose: Purpose
    epoch: int
    slot: int
    token: int

    def __str__(self) -> str:
        return f"prove that it opens keyslot {self.slot}, and write its token"


@dataclass(frozen=True)
class Kill:
    """Removes a keyslot, once the current key of *keep* has opened its own."""

    slot: int
    keep: Purpose

    def __str__(self) -> str:
        return f"remove keyslot {self.slot}, once the {self.keep.label} was proven"


@dataclass(frozen=True)
class RemoveToken:
    token: int
    why: str

    def __str__(self) -> str:
        return f"remove token {self.token}: {self.why}"


@dataclass(frozen=True)
class Backup:
    """Seals a backup of the header into the records."""

    def __str__(self) -> str:
        return "seal a backup of the header"


@dataclass(frozen=True)
class Forget:
    """Removes header backups and recovery keys from the records that are older than the current."""

    def __str__(self) -> str:
        return "forget older header backups and recovery keys"


Step = Escrow | Stage | AddKey | Bind | Kill | RemoveToken | Backup | Forget


def next_step(seen: KeysSeen, goal: Goal) -> Step | None:
    """
    :raises Refusal: when no key of the volume is known.
    """
    for purpose in Purpose:
        step = _reach(seen, purpose, goal.of(purpose))
        if step is not None:
            return step
    return _tidy(seen, goal)


def _reach(seen: KeysSeen, purpose: Purpose, epoch: int) -> Step | None:
    """The next step towards a key of this epoch, None when there is one with its token."""
    current = seen.current(purpose)
    if current is not None and current.epoch >= epoch:
        if purpose is Purpose.RECOVERY and current.epoch not in seen.escrowed:
            raise Refusal(
                f"the recovery key of epoch {current.epoch} is in no record here: get the records "
                "from the controller that made it, or make a new one with "
                "deploys/rotate_volume_keys.py --data volumes_rotate=recovery"
            )
        return None
    if authority(seen) is None:
        raise Refusal(
            "no key of it is known: neither a machine key's token nor a recovery key in the "
            "records; restore its header with deploys/restore_header.py, or get the records from "
            "the controller that has them"
        )
    if purpose is Purpose.RECOVERY and epoch not in seen.escrowed:
        if seen.staged(purpose):
            raise Refusal(
                f"a recovery key of epoch {epoch} was announced, but is in no record here: get the "
                "records from the controller that made it"
            )
        return Escrow(epoch)
    token = next((item for item in seen.staged(purpose) if item.epoch == epoch), None)
    if token is None:
        return Stage(purpose, epoch, _free_slot(seen), _free_token(seen))
    assert token.slot is not None
    if token.slot not in seen.keyslots:
        return AddKey(purpose, epoch, token.slot)
    if token.slot in seen.others or _bound_slots(seen) & {token.slot}:
        return RemoveToken(token.id, f"keyslot {token.slot} was taken by another key")
    return Bind(purpose, epoch, token.slot, token.id)


def _tidy(seen: KeysSeen, goal: Goal) -> Step | None:
    """Removes what a newer key has replaced, and renews the records."""
    keep = {purpose: seen.current(purpose) for purpose in Purpose}
    kept = {token.slot for token in keep.values() if token}
    for token in seen.tokens:
        if token in keep.values():
            continue
        used = token.slot in kept or token.slot in seen.others
        if token.staged or used or token.slot not in seen.keyslots:
            return RemoveToken(token.id, "a newer key has replaced its key")
        assert token.slot is not None
        return _safely(seen, Kill(token.slot, token.purpose))
    for damaged in sorted(seen.damaged):
        return RemoveToken(damaged, "it cannot be read")
    for slot in sorted(goal.kill & seen.unknown):
        return _safely(seen, Kill(slot, Purpose.VOLUME))
    if seen.backup != seen.image:
        return Backup()
    return Forget() if seen.old_records else None


def _safely(seen: KeysSeen, step: Kill) -> Step:
    return Backup() if seen.backup != seen.image else step


def _bound_slots(seen: KeysSeen) -> set[int | None]:
    return {token.slot for purpose in Purpose for token in seen.bound(purpose)}


def _free_slot(seen: KeysSeen) -> int:
    taken = seen.keyslots | {token.slot for token in seen.tokens if token.staged}
    free = [slot for slot in range(KEYSLOTS) if slot not in taken]
    if not free:
        raise Refusal("all of its keyslots are taken: remove one that nobody needs")
    return free[0]


def _free_token(seen: KeysSeen) -> int:
    taken = {token.id for token in seen.tokens} | seen.damaged | seen.other_tokens
    free = [number for number in range(TOKENS) if number not in taken]
    if not free:
        raise Refusal("all of its tokens are taken: remove one that nobody needs")
    return free[0]


def authority(seen: KeysSeen) -> KeyToken | None:
    """The token of the key by which another may be added, None when no key is known."""
    machine, recovery = (seen.current(purpose) for purpose in Purpose)
    if machine is not None:
        return machine
    if recovery is not None and recovery.epoch in seen.escrowed:
        return recovery
    return None


def after(seen: KeysSeen, step: Step) -> KeysSeen:
    """What will be seen after the step; a changed header's image is not known, only that it
    differs."""
    if isinstance(step, Escrow):
        return replace(seen, escrowed=seen.escrowed | {step.epoch})
    if isinstance(step, Backup):
        return replace(seen, backup=seen.image, backups=seen.backups | {backup_epoch(seen)})
    if isinstance(step, Forget):
        recovery = seen.current(Purpose.RECOVERY)
        keep = {epoch for epoch in seen.escrowed if recovery is None or epoch >= recovery.epoch}
        newest = frozenset({max(seen.backups)}) if seen.backups else frozenset()
        return replace(seen, escrowed=frozenset(keep), backups=newest)
    tokens, keyslots = seen.tokens, seen.keyslots
    damaged = seen.damaged
    if isinstance(step, Stage):
        new = KeyToken(step.token, step.purpose, step.epoch, step.slot, staged=True)
        tokens = tuple(sorted((*tokens, new), key=lambda token: token.id))
    elif isinstance(step, AddKey):
        keyslots = keyslots | {step.slot}
    elif isinstance(step, Bind):
        bound = KeyToken(step.token, step.purpose, step.epoch, step.slot)
        tokens = tuple(bound if token.id == step.token else token for token in tokens)
    elif isinstance(step, RemoveToken):
        tokens = tuple(token for token in tokens if token.id != step.token)
        damaged = damaged - {step.token}
    elif isinstance(step, Kill):
        keyslots = keyslots - {step.slot}
        # cryptsetup takes the keyslot out of the tokens that name it.
        tokens = tuple(
            replace(token, slot=None) if token.slot == step.slot and not token.staged else token
            for token in tokens
        )
    return replace(seen, tokens=tokens, keyslots=keyslots, damaged=damaged, image=f"{seen.image}~")


def backup_epoch(seen: KeysSeen) -> int:
    """Of the next header backup."""
    machine = seen.current(Purpose.VOLUME)
    return max([*(epoch + 1 for epoch in seen.backups), machine.epoch if machine else 1])


def steps(seen: KeysSeen, goal: Goal) -> Iterator[Step]:
    """All steps from here to the goal, for people; `next_step` decides on each again.

    :raises Refusal: see `next_step`.
    """
    while (step := next_step(seen, goal)) is not None:
        yield step
        seen = after(seen, step)


def notes(seen: KeysSeen, goal: Goal) -> list[str]:
    """What is left alone, for people: one line each."""
    return [
        f"keyslot {slot} is named by no token, so nobody here knows its key: it is left alone"
        for slot in sorted(seen.unknown - goal.kill)
    ]


def check(requirements: tuple[str, ...], whole: bool) -> None:
    """
    :raises Refusal: when the header is damaged or a re-encryption was begun.
    """
    if not whole:
        raise Refusal(
            "its LUKS header is damaged or missing: restore it with deploys/restore_header.py "
            "before its keys are changed (a new volume is set up by deploys/site.py)"
        )
    if requirements:
        raise Refusal(
            f"a re-encryption was begun ({', '.join(requirements)}): finish it with "
            "deploys/reencrypt_volumes.py before its keys are changed"
        )


def by_slot(seen: KeysSeen) -> Mapping[int, str]:
    """What each keyslot is for, for people and for evidence."""
    named = {token.slot: f"{token.purpose.label}, epoch {token.epoch}" for token in seen.tokens}
    return {
        slot: named.get(slot, "another program's" if slot in seen.others else "unknown")
        for slot in sorted(seen.keyslots)
    }
