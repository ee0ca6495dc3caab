"""The rules that keep data: what is formatted, and everything that is not."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.custody.protocol import WrappedKey
from roles.volumes.luks2 import Luks
from roles.volumes.plan import (
    CONFIRMABLE,
    MOUNT_OPTIONS,
    Action,
    MountPoint,
    Reason,
    Refusal,
    Seen,
    Step,
    Wanted,
    Why,
    flags,
    is_first_setup,
    needs_unlocking,
    new_label,
    plan,
    plan_host,
    wanted,
)
from roles.volumes.settings import Volume, VolumesSettings
from roles.volumes.token import Token
from tests.examples import examples
from tests.unit.volumes_support import (
    CLOSED,
    CONFIRMED,
    DEVICE,
    EBS,
    EBS_VOLUME,
    EMPTY,
    FOREIGN_UUID,
    HOST,
    MOUNT,
    MOUNTED,
    OPEN,
    OPENED,
    OTHER_UUID,
    OURS,
    SERIAL,
    TOKEN,
    UUID,
    VOLUME,
    after,
    with_luks,
)

VERIFIED = frozenset({EBS})
SETUP = [
    Action.FORMAT, Action.OPEN, Action.MAKE_FILESYSTEM, Action.FINISH, Action.MOUNT,
]  # fmt: skip
NEW = with_luks(label=new_label("main"))


def steps(seen: Seen, confirmed: str = "", volume: Wanted = VOLUME) -> list[Step]:
    found = plan(volume, seen, OURS, VERIFIED, confirmed)
    assert not isinstance(found, Refusal), str(found)
    return found


def refusal(seen: Seen, confirmed: str = "", volume: Wanted = VOLUME) -> Refusal:
    found = plan(volume, seen, OURS, VERIFIED, confirmed)
    assert isinstance(found, Refusal), found
    return found


def actions(seen: Seen, confirmed: str = "", volume: Wanted = VOLUME) -> list[Action]:
    return [step.action for step in steps(seen, confirmed, volume)]


def test_an_empty_declared_disk_is_set_up() -> None:
    assert actions(EMPTY) == SETUP
    assert steps(EMPTY)[0].why is Why.EMPTY


def test_a_mounted_volume_is_left_alone() -> None:
    assert steps(MOUNTED) == []


def test_a_closed_volume_is_opened_with_its_token() -> None:
    assert steps(CLOSED) == [
        Step(Action.OPEN, Why.CLOSED, TOKEN),
        Step(Action.MOUNT, Why.CLOSED),
    ]
    assert needs_unlocking(steps(CLOSED)) and not needs_unlocking(steps(EMPTY))
    assert is_first_setup(steps(EMPTY)) and not is_first_setup(steps(CLOSED))


def test_an_open_volume_is_mounted() -> None:
    assert actions(OPEN) == [Action.MOUNT]


def test_mount_options_are_put_right() -> None:
    point = replace(MOUNTED.mount_point, options=MOUNT_OPTIONS - {"noexec"})
    assert actions(replace(MOUNTED, mount_point=point)) == [Action.REMOUNT]


def test_a_device_that_the_kernel_renamed_changes_nothing() -> None:
    opened = replace(OPENED, on=("vdq",), filesystem="xfs", mounted=(MOUNT,))
    renamed = replace(MOUNTED, kernel="vdq", mapping=opened)
    assert steps(renamed) == []
    assert actions(replace(CLOSED, kernel="vdq")) == actions(CLOSED)


@pytest.mark.parametrize("seen", [NEW, with_luks(label=new_label("main"), tokens=())])
def test_a_volume_that_was_never_mounted_starts_over(seen: Seen) -> None:
    assert actions(seen) == SETUP
    assert steps(seen)[0].why is Why.INTERRUPTED


def test_what_an_interrupted_run_left_open_is_closed_first() -> None:
    seen = replace(NEW, mapping=OPENED, holders=("dm-0",), exclusive=False)
    assert actions(seen) == [Action.CLOSE, *SETUP]


def test_a_volume_mounted_before_it_was_noted_is_only_noted() -> None:
    assert MOUNTED.luks is not None
    luks = replace(MOUNTED.luks, label=new_label("main"))
    assert actions(replace(MOUNTED, luks=luks)) == [Action.FINISH]
    point = replace(MOUNTED.mount_point, options=frozenset())
    without = replace(MOUNTED, luks=luks, mount_point=point)
    assert actions(without) == [Action.FINISH, Action.REMOUNT]


def test_the_mark_of_a_formatting_that_began_lets_it_go_on() -> None:
    seen = replace(EMPTY, head_zero=False, mark=UUID)
    assert actions(seen) == SETUP
    assert steps(seen)[0].why is Why.INTERRUPTED


@pytest.mark.parametrize(
    "seen",
    [
        replace(EMPTY, head_zero=False, mark=OTHER_UUID),
        replace(EMPTY, mark=OTHER_UUID),
        replace(EMPTY, head_zero=False, tail_zero=False, mark=UUID),
    ],
)
def test_a_mark_that_proves_nothing(seen: Seen) -> None:
    assert refusal(seen).reason is Reason.DATA_WITHOUT_SIGNATURE


def test_the_newest_token_with_a_keyslot_opens() -> None:
    newer = Token(3, 2, WrappedKey("age", "recipients", "bmV3ZXI="))
    newest = Token(4, 3, WrappedKey("age", "recipients", "bmV3ZXN0"))
    seen = with_luks(keyslots=frozenset({0, 3}), tokens=(newest, newer, TOKEN))
    assert steps(seen)[0].token == newer


def test_a_torn_copy_of_the_header_is_named_and_repaired() -> None:
    assert actions(with_luks(torn="first")) == [Action.REPAIR, Action.OPEN, Action.MOUNT]
    assert MOUNTED.luks is not None
    torn = replace(MOUNTED, luks=replace(MOUNTED.luks, torn="second"))
    assert actions(torn) == [Action.REPAIR]


def test_a_formatting_cut_between_the_two_copies_of_the_header_starts_over() -> None:
    assert actions(with_luks(label=new_label("main"), torn="second", tokens=())) == SETUP


FOREIGN = with_luks(uuid=FOREIGN_UUID, label="backup", tokens=())
GPT = replace(EMPTY, blkid=0, partition_table="gpt", signatures=("0x200 gpt",))


def holding(type_: str) -> Seen:
    return replace(EMPTY, blkid=0, type=type_, signatures=(f"0x0 {type_}",), head_zero=None)


REFUSED = {
    "absent": (Seen(), Reason.ABSENT),
    "unreadable": (replace(EMPTY, unknown=("blkid of /dev/vdb exits with 4",)), Reason.UNREADABLE),
    "wrong kind": (replace(EMPTY, kind="device-mapper"), Reason.WRONG_KIND),
    "too large": (replace(EMPTY, size=12 << 30), Reason.WRONG_SIZE),
    "too small": (replace(EMPTY, size=8 << 30), Reason.WRONG_SIZE),
    "read-only": (replace(EMPTY, read_only=True), Reason.READ_ONLY),
    "mapping on another disk": (
        replace(EMPTY, mapping=replace(OPENED, on=("vdc",))),
        Reason.MAPPING_ELSEWHERE,
    ),
    "mapping of another volume": (
        replace(MOUNTED, mapping=replace(OPENED, uuid="CRYPT-LUKS2-0-strongbox-main")),
        Reason.MAPPING_ELSEWHERE,
    ),
    "mapping without a disk": (
        replace(CLOSED, mapping=replace(OPENED, on=())),
        Reason.MAPPING_ELSEWHERE,
    ),
    "header wiped while it is open": (
        replace(EMPTY, mapping=OPENED, holders=("dm-0",), exclusive=False),
        Reason.HEADER_GONE,
    ),
    "mount point taken": (
        replace(EMPTY, mount_point=MountPoint("mounted", "vdc")),
        Reason.MOUNT_TAKEN,
    ),
    "files in the mount point": (
        replace(CLOSED, mount_point=MountPoint("full")),
        Reason.MOUNT_NOT_EMPTY,
    ),
    "mount point behind a link": (
        replace(EMPTY, mount_point=MountPoint("link")),
        Reason.MOUNT_NOT_A_FOLDER,
    ),
    "mount point unknown": (replace(EMPTY, mount_point=MountPoint("?")), Reason.UNREADABLE),
    "foreign fstab entry": (
        replace(EMPTY, mount_point=MountPoint(conflict=("/etc/fstab",))),
        Reason.CONFLICT,
    ),
    "mounted": (replace(EMPTY, mounted=("/home",)), Reason.MOUNTED),
    "swap in use": (replace(EMPTY, swap=True), Reason.SWAP_IN_USE),
    "held": (replace(EMPTY, holders=("dm-3",)), Reason.HELD),
    "listed": (replace(EMPTY, listed=("/etc/fstab",)), Reason.LISTED),
    "open elsewhere": (replace(EMPTY, exclusive=False), Reason.BUSY),
    "foreign LUKS": (FOREIGN, Reason.FOREIGN_LUKS),
    "LUKS 1": (replace(FOREIGN, luks=Luks(1, FOREIGN_UUID)), Reason.FOREIGN_LUKS),
    "disk of another host": (with_luks(uuid=OTHER_UUID), Reason.OTHER_VOLUME),
    "disk of another cluster": (with_luks(uuid=FOREIGN_UUID), Reason.OTHER_CLUSTER),
    "partition table": (GPT, Reason.PARTITION_TABLE),
    "partitions": (replace(EMPTY, children=("vdb1",)), Reason.PARTITION_TABLE),
    "backup GPT": (replace(EMPTY, signatures=("0x27ffffe00 gpt",)), Reason.BACKUP_GPT),
    "file system": (holding("ext4"), Reason.FILESYSTEM),
    "LVM": (holding("LVM2_member"), Reason.LVM),
    "RAID member": (holding("linux_raid_member"), Reason.MD_MEMBER),
    "ZFS member": (holding("zfs_member"), Reason.SIGNATURE),
    "swap": (holding("swap"), Reason.SWAP),
    "signature blkid does not know": (
        replace(EMPTY, signatures=("0x8 minix",)),
        Reason.SIGNATURE,
    ),
    "ambivalent": (replace(EMPTY, blkid=8), Reason.AMBIVALENT),
    "blkid without an answer": (replace(EMPTY, blkid=None), Reason.UNREADABLE),
    "blkid fails": (replace(EMPTY, blkid=4), Reason.UNREADABLE),
    "content not looked at": (replace(EMPTY, tail_zero=None), Reason.UNREADABLE),
    "data at the beginning": (replace(EMPTY, head_zero=False), Reason.DATA_WITHOUT_SIGNATURE),
    "data further on": (replace(EMPTY, tail_zero=False), Reason.DATA_WITHOUT_SIGNATURE),
    "header lost": (with_luks(uuid="", damaged="no copy is whole"), Reason.DAMAGED_HEADER),
    "header copies of two volumes": (with_luks(damaged="differ"), Reason.DAMAGED_HEADER),
    "our header under a file system": (replace(CLOSED, type="ext4"), Reason.DAMAGED_HEADER),
    "first copy torn while new": (
        with_luks(label=new_label("main"), torn="first"),
        Reason.DAMAGED_HEADER,
    ),
    "no token": (with_luks(tokens=()), Reason.KEY_UNKNOWN),
    "token without its keyslot": (with_luks(keyslots=frozenset({5})), Reason.KEY_UNKNOWN),
    "damaged token": (with_luks(tokens=(), token_problem="damaged"), Reason.KEY_UNKNOWN),
    "only a recovery token": (with_luks(tokens=(Token(0, 1, None),)), Reason.KEY_UNKNOWN),
    "held by a stranger": (replace(CLOSED, holders=("dm-7",)), Reason.HELD),
    "new, held by a stranger": (replace(NEW, holders=("dm-7",)), Reason.HELD),
    "new, named in crypttab": (replace(NEW, listed=("/etc/crypttab",)), Reason.LISTED),
    "LVM on the open volume": (
        replace(OPEN, mapping=replace(OPENED, holders=("dm-8",))),
        Reason.HELD,
    ),
    "mounted elsewhere": (
        replace(OPEN, mapping=replace(OPENED, filesystem="xfs", mounted=("/mnt",))),
        Reason.MOUNTED_ELSEWHERE,
    ),
    "new, mounted elsewhere": (
        replace(NEW, mapping=replace(OPENED, mounted=("/mnt",)), holders=("dm-0",)),
        Reason.MOUNTED_ELSEWHERE,
    ),
    "no file system any more": (replace(OPEN, mapping=OPENED), Reason.NO_FILESYSTEM),
    "another file system": (
        replace(OPEN, mapping=replace(OPENED, filesystem="ext4")),
        Reason.OTHER_FILESYSTEM,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_with_the_remedy(case: str) -> None:
    seen, reason = REFUSED[case]
    found = refusal(seen)
    assert found.reason is reason
    text = str(found)
    assert "volume 'main'" in text and "{" not in text and "\n" not in text
    assert len(text.split(":", 1)[1]) > 40


@pytest.mark.parametrize("case", REFUSED)
def test_only_what_nothing_uses_can_be_confirmed(case: str) -> None:
    seen, reason = REFUSED[case]
    found = plan(VOLUME, seen, OURS, confirmed=CONFIRMED)
    if reason in CONFIRMABLE:
        assert isinstance(found, list) and found[0] == Step(Action.FORMAT, Why.WIPE_CONFIRMED)
        for other in ("another serial", SERIAL, f"{HOST}:", f"kafka2.example:{SERIAL}"):
            assert refusal(seen, other).reason is reason
        assert refusal(replace(seen, serial=""), f"{HOST}:").reason is reason
        assert str(refusal(seen)).endswith(f" --data volumes_wipe_confirm={CONFIRMED}")
        odd = refusal(replace(seen, serial="A 'B'"))
        assert shlex.split(str(odd).split(" --data ")[1]) == [f"volumes_wipe_confirm={HOST}:A 'B'"]
        for use in ({"mounted": ("/x",)}, {"holders": ("dm-1",)}, {"swap": True},
                    {"exclusive": False}, {"read_only": True}):  # fmt: skip
            assert isinstance(
                plan(VOLUME, replace(seen, **use), OURS, confirmed=CONFIRMED), Refusal
            )
    else:
        assert isinstance(found, Refusal) and found.reason is reason


def test_a_volume_of_ours_is_never_wiped() -> None:
    for seen in (MOUNTED, OPEN, CLOSED):
        assert Action.FORMAT not in actions(seen, CONFIRMED)
    assert refusal(with_luks(uuid=OTHER_UUID), CONFIRMED).reason is Reason.OTHER_VOLUME


def test_too_small_for_the_file_system() -> None:
    small = replace(VOLUME, settings=Volume(device=DEVICE, min_gib=0, max_gib=1))
    seen = replace(EMPTY, size=300 << 20)
    assert refusal(seen, volume=small).reason is Reason.TOO_SMALL


def test_two_volumes_on_one_disk() -> None:
    other = replace(VOLUME, name="data0", mount="/srv/strongbox-data0")
    volumes = [VOLUME, other]
    both = plan_host(volumes, {"main": EMPTY, "data0": EMPTY}, OURS)
    assert {item.reason for item in both.values() if isinstance(item, Refusal)} == {
        Reason.SAME_DISK
    }
    part = replace(EMPTY, kernel="vdb1", kind="part")
    whole = replace(EMPTY, children=("vdb1",))
    both = plan_host(volumes, {"main": whole, "data0": part}, OURS)
    assert all(isinstance(item, Refusal) for item in both.values())


def test_a_volume_that_was_not_looked_at() -> None:
    found = plan_host([VOLUME], {}, OURS)["main"]
    assert isinstance(found, Refusal) and found.reason is Reason.UNREADABLE


def test_a_serial_that_two_disks_have_confirms_nothing() -> None:
    other = replace(VOLUME, name="data0", mount="/srv/strongbox-data0")
    seen = {"main": FOREIGN, "data0": replace(FOREIGN, kernel="vdc")}
    found = plan_host([VOLUME, other], seen, OURS, confirmed=CONFIRMED)
    assert all(isinstance(item, Refusal) for item in found.values())


EBS_EMPTY = replace(EMPTY, serial=EBS.replace("-", ""))
EBS_READY = replace(
    EBS_EMPTY, blkid=0, type="xfs", uuid=UUID, signatures=("0x0 xfs",), exclusive=False,
    mounted=(MOUNT,), mount_point=MountPoint("mounted", "vdb", MOUNT_OPTIONS),
)  # fmt: skip


def test_a_verified_ebs_volume() -> None:
    assert actions(EBS_EMPTY, volume=EBS_VOLUME) == [Action.MAKE_FILESYSTEM, Action.MOUNT]
    assert steps(EBS_READY, volume=EBS_VOLUME) == []
    unmounted = replace(EBS_READY, mounted=(), mount_point=MountPoint("empty"))
    assert actions(unmounted, volume=EBS_VOLUME) == [Action.MOUNT]


def test_an_ebs_volume_that_was_not_verified() -> None:
    found = plan(EBS_VOLUME, EBS_READY, OURS)
    assert isinstance(found, Refusal) and found.reason is Reason.EBS_UNVERIFIED


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (EMPTY, Reason.EBS_OTHER_DISK),
        (replace(EBS_READY, uuid=FOREIGN_UUID, mounted=(), exclusive=True,
                 mount_point=MountPoint()), Reason.FILESYSTEM),
        (replace(EBS_READY, type="ext4"), Reason.OTHER_FILESYSTEM),
        (replace(EBS_EMPTY, head_zero=False), Reason.DATA_WITHOUT_SIGNATURE),
        (replace(EBS_EMPTY, mark=UUID), Reason.DATA_WITHOUT_SIGNATURE),
        (replace(FOREIGN, serial=EBS_EMPTY.serial), Reason.FOREIGN_LUKS),
        (replace(EBS_READY, mount_point=MountPoint(), mounted=("/mnt",)),
         Reason.MOUNTED_ELSEWHERE),
        (replace(EBS_READY, mount_point=MountPoint(), mounted=(), holders=("dm-1",)), Reason.HELD),
    ],
)  # fmt: skip
def test_ebs_refusals(seen: Seen, reason: Reason) -> None:
    found = refusal(seen, volume=EBS_VOLUME)
    assert found.reason is reason
    # The script that makes the file system wipes nothing, so no confirmation is offered or counts.
    assert refusal(seen, f"{HOST}:{EBS_EMPTY.serial}", EBS_VOLUME) == found
    assert "wipe_confirm" not in str(found)
    by_hand = f"empty it by hand: wipefs --all {DEVICE} && blkdiscard --zeroout {DEVICE}"
    assert (by_hand in str(found)) is (reason in CONFIRMABLE)


def test_our_luks_volume_is_not_wiped_to_become_an_ebs_one() -> None:
    seen = replace(CLOSED, serial=EBS_EMPTY.serial)
    found = plan(EBS_VOLUME, seen, OURS, VERIFIED, f"{HOST}:{EBS_EMPTY.serial}")
    assert isinstance(found, Refusal) and found.reason is Reason.OTHER_VOLUME


@pytest.mark.parametrize("given", ["DISK-0001", "Kafka1:DISK", "kafka1:", ":DISK", 12345, None])
def test_a_confirmation_without_its_host_is_refused(given: object) -> None:
    layout = {"main": {"device": DEVICE, "min_gib": 1, "max_gib": 2}}
    with pytest.raises(ValueError, match="give HOST:SERIAL, as the refusal of the disk prints it"):
        VolumesSettings.model_validate({"layout": layout, "wipe_confirm": given})
    for good in ("", CONFIRMED, "kafka1:/dev/a:b c"):
        found = VolumesSettings.model_validate({"layout": layout, "wipe_confirm": good})
        assert found.wipe_confirm == good


def test_flags_follow_the_disk_and_the_settings() -> None:
    volume = VOLUME.settings
    assert flags(volume, rotational=False) == ("discard", "no-read-workqueue", "no-write-workqueue")
    assert flags(volume, rotational=True) == ()
    forced = volume.model_copy(update={"rotational": False, "discard": False})
    assert flags(forced, rotational=True) == ("no-read-workqueue", "no-write-workqueue")
    kept = volume.model_copy(update={"workqueues": True})
    assert flags(kept, rotational=False) == ("discard",)


def test_volumes_are_wanted_outer_mount_points_first() -> None:
    settings = VolumesSettings(
        layout={
            "data0": Volume(device="/dev/loop1", min_gib=1, max_gib=2),
            "main": Volume(device="/dev/loop0", min_gib=1, max_gib=2),
        }
    )
    found = wanted(settings, "payments", "kafka1.example", MOUNT)
    assert [(item.name, item.mount) for item in found] == [
        ("main", MOUNT),
        ("data0", f"{MOUNT}-data0"),
    ]
    assert found[0].uuid == UUID


def test_mount_points_that_would_hide_one_another() -> None:
    def problems(**mounts: str | None) -> list[str]:
        layout = {
            name: Volume(device=f"/dev/loop{number}", min_gib=1, max_gib=2, mount=mount)
            for number, (name, mount) in enumerate(mounts.items())
        }
        return VolumesSettings(layout=layout).mount_problems(MOUNT)

    assert problems(main=None, data0=None, data1="/data") == []
    for mount in (MOUNT, f"{MOUNT}/data", "/srv"):
        assert len(problems(main=None, data0=mount)) == 1


# Any combination of what can be seen -------------------------------------------------------------

TOKENS = st.sampled_from(
    [
        (),
        (TOKEN,),
        (Token(3, 2, TOKEN.wrapped), TOKEN),
        (Token(0, 1, None),),
    ]
)
LUKS = st.none() | st.builds(
    Luks,
    version=st.sampled_from([1, 2]),
    uuid=st.sampled_from([UUID, OTHER_UUID, FOREIGN_UUID, ""]),
    label=st.sampled_from(["", "strongbox-main", "strongbox-new-main", "backup"]),
    keyslots=st.sampled_from([frozenset(), frozenset({0}), frozenset({0, 3})]),
    tokens=TOKENS,
    token_problem=st.sampled_from(["", "a token is damaged"]),
    torn=st.sampled_from(["", "first", "second"]),
    damaged=st.sampled_from(["", "", "no copy is whole"]),
)
MAPPINGS = st.none() | st.builds(
    replace,
    st.just(OPENED),
    kernel=st.sampled_from(["dm-0", "dm-5"]),
    uuid=st.sampled_from([OPENED.uuid, "CRYPT-LUKS2-0-strongbox-main", "LVM-x"]),
    on=st.sampled_from([("vdb",), ("vdc",), (), ("vdb", "vdc")]),
    holders=st.sampled_from([(), ("dm-8",)]),
    mounted=st.sampled_from([(), (MOUNT,), ("/mnt",)]),
    filesystem=st.sampled_from(["", "xfs", "ext4"]),
)
POINTS = st.builds(
    MountPoint,
    state=st.sampled_from(["absent", "empty", "full", "mounted", "link", "file", "?"]),
    source=st.sampled_from(["", "dm-0", "vdb", "vdc"]),
    options=st.sampled_from([frozenset(), MOUNT_OPTIONS]),
    conflict=st.sampled_from([(), (), ("/etc/fstab",)]),
)


def mostly(usual: object, *others: object) -> st.SearchStrategy[object]:
    """So that combinations that differ from an empty disk in one or two things are common."""
    return st.sampled_from([*[usual] * 6, *others])


SEEN = st.builds(
    Seen,
    kernel=mostly("vdb", ""),
    kind=mostly("disk", "part", "lvm", "multipath", "loop", "md", "device-mapper", ""),
    size=mostly(10 << 30, 0, 1 << 30, 100 << 30),
    read_only=mostly(False, True),
    rotational=st.booleans(),
    serial=mostly(SERIAL, "", EBS.replace("-", "")),
    children=mostly((), ("vdb1",)),
    holders=mostly((), ("dm-0",), ("dm-7",)),
    mounted=mostly((), ("/home",), (MOUNT,)),
    swap=mostly(False, True),
    listed=mostly((), ("/etc/fstab",)),
    exclusive=mostly(True, False),
    blkid=mostly(2, 0, 8, 4, None),
    type=mostly("", "crypto_LUKS", "xfs", "ext4", "swap", "LVM2_member", "linux_raid_member"),
    partition_table=mostly("", "gpt", "dos"),
    uuid=mostly("", UUID, FOREIGN_UUID),
    signatures=mostly((), ("0x0 xfs",), ("0x27ffffe00 gpt",)),
    head_zero=mostly(True, False, None),
    tail_zero=mostly(True, False, None),
    mark=mostly("", UUID, OTHER_UUID),
    luks=st.none() | LUKS,
    mapping=st.none() | MAPPINGS,
    mount_point=st.just(MountPoint()) | POINTS,
    unknown=mostly((), ("something could not be read",)),
)
VOLUMES = st.sampled_from([VOLUME, EBS_VOLUME])
# What decides alone, so that long coincidences are tried as well as single deviations.
HEADS = st.sampled_from([EMPTY, NEW, CLOSED, OPEN, MOUNTED, EBS_EMPTY, EBS_READY, FOREIGN, GPT])
CHANGES = {
    name: [getattr(seen, name) for seen, _ in REFUSED.values()]
    for name in Seen.__dataclass_fields__
}


@st.composite
def deviations(draw: st.DrawFn) -> Seen:
    """A state that can be, with up to three things changed."""
    seen = draw(HEADS)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(CHANGES)))
        seen = replace(seen, **{name: draw(st.sampled_from(CHANGES[name]))})
    return seen


ANY = SEEN | deviations()


def unused(seen: Seen) -> bool:
    """Said again here, independently of the plan."""
    return (
        seen.unknown == ()
        and seen.kernel != ""
        and seen.kind in {"disk", "part", "lvm", "multipath", "loop"}
        and 9 << 30 <= seen.size <= 11 << 30
        and not seen.read_only
        and not (seen.mounted or seen.swap or seen.listed)
        and seen.mount_point.state in {"absent", "empty"}
        and not seen.mount_point.conflict
    )


def unmistakably_empty(seen: Seen) -> bool:
    return (
        unused(seen)
        and seen.exclusive
        and not (seen.children or seen.holders or seen.mapping)
        and seen.blkid == 2
        and (seen.type, seen.partition_table, seen.signatures) == ("", "", ())
        and seen.luks is None
        and seen.tail_zero is True
        and seen.head_zero is True
        and seen.mark == ""
    )


def begun_by_us(seen: Seen) -> bool:
    """Formatting began and the volume was never mounted: by the header, or by the mark."""
    luks = seen.luks
    if luks is None:
        return (
            unused(seen) and seen.exclusive and not (seen.holders or seen.mapping)
            and seen.mark == UUID and seen.tail_zero is True and seen.blkid == 2
            and (seen.type, seen.partition_table, seen.signatures) == ("", "", ())
        )  # fmt: skip
    opened = seen.mapping
    return (
        unused(seen)
        and (luks.uuid, luks.label, luks.damaged) == (UUID, "strongbox-new-main", "")
        and luks.torn != "first"
        and (seen.type, seen.blkid, seen.partition_table) == ("crypto_LUKS", 0, "")
        and (
            (opened is None and seen.exclusive and not seen.holders)
            or (
                opened is not None
                and opened.uuid == OPENED.uuid
                and opened.on == (seen.kernel,)
                and not opened.mounted
                and not opened.holders
                and set(seen.holders) <= {opened.kernel}
            )
        )
    )


def confirmed_and_unused(seen: Seen, confirmed: str) -> bool:
    return (
        unused(seen)
        and seen.exclusive
        and not (seen.holders or seen.mapping)
        and confirmed != ""
        and confirmed == f"{HOST}:{seen.serial}"
        and (seen.luks.uuid if seen.luks else seen.uuid) not in OURS
        and not (seen.luks and seen.luks.damaged)
    )


@examples(600)
@given(ANY, st.sampled_from(["", CONFIRMED]), VOLUMES)
def test_formats_only_what_is_unmistakably_empty(
    seen: Seen, confirmed: str, volume: Wanted
) -> None:
    found = plan(volume, seen, OURS, VERIFIED, confirmed)
    if isinstance(found, Refusal):
        assert "{" not in str(found)
        return
    destroying = [
        step for step in found
        if step.action is Action.FORMAT
        or (step.action is Action.MAKE_FILESYSTEM and not volume.is_luks)
    ]  # fmt: skip
    if not destroying:
        assert Action.MAKE_FILESYSTEM not in {step.action for step in found}
        assert Action.CLOSE not in {step.action for step in found}
        return
    why = destroying[0].why
    assert len(destroying) == 1
    if why is Why.EMPTY:
        assert unmistakably_empty(seen)
    elif why is Why.INTERRUPTED:
        assert begun_by_us(seen) and volume.is_luks
    else:
        assert why is Why.WIPE_CONFIRMED and confirmed_and_unused(seen, confirmed)
        assert volume.is_luks


@examples(300)
@given(ANY, st.sampled_from(["", CONFIRMED]), VOLUMES, st.data())
def test_steps_reach_a_fixed_point_and_so_do_those_of_a_run_that_was_cut(
    seen: Seen, confirmed: str, volume: Wanted, data: st.DataObject
) -> None:
    found = plan(volume, seen, OURS, VERIFIED, confirmed)
    if isinstance(found, Refusal):
        return
    for step in found[: data.draw(st.integers(0, len(found)))]:
        seen = after(volume, seen, step)
    again = plan(volume, seen, OURS, VERIFIED, confirmed)
    if isinstance(again, Refusal):  # an open volume turned out to be what was not declared
        assert again.reason in {Reason.OTHER_FILESYSTEM, Reason.NO_FILESYSTEM}
        return
    for step in again:
        seen = after(volume, seen, step)
    assert plan(volume, seen, OURS, VERIFIED) == []


def rebooted(seen: Seen) -> Seen:
    """Closed, as the controller opens it."""
    return replace(seen, mapping=None, holders=(), exclusive=True, mount_point=MountPoint("empty"))


@examples(300)
@given(st.lists(st.none() | st.integers(0, len(SETUP)), max_size=6))
def test_what_was_mounted_once_is_never_formatted(runs: list[int | None]) -> None:
    """Runs that are each cut after some steps, and reboots (None) in between."""
    seen, mounted = EMPTY, False
    for cut in runs:
        if cut is None:
            seen = rebooted(seen)
            continue
        for step in steps(seen)[:cut]:
            destroying = (Action.CLOSE, Action.FORMAT, Action.MAKE_FILESYSTEM)
            assert not (mounted and step.action in destroying)
            seen = after(VOLUME, seen, step)
            mounted = mounted or seen.mount_point.state == "mounted"
    for step in steps(seen):
        assert not (mounted and step.action is Action.FORMAT)
        seen = after(VOLUME, seen, step)
    assert steps(seen) == [] and seen.mount_point.state == "mounted"
    assert seen.luks is not None and seen.luks.label == "strongbox-main"


@examples(300)
@given(ANY, VOLUMES)
def test_unknown_always_stops(seen: Seen, volume: Wanted) -> None:
    found = plan(volume, replace(seen, unknown=("x",)), OURS, VERIFIED, f"{HOST}:{seen.serial}")
    assert isinstance(found, Refusal) and found.reason is Reason.UNREADABLE
