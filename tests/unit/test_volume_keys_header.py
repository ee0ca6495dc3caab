"""What is read of a header and refused because of it, without a disk."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from roles.custody.protocol import CustodyError
from roles.volumes.keys import erase, plan, reencrypt, restore
from roles.volumes.keys.header import Header, HeaderError, parse, read_backup
from roles.volumes.keys.life import check, look
from roles.volumes.keys.plan import Refusal
from roles.volumes.keys.restore import Action
from roles.volumes.keys.unlocking import keys_to_try
from tests.examples import examples
from tests.unit.simulated_volume import SimulatedVolume
from tests.unit.test_volume_keys_life import in_memory


@pytest.fixture
def volume() -> Iterator[SimulatedVolume]:
    with in_memory() as folder:
        made = SimulatedVolume.formatted(Path(folder))
        _, seen = made.life().look()
        list(made.life().reach(plan.goal(seen)))
        yield made


@pytest.fixture
def header(volume: SimulatedVolume) -> Header:
    return look(volume.run, volume.keys)


def test_header_is_read(volume: SimulatedVolume, header: Header) -> None:
    assert header.whole
    assert header.keyslots == {0, 1}
    assert header.claimed == {volume.keys.uuid}
    check(volume.keys, header)


def test_absent_device_is_not_an_empty_one(volume: SimulatedVolume) -> None:
    absent = parse(["device /dev/x"])["/dev/x"]
    assert not absent.there
    with pytest.raises(Refusal, match="is not there"):
        check(volume.keys, absent)


@pytest.mark.parametrize("missing", ["first", "digest", "signature", "holders", "serial"])
def test_answer_that_is_not_whole_is_refused(volume: SimulatedVolume, missing: str) -> None:
    lines = [line for line in volume._look() if not line.startswith(missing)]
    with pytest.raises(HeaderError):
        parse(lines)


@given(at=st.integers(min_value=0, max_value=32767), value=st.integers(1, 255))
@examples(60)
def test_changed_byte_damages_its_copy_only(at: int, value: int) -> None:
    assume(not 480 <= at % 16384 < 512)  # room for a longer checksum, which nothing reads
    with in_memory() as folder:
        volume = SimulatedVolume.formatted(Path(folder))
        image = bytearray(volume.image())
        image[at] ^= value
        fields = {line.split()[0]: line for line in volume._look()}
        for name, offset in (("first", 0), ("second", 16384)):
            packed = base64.b64encode(gzip.compress(bytes(image[offset : offset + 16384]), 1))
            fields[name] = f"{name} {packed.decode()}"
        found = parse(list(fields.values()))[volume.keys.device]
        # A byte behind the text of the metadata counts too, as the checksum covers it.
        assert (found.first is None) == (at < 16384)
        assert (found.second is None) == (at >= 16384)
        assert not found.whole
        with pytest.raises(Refusal):
            check(volume.keys, found)


def test_backup_without_key_material_is_none(volume: SimulatedVolume) -> None:
    image = bytearray(volume.image())
    assert read_backup(bytes(image)) is not None
    image[32768 : 32768 + 64] = bytes(64)
    assert read_backup(bytes(image)) is None
    assert read_backup(bytes(image[:32768])) is None
    assert read_backup(b"") is None


def test_what_a_damaged_header_needs(volume: SimulatedVolume, header: Header) -> None:
    decide = restore.decide
    assert decide(volume.keys, replace(header, first=None), volume.records) is Action.REPAIR
    assert decide(volume.keys, replace(header, second=None), volume.records) is Action.REPAIR
    lost = replace(header, first=None, second=None, claimed=frozenset(), signature="")
    assert decide(volume.keys, lost, volume.records) is Action.RESTORE
    assert decide(volume.keys, header, volume.records) is Action.RESTORE
    for bad, said in (
        (replace(lost, signature="xfs"), "holds xfs now"),
        (replace(header, claimed=frozenset({"0000"})), "it is another disk"),
        (replace(lost, there=False), "is not there"),
    ):
        with pytest.raises(Refusal, match=said):
            decide(volume.keys, bad, volume.records)
    volume.records.forget(volume.keys.context("header"))
    with pytest.raises(Refusal, match="no header backup"):
        decide(volume.keys, lost, volume.records)


def test_intact_header_is_not_restored(volume: SimulatedVolume) -> None:
    with pytest.raises(Refusal, match="is intact"):
        restore.restore(volume.keys, volume.run, volume.life(), volume.records)
    assert "keys-restore" not in volume.scripts


def test_one_disk_is_named_to_be_erased(volume: SimulatedVolume, header: Header) -> None:
    other = replace(volume.keys, host="zk2")
    theirs = replace(header, serial="sim2", claimed=frozenset({other.uuid}))
    found = {volume.keys: header, other: theirs}
    assert erase.named("sim", found) == volume.keys
    assert erase.named("sim2", found) == other
    assert erase.named(other.uuid, found) == other
    for confirm, said in (("", "nothing is erased"), ("x", "no disk of"), ("main", "no disk of")):
        with pytest.raises(Refusal, match=said):
            erase.named(confirm, found)
    # What is declared to be on the disk is not, or not for sure.
    for doubtful in (
        replace(theirs, claimed=frozenset()),
        replace(theirs, claimed=header.claimed),
        replace(theirs, claimed=theirs.claimed | header.claimed),
        replace(theirs, second=None),
    ):
        with pytest.raises(Refusal, match="named by its serial"):
            erase.named(other.uuid, {other: doubtful})
        assert erase.named("sim2", {other: doubtful}) == other
    with pytest.raises(Refusal, match="several disks"):
        erase.named("sim", {volume.keys: header, other: header})


def test_disk_in_use_or_of_another_is_not_erased(volume: SimulatedVolume, header: Header) -> None:
    for bad, said in (
        (replace(header, holders=("dm-0",)), "is open"),
        (replace(header, signature="ext4"), "holds ext4"),
        (replace(header, claimed=frozenset({"0000"})), "it is another disk"),
    ):
        with pytest.raises(Refusal, match=said):
            erase.check(volume.keys, bad)
    erase.check(volume.keys, header)
    assert not erase.done(volume.keys, header, volume.records)


def test_closed_volume_is_not_reencrypted(volume: SimulatedVolume, header: Header) -> None:
    with pytest.raises(Refusal, match="is not open"):
        reencrypt.steps(volume.keys, header)
    opened = reencrypt.steps(volume.keys, replace(header, holders=("dm-0",)))
    assert opened[0] == reencrypt.BACKUP


def test_machine_key_is_tried_before_the_recovery_key(
    volume: SimulatedVolume, header: Header
) -> None:
    tried = list(keys_to_try(volume.keys, header, volume.custody, volume.records))
    assert [name for name, _ in tried] == ["machine key, epoch 1", "recovery key, epoch 1"]
    assert [key for _, key in tried] == [volume.slots[0], volume.slots[1]]


def test_key_that_custody_cannot_unwrap_leaves_the_other(
    volume: SimulatedVolume, header: Header
) -> None:
    ciphertext = volume.tokens[0]["ciphertext"]
    key, context = volume.custody.kept[ciphertext]
    volume.custody.kept[ciphertext] = (key, replace(context, host="zk2"))
    tried = list(keys_to_try(volume.keys, header, volume.custody, volume.records))
    assert [name for name, _ in tried] == ["recovery key, epoch 1"]
    volume.records.forget(volume.keys.context("header"))
    with pytest.raises(CustodyError):
        list(keys_to_try(volume.keys, header, volume.custody, volume.records))


def test_volume_without_keys_is_refused(volume: SimulatedVolume, header: Header) -> None:
    lost = replace(header, first=None, second=None)
    volume.records.forget(volume.keys.context("header"))
    with pytest.raises(Refusal, match="no key of zk1/main is known"):
        list(keys_to_try(volume.keys, lost, volume.custody, volume.records))
