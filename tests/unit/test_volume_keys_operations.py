"""What is planned for the keys of volumes whose header the same run writes before."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from roles.volumes.keys.header import Header, parse
from roles.volumes.keys.host import HostKeys
from roles.volumes.keys.life import look
from roles.volumes.keys.operations import planned
from roles.volumes.keys.plan import Refusal
from roles.volumes.operations import being_set_up
from roles.volumes.plan import Action
from roles.volumes.settings import VolumesSettings
from tests.unit.simulated_volume import SimulatedVolume, luks2_copy
from tests.unit.test_volume_keys_life import in_memory, run
from tests.unit.test_volumes_operations import (
    CLOSED,
    DISK,
    EMPTY,
    MOUNTED,
    OPENED,
    SETTINGS,
    Run,
    luks_header,
    with_header,
)

XFS = f"{DISK}blkid 0\nprobe TYPE=xfs\nsignature 0x0 xfs\nmount-point absent\n"
LVM = XFS.replace("xfs", "LVM2_member")
FOREIGN = with_header(luks_header("theirs", uuid="0b5e7a3c-0000-4000-8000-000000000000"))
CONFIRMED = SETTINGS.model_copy(update={"wipe_confirm": "kafka1.example:DISK-1"})
FRESH = [
    "escrow a new recovery key, epoch 1",
    "announce the new recovery key, epoch 1, for keyslot 1",
    "add the new recovery key in keyslot 1",
    "prove that it opens keyslot 1, and write its token",
    "seal a backup of the header",
]


@pytest.mark.parametrize(
    ("seen", "settings", "expected"),
    [
        (EMPTY, SETTINGS, {"main": Action.FORMAT}),
        (XFS, CONFIRMED, {"main": Action.FORMAT}),
        (LVM, CONFIRMED, {"main": Action.FORMAT}),
        (FOREIGN, CONFIRMED, {"main": Action.FORMAT}),
        (with_header(luks_header("strongbox-new-main")), SETTINGS, {"main": Action.FORMAT}),
        (
            with_header(luks_header("strongbox-main", damage=1), OPENED),
            SETTINGS,
            {"main": Action.REPAIR},
        ),
        (MOUNTED, SETTINGS, {}),
        (CLOSED, SETTINGS, {}),
    ],
)
def test_what_is_done_to_a_header_comes_from_the_plan_of_the_volumes(
    seen: str, settings: VolumesSettings, expected: dict[str, Action]
) -> None:
    with Run(seen, executing=False) as run:
        assert being_set_up(run.volumes(settings)) == expected
        assert run.keys.asked == []


@pytest.fixture
def volume() -> Iterator[SimulatedVolume]:
    with in_memory() as folder:
        yield SimulatedVolume.formatted(Path(folder))


def steps(volume: SimulatedVolume, found: Header, before: Action | None = None) -> list[str]:
    keys = HostKeys(
        (volume.keys,),
        SETTINGS,
        lambda: volume.custody,  # type: ignore[arg-type, return-value]
        str(volume.records._folder),
    )
    return [str(step) for step in planned(volume.keys, found, keys, frozenset(), before)[2]]


def _looked(volume: SimulatedVolume, **lines: str) -> Header:
    changed = [
        f"{name} {lines.get(name, value)}"
        for name, _, value in (line.partition(" ") for line in volume._look())
    ]
    return parse(changed)[volume.keys.device]


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content)).decode()


def test_wipe_is_planned_whatever_is_on_the_disk(volume: SimulatedVolume) -> None:
    foreign = [_packed(luks2_copy(n, 1, "0b5e7a3c-0000-4000-8000-0", {})) for n in (0, 1)]
    for found, said in (
        (_looked(volume, first="-", second="-", signature="xfs"), "damaged or missing"),
        (_looked(volume, first="-", second="-", signature="LVM2_member"), "damaged or missing"),
        (_looked(volume, first=foreign[0], second=foreign[1]), "it is another disk"),
    ):
        assert steps(volume, found, Action.FORMAT) == FRESH
        # At its turn the header itself counts.
        with pytest.raises(Refusal, match=said):
            steps(volume, found)


def test_formatting_that_was_killed_before_its_token_is_planned(volume: SimulatedVolume) -> None:
    volume.tokens.clear()
    found = look(volume.run, volume.keys)
    assert steps(volume, found, Action.FORMAT) == FRESH
    with pytest.raises(Refusal, match="no key of it is known"):
        steps(volume, found)


@pytest.mark.parametrize("torn", ["first", "second"])
def test_header_that_will_be_repaired_keeps_its_keys(volume: SimulatedVolume, torn: str) -> None:
    run(volume)
    intact = look(volume.run, volume.keys)
    assert steps(volume, intact) == []
    magic = b"LUKS\xba\xbe" if torn == "first" else b"SKUL\xba\xbe"
    found = _looked(volume, **{torn: _packed(magic + bytes(16378))})
    assert found.newest and not found.whole
    # The copy that cryptsetup writes has a salt of its own, so the backup is another.
    assert steps(volume, found, Action.REPAIR) == [
        "seal a backup of the header",
        "forget older header backups and recovery keys",
    ]
    with pytest.raises(Refusal):
        steps(volume, found)


def test_no_repair_is_planned_of_what_has_no_whole_copy(volume: SimulatedVolume) -> None:
    found = replace(look(volume.run, volume.keys), first=None, second=None)
    with pytest.raises(Refusal, match="damaged or missing"):
        steps(volume, found, Action.REPAIR)
