"""A re-encryption is killed at every step, and always finished by the next run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.ebs.model import EbsDisk, Instance, Place, Snapshot, Stage
from roles.ebs.plan import Refusal
from roles.ebs.swap import (
    OTHER,
    Delete,
    HostState,
    Step,
    Swap,
    next_step,
    plan_delete,
    remaining,
    swap,
)
from tests.examples import examples

ARN = "arn:aws:kms:eu-central-1:123456789012:key/1"
PLACE = Place("payments", "kafka1.test", "main")
INSTANCE = Instance("i-1", "running", "a")
OLD, NEW = "vol-0001", "vol-0002"


def disk(name: str, *, attached: bool = True, key: str = "", **more: object) -> EbsDisk:
    made = EbsDisk(
        name, "in-use" if attached else "available", "a", bool(key), key, 100, "gp3", 3000, 125,
        ("i-1",) if attached else (), "attached" if attached else "", "/dev/sdf",
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


@dataclass
class World:
    """AWS and a host, as they behave: requests are accepted first and come true later.

    ``content`` is what each volume and snapshot holds, as the number of writes before it was taken.
    """

    disks: dict[str, EbsDisk] = field(default_factory=lambda: {OLD: disk(OLD)})
    snapshots: list[Snapshot] = field(default_factory=list)
    content: dict[str, int] = field(default_factory=lambda: {OLD: 1})
    writes: int = 1
    running: bool = True
    mounted: str = OLD
    recorded: set[str] = field(default_factory=set)
    in_sync: bool = True

    def look(self) -> Swap | Refusal | None:
        new = next((d for d in self.disks.values() if d.copy_of == OLD), None)
        host = HostState(
            self.running,
            self.mounted,
            new is not None and new.id in self.recorded,
            self.in_sync and new is not None and self.mounted == new.id,
        )
        return swap(PLACE, ARN, INSTANCE, host, list(self.disks.values()), self.snapshots, 100)

    def set(self, name: str, **change: object) -> None:
        self.disks[name] = replace(self.disks[name], **change)  # type: ignore[arg-type]

    def settle(self) -> None:
        """What was accepted comes true."""
        for name, item in self.disks.items():
            if item.state == "creating":
                self.set(name, state="available")
            elif item.attachment == "attaching":
                self.set(name, attachment="attached")
            elif item.attachment == "detaching":
                self.set(name, state="available", attached_to=(), attachment="")
        self.snapshots = [replace(item, state="completed") for item in self.snapshots]

    def write(self) -> None:
        """The broker writes wherever it can."""
        if self.running and self.mounted:
            self.writes += 1
            self.content[self.mounted] = self.writes

    def request(self, step: Step) -> None:
        """The first half of a step: killed after it, the second half is left to AWS."""
        new = next((d.id for d in self.disks.values() if d.copy_of == OLD), "")
        match step:
            case Step.STOP:
                self.running = self.in_sync = False
            case Step.UNMOUNT:
                assert not self.running
                self.mounted = ""
            case Step.DETACH:
                assert self.mounted == ""
                self.set(OLD, attachment="detaching")
            case Step.SNAPSHOT:
                assert self.disks[OLD].state == "available"
                self.snapshots.append(Snapshot("snap-1", "pending", OLD, False, ""))
                self.content["snap-1"] = self.content[OLD]
            case Step.SEAL:
                assert self.snapshots[-1].state == "completed"
                self.snapshots.append(Snapshot("snap-2", "pending", OLD, True, ARN))
                self.content["snap-2"] = self.content["snap-1"]
            case Step.CREATE:
                assert self.snapshots[-1].state == "completed"
                self.disks[NEW] = disk(
                    NEW, attached=False, key=ARN, state="creating", stage=Stage.COPY, copy_of=OLD
                )
                self.content[NEW] = self.content["snap-2"]
            case Step.ATTACH:
                self.set(new, state="in-use", attached_to=("i-1",), attachment="attaching")
            case Step.RETIRE:
                self.set(OLD, stage=Stage.REPLACED)
            case Step.SWAP:
                self.set(new, stage=Stage.SWAPPED)
            case Step.RECORD:
                self.recorded.add(new)
            case Step.MOUNT:
                assert not self.running
                assert new in self.recorded
                self.mounted = new
            case Step.START:
                self.running = True
            case Step.FINISH:
                self.set(new, stage=Stage.CURRENT)

    def finish(self, step: Step) -> None:
        self.settle()
        if step is Step.START:
            self.in_sync = True

    def check(self) -> None:
        """What has been written is complete on a volume, and the old one is as it was."""
        assert max(self.content[name] for name in self.disks) == self.writes
        assert OLD in self.disks
        if self.running:
            assert self.content[self.mounted] == self.writes


def run(world: World, kills: list[bool]) -> list[Step]:
    """Runs until nothing is left, killed after the request of a step wherever *kills* says so."""
    taken: list[Step] = []
    for _ in range(100):
        now = world.look()
        if now is None:
            return taken
        assert isinstance(now, Swap), now
        step = next_step(now)
        if step is None:
            return taken
        assert isinstance(step, Step), step
        taken.append(step)
        world.request(step)
        world.check()
        killed = kills.pop(0) if kills else False
        if not killed:
            world.finish(step)
        world.write()
        world.check()
    raise AssertionError(f"does not end: {taken}")


def is_done(world: World) -> bool:
    new = world.disks[NEW]
    return (
        new.stage is Stage.CURRENT
        and new.is_under(ARN)
        and world.mounted == NEW
        and world.running
        and world.in_sync
        and world.disks[OLD].stage is Stage.REPLACED
        and len(world.disks) == 2
        and len(world.snapshots) == 2
    )


PLAIN = [step for step in Step if not step.name.startswith("WAIT")]


def test_without_a_kill_each_step_is_taken_once_in_order() -> None:
    world = World()
    assert run(world, []) == PLAIN
    assert is_done(world)


def test_what_a_dry_run_tells_is_what_is_done() -> None:
    now = World().look()
    assert isinstance(now, Swap)
    assert remaining(now) == PLAIN


@pytest.mark.parametrize("at", range(len(PLAIN)))
def test_killed_after_each_request(at: int) -> None:
    world = World()
    run(world, [False] * at + [True])
    assert is_done(world)


@examples(200)
@given(st.lists(st.booleans(), max_size=40))
def test_killed_anywhere_any_number_of_times(kills: list[bool]) -> None:
    world = World()
    # AWS goes on by itself in between: a request that was accepted comes true in the end.
    run(world, kills)
    assert is_done(world)


def test_one_attached_again_after_it_was_copied_is_not_trusted() -> None:
    world = World()
    for step in (Step.STOP, Step.UNMOUNT, Step.DETACH, Step.SNAPSHOT):
        world.request(step)
        world.finish(step)
    world.set(OLD, state="in-use", attached_to=("i-1",), attachment="attached")
    now = world.look()
    assert isinstance(now, Swap)
    assert "was attached again after it was copied, so snap-1 may lack" in str(next_step(now))


def changed(**change: object) -> Swap | Refusal | None:
    world = World()
    world.set(OLD, **change)
    return world.look()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": "error"}, "is in state error"),
        ({"attached_to": ("i-2",)}, "it is not this host's"),
        ({"zone": "b"}, "is in b"),
        ({"size_gib": 101}, "the new volume can be larger and not smaller"),
    ],
)
def test_an_old_volume_that_is_refused(change: dict[str, object], said: str) -> None:
    now = changed(**change)
    assert isinstance(now, Swap)
    found = next_step(now)
    assert isinstance(found, Refusal)
    assert said in str(found)


def test_nothing_to_do() -> None:
    assert changed(encrypted=True, key=ARN) is None
    assert "none of ours" in str(changed(stage=None))
    world = World()
    world.disks["vol-0003"] = disk("vol-0003")
    assert "all have its tags" in str(world.look())


def test_an_open_luks_volume_is_not_touched() -> None:
    world = World(mounted=OTHER)
    now = world.look()
    assert isinstance(now, Swap)
    assert next_step(replace(now, host=replace(now.host, running=False))) == Refusal(
        f"{PLACE}: at its mount point is something that is not an EBS volume, such as an open LUKS "
        "volume: this is done only for file systems that lie on the EBS volume itself"
    )


def test_a_copy_under_another_key_is_not_used() -> None:
    world = World()
    run(world, [])
    world.set(NEW, key="other", stage=Stage.COPY)
    world.set(OLD, stage=Stage.CURRENT)
    now = world.look()
    assert isinstance(now, Swap)
    assert "is not encrypted under" in str(next_step(now))


def delete(world: World, name: str) -> Delete | Refusal:
    return plan_delete(name, ARN, ["i-1"], list(world.disks.values()), world.snapshots)


def test_only_what_was_replaced_is_deleted() -> None:
    world = World()
    for step in PLAIN:
        assert isinstance(delete(world, OLD), Refusal)
        world.request(step)
        world.finish(step)
    assert delete(world, OLD) == Delete(OLD, ("snap-1", "snap-2"))
    assert "was not replaced" in str(delete(world, NEW))
    assert "has no volume" in str(delete(world, "vol-0009"))
    for change in (
        {"encrypted": False},
        {"key": "other"},
        {"state": "available"},
        {"attached_to": ("i-2",)},
        {"copy_of": ""},
    ):
        kept = World(disks=dict(world.disks), snapshots=world.snapshots)
        kept.set(NEW, **change)
        assert "it is kept" in str(delete(kept, OLD)), change
    world.set(OLD, state="in-use", attached_to=("i-1",))
    assert "kept until it is detached" in str(delete(world, OLD))
