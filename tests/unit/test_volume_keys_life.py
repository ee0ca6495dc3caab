"""Whatever happens to a volume's keys, there is always a known one that opens it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.custody.records import Records
from roles.volumes.keys import plan
from roles.volumes.keys.life import Life, formatted
from roles.volumes.keys.plan import Purpose, Refusal
from roles.volumes.keys.script import Result, Script, ScriptError
from roles.volumes.token import TokenError, parse
from tests.examples import examples
from tests.unit.simulated_volume import Killed, SimulatedVolume

BOTH = frozenset(Purpose)
MACHINE, RECOVERY = frozenset({Purpose.VOLUME}), frozenset({Purpose.RECOVERY})


def in_memory() -> tempfile.TemporaryDirectory[str]:
    shm = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None)


@pytest.fixture
def volume() -> Iterator[SimulatedVolume]:
    with in_memory() as folder:
        yield SimulatedVolume.formatted(Path(folder))


def run(
    volume: SimulatedVolume,
    rotate: frozenset[Purpose] = frozenset(),
    kill: frozenset[int] = frozenset(),
) -> list[str]:
    """A whole run: its steps are those that were listed before."""
    _, seen = volume.life().look()
    goal = plan.goal(seen, rotate, kill)
    listed = [str(step) for step in plan.steps(seen, goal)]
    done = [str(step) for step in volume.life().reach(goal)]
    assert done == listed
    return done


def known_keys(volume: SimulatedVolume) -> dict[int, bytes]:
    """Keyslots that a key opens which custody unwraps from the volume or the records."""
    recoveries = {
        item.epoch: item.wrapped for item in volume.records.recoveries(volume.keys.context(""))
    }
    found = {}
    for data in volume.tokens.values():
        try:
            token = parse(data)
        except TokenError:
            continue
        if token is None or token.keyslot is None:
            continue
        purpose = "volume" if token.wrapped else "recovery"
        wrapped = token.wrapped or recoveries.get(token.epoch)
        if wrapped is None:
            continue
        key = volume.custody.unwrap(wrapped, volume.keys.context(purpose))
        if volume.slots[token.keyslot] == key:
            found[token.keyslot] = key
    return found


def epochs(volume: SimulatedVolume) -> dict[str, int]:
    found: dict[str, int] = {}
    for data in volume.tokens.values():
        if str(data.get("epoch")).isdigit() and data["type"] != "strongbox-next":
            found[data["type"]] = max(found.get(data["type"], 0), int(data["epoch"]))
    return found


def assert_complete(volume: SimulatedVolume, others: int = 0) -> None:
    assert len(volume.slots) == 2 + others
    assert sorted(token["type"] for token in volume.tokens.values()) == [
        "strongbox", "strongbox-recovery",
    ]  # fmt: skip
    assert len(known_keys(volume)) == 2
    context = volume.keys.context("header")
    assert len(volume.records.recoveries(context)) == 1
    (backup,) = volume.records.headers(context)
    assert volume.records.open_header(context, backup.path) == volume.image()


def test_new_volume_gets_recovery_key_escrow_and_backup(volume: SimulatedVolume) -> None:
    assert run(volume)
    assert_complete(volume)


def test_nothing_is_done_and_no_custody_asked_when_nothing_is_missing(
    volume: SimulatedVolume,
) -> None:
    run(volume)
    asked, before = volume.custody.unwrapped, volume.image()
    assert run(volume) == []
    assert (volume.custody.unwrapped, volume.image()) == (asked, before)


@pytest.mark.parametrize("rotate", [MACHINE, RECOVERY, BOTH])
def test_rotation_replaces_only_what_was_asked(
    volume: SimulatedVolume, rotate: frozenset[Purpose]
) -> None:
    run(volume)
    before, old = epochs(volume), set(volume.slots.values())
    run(volume, rotate)
    assert_complete(volume)
    after = epochs(volume)
    assert after["strongbox"] - before["strongbox"] == (Purpose.VOLUME in rotate)
    assert after["strongbox-recovery"] - before["strongbox-recovery"] == (
        Purpose.RECOVERY in rotate
    )
    assert len(old & set(volume.slots.values())) == 2 - len(rotate)


def test_unknown_keyslot_is_left_alone_and_reported(volume: SimulatedVolume) -> None:
    run(volume)
    volume.slots[7] = b"the admin's own key, which nobody told us of"
    for rotate in (frozenset(), BOTH):
        run(volume, rotate)
        assert volume.slots[7] == b"the admin's own key, which nobody told us of"
    _, seen = volume.life().look()
    (note,) = plan.notes(seen, plan.goal(seen))
    assert note.startswith("keyslot 7 ")
    assert_complete(volume, others=1)


def test_unknown_keyslot_is_removed_when_it_is_named(volume: SimulatedVolume) -> None:
    run(volume)
    volume.slots[7] = b"x" * 64
    run(volume, kill=frozenset({7}))
    assert_complete(volume)


def test_known_keyslot_is_not_removed_by_naming_it(volume: SimulatedVolume) -> None:
    run(volume)
    before = dict(volume.slots)
    run(volume, kill=frozenset({0, 1}))
    assert volume.slots == before


def test_another_programs_keyslot_stays(volume: SimulatedVolume) -> None:
    volume.slots[3] = b"y" * 64
    volume.tokens[5] = {"type": "systemd-recovery", "keyslots": ["3"]}
    run(volume, BOTH)
    run(volume, BOTH)
    assert volume.slots[3] == b"y" * 64
    assert volume.tokens.pop(5)["type"] == "systemd-recovery"


@pytest.mark.parametrize("ciphertext", ["", "not base64!", "AAA"])
def test_damaged_token_is_replaced_by_authority_of_the_recovery_key(
    volume: SimulatedVolume, ciphertext: str
) -> None:
    run(volume)
    run(volume, MACHINE)
    lost = next(number for number, data in volume.tokens.items() if data["type"] == "strongbox")
    volume.tokens[lost]["ciphertext"] = ciphertext
    run(volume)
    assert len(known_keys(volume)) == 2
    # The keyslot of the lost key opens for nobody; it goes when it is named.
    _, seen = volume.life().look()
    assert len(seen.unknown) == 1
    assert epochs(volume)["strongbox"] >= 2
    run(volume, kill=seen.unknown)
    assert_complete(volume)


def test_volume_without_any_known_key_is_refused(volume: SimulatedVolume) -> None:
    volume.tokens.clear()
    with pytest.raises(Refusal, match="no key of it is known"):
        run(volume)
    assert list(volume.slots) == [0]


def test_recovery_key_that_is_in_no_record_is_refused_with_both_ways_out(
    volume: SimulatedVolume,
) -> None:
    run(volume)
    volume.records.forget(volume.keys.context("recovery"))
    before = volume.image()
    for rotate in (frozenset(), MACHINE):
        with pytest.raises(Refusal, match="volumes_rotate=recovery"):
            run(volume, rotate)
    assert volume.image() == before
    run(volume, RECOVERY)
    assert_complete(volume)


def test_token_of_another_keyslot_is_refused_and_changes_nothing(volume: SimulatedVolume) -> None:
    run(volume)
    volume.slots[0] = b"not the key that the token has"
    before = volume.image()
    _, seen = volume.life().look()
    with pytest.raises(Refusal, match="token remove --token-id 0 "):
        list(volume.life().reach(plan.goal(seen, MACHINE)))
    assert volume.image() == before


def test_all_keyslots_taken_is_refused(volume: SimulatedVolume) -> None:
    volume.slots |= {slot: bytes([slot]) * 64 for slot in range(1, 32)}
    with pytest.raises(Refusal, match="all of its keyslots are taken"):
        run(volume)


def test_header_that_changes_between_looking_and_doing_is_left_alone(
    volume: SimulatedVolume,
) -> None:
    run(volume)
    _, seen = volume.life().look()
    before = dict(volume.slots), dict(volume.tokens)

    def interfering(script: Script) -> Result:
        if script.name == "keys-token":
            volume.sequence += 1
        return volume.run(script)

    life = Life(volume.keys, interfering, volume.custody, volume.records)
    with pytest.raises(ScriptError, match="the header changed"):
        list(life.reach(plan.goal(seen, MACHINE)))
    assert (volume.slots, volume.tokens) == before


def test_header_that_is_not_as_the_step_had_to_leave_it_stops_the_run(
    volume: SimulatedVolume,
) -> None:
    run(volume)
    _, seen = volume.life().look()

    def interfering(script: Script) -> Result:
        result = volume.run(script)
        if script.name == "keys-add":
            volume.slots[9] = b"z" * 64
        return result

    life = Life(volume.keys, interfering, volume.custody, volume.records)
    with pytest.raises(Refusal, match="another program may be changing it"):
        list(life.reach(plan.goal(seen, MACHINE)))
    assert known_keys(volume)


class _Killer:
    """Ends the process at the nth chance."""

    def __init__(self, chance: int) -> None:
        self.left = chance

    def __call__(self, _: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


RUNS = st.lists(
    st.tuples(
        st.sets(st.sampled_from(list(Purpose))).map(frozenset),
        st.integers(min_value=0, max_value=26),
    ),
    min_size=1,
    max_size=4,
)


@given(runs=RUNS, foreign=st.booleans(), damage=st.integers(min_value=0, max_value=8))
@examples(100)
def test_killed_anywhere_there_is_a_known_key_and_the_next_run_finishes(
    runs: list[tuple[frozenset[Purpose], int]], foreign: bool, damage: int
) -> None:
    with in_memory() as folder:
        volume = SimulatedVolume.formatted(Path(folder))
        first_key = volume.slots[0]
        if foreign:
            volume.slots[2] = b"f" * 64
        rotated, highest = False, epochs(volume)

        def checked(killer: _Killer) -> None:
            def at(when: str) -> None:
                nonlocal highest
                assert known_keys(volume), when
                now = epochs(volume)
                assert all(now[kind] >= highest[kind] for kind in highest), when
                highest = now
                killer(when)

            volume.at = at
            _hook_records(volume, killer)

        for rotate, chance in runs:
            checked(_Killer(chance))
            try:
                run(volume, rotate)
                rotated |= Purpose.VOLUME in rotate
            except Killed:
                pass
        volume.at = lambda _: None
        _hook_records(volume, _Killer(10**6))
        run(volume)
        assert_complete(volume, others=foreign)
        if rotated:
            assert first_key not in volume.slots.values()
        assert run(volume) == []
        if damage < 2:
            _damage(volume, damage)
            run(volume)
            assert known_keys(volume)


def _hook_records(volume: SimulatedVolume, killer: _Killer) -> None:
    for name in ("put_recovery", "put_header", "forget_before"):
        real = getattr(type(volume.records), name)

        def hooked(*args: object, _real: object = real, **rest: object) -> object:
            killer("before a record")
            result = _real(volume.records, *args, **rest)  # type: ignore[operator]
            killer("after a record")
            return result

        setattr(volume.records, name, hooked)


def _damage(volume: SimulatedVolume, which: int) -> None:
    kind = ("strongbox", "strongbox-recovery")[which]
    for token in volume.tokens.values():
        if token["type"] == kind:
            token["epoch"] = "?"


def test_staged_token_shows_only_the_wrapped_key(volume: SimulatedVolume) -> None:
    run(volume)
    volume.at = lambda when: (_ for _ in ()).throw(Killed()) if when == "after keys-token" else None
    with pytest.raises(Killed):
        run(volume, MACHINE)
    staged = next(item for item in volume.tokens.values() if item["type"] == "strongbox-next")
    assert set(staged) == {
        "type", "keyslots", "purpose", "slot", "epoch", "scheme", "key_id", "ciphertext",
    }  # fmt: skip
    assert json.dumps(staged).isascii()


def test_replaced_disk_gets_none_of_the_old_disks_keys(volume: SimulatedVolume) -> None:
    run(volume)
    for _ in range(2):
        run(volume, BOTH)
    old = set(volume.slots.values())
    with in_memory() as folder:
        replaced = SimulatedVolume.formatted(Path(folder))
        replaced.custody.kept |= volume.custody.kept
        replaced.records = Records(volume.records._folder, replaced.custody)
        expected = formatted(replaced.keys, replaced.records)
        listed = [str(step) for step in plan.steps(expected, plan.goal(expected))]
        # What is planned before the disk is formatted is what is done after.
        assert run(replaced) == listed
        assert listed[0] == "escrow a new recovery key, epoch 4"
        assert not old & set(replaced.slots.values())
        assert_complete(replaced)
        assert run(replaced) == []


def test_reencrypted_volume_gets_its_recovery_key_again(volume: SimulatedVolume) -> None:
    run(volume)
    before = dict(volume.slots)
    (slot,) = {0, 1} - {token.slot for token in volume.life().look()[1].bound(Purpose.VOLUME)}
    del volume.slots[slot]
    for token in volume.tokens.values():
        token["keyslots"] = [item for item in token["keyslots"] if item != str(slot)]
    run(volume)
    assert set(volume.slots.values()) == set(before.values())
    assert_complete(volume)
