"""A simulated disk: what is seen of it, and how each step of a plan changes that."""

from __future__ import annotations

from dataclasses import replace

from roles.custody.protocol import WrappedKey
from roles.volumes.luks2 import Luks
from roles.volumes.names import luks_uuid
from roles.volumes.plan import (
    MOUNT_OPTIONS,
    Action,
    MountPoint,
    OpenMapping,
    Seen,
    Step,
    Wanted,
    Why,
    new_label,
)
from roles.volumes.settings import Volume
from roles.volumes.token import Token

DEVICE = "/dev/disk/by-id/virtio-data0"
SERIAL = "DISK-0001"
HOST = "kafka1.example"
CONFIRMED = f"{HOST}:{SERIAL}"
UUID = luks_uuid("payments", HOST, "main")
OTHER_UUID = luks_uuid("payments", "kafka2.example", "main")
FOREIGN_UUID = "0cb1dd2e-06c2-4b5c-b9b3-e3a4a1e41a6b"
OURS = {UUID: "volume 'main' of kafka1", OTHER_UUID: "volume 'main' of kafka2"}
EBS = "vol-0123456789abcdef0"
TOKEN = Token(0, 1, WrappedKey("age", "recipients", "d3JhcHBlZA=="))
MOUNT = "/srv/strongbox"

VOLUME = Wanted(HOST, "main", Volume(device=DEVICE, min_gib=9, max_gib=11), MOUNT, UUID)
EBS_VOLUME = replace(
    VOLUME,
    settings=Volume(device=DEVICE, min_gib=9, max_gib=11, encryption="ebs", ebs_volume=EBS),
)
EMPTY = Seen(
    kernel="vdb",
    kind="disk",
    size=10 << 30,
    read_only=False,
    rotational=False,
    serial=SERIAL,
    exclusive=True,
    blkid=2,
    head_zero=True,
    tail_zero=True,
)
OPENED = OpenMapping("dm-0", f"CRYPT-LUKS2-{UUID.replace('-', '')}-strongbox-main", ("vdb",))


def with_luks(**header: object) -> Seen:
    """A disk with a LUKS header; ours and complete unless said otherwise."""
    values: dict[str, object] = {
        "version": 2,
        "uuid": UUID,
        "label": "strongbox-main",
        "keyslots": frozenset({0}),
        "tokens": (TOKEN,),
    }
    luks = Luks(**(values | header))  # type: ignore[arg-type]
    return replace(
        EMPTY,
        blkid=0,
        type="crypto_LUKS",
        uuid=luks.uuid,
        signatures=("0x0 crypto_LUKS", "0x4000 crypto_LUKS"),
        head_zero=None,
        tail_zero=None,
        luks=luks,
    )


CLOSED = with_luks()
OPEN = replace(
    CLOSED,
    mapping=replace(OPENED, filesystem="xfs"),
    holders=("dm-0",),
    exclusive=False,
)
MOUNTED = replace(
    OPEN,
    mapping=replace(OPENED, filesystem="xfs", mounted=(MOUNT,)),
    mount_point=MountPoint("mounted", "dm-0", MOUNT_OPTIONS),
)


def after(volume: Wanted, seen: Seen, step: Step) -> Seen:
    """What is seen once a step was done."""
    luks, opened = seen.luks, seen.mapping
    match step.action:
        case Action.REPAIR if luks:
            return replace(seen, luks=replace(luks, torn=""))
        case Action.CLOSE:
            return replace(seen, mapping=None, holders=(), exclusive=True)
        case Action.FORMAT:
            assert not seen.mounted and not seen.holders, "formatted while in use"
            luks = Luks(2, volume.uuid, new_label(volume.name), frozenset({0}), (TOKEN,))
            return replace(with_luks(), luks=luks, size=seen.size, kind=seen.kind,
                           kernel=seen.kernel, mount_point=seen.mount_point)  # fmt: skip
        case Action.OPEN:
            assert luks and (luks.token if step.why is Why.CLOSED else True)
            filesystem = "" if step.why is Why.NEW else volume.settings.filesystem
            opened = replace(OPENED, on=(seen.kernel,), filesystem=filesystem)
            return replace(seen, mapping=opened, holders=("dm-0",), exclusive=False)
        case Action.MAKE_FILESYSTEM if opened:
            assert luks and luks.label == new_label(volume.name)
            return replace(seen, mapping=replace(opened, filesystem=volume.settings.filesystem))
        case Action.MAKE_FILESYSTEM:
            kind = volume.settings.filesystem
            return replace(seen, blkid=0, type=kind, uuid=volume.uuid, signatures=(f"0x0 {kind}",),
                           partition_table="", children=(), luks=None)  # fmt: skip
        case Action.MOUNT | Action.REMOUNT if opened:
            assert luks and luks.label == volume.label, "mounted while it may be formatted"
            assert opened.filesystem == volume.settings.filesystem
            point = MountPoint("mounted", opened.kernel, MOUNT_OPTIONS)
            return replace(
                seen, mount_point=point, mapping=replace(opened, mounted=(volume.mount,))
            )
        case Action.MOUNT | Action.REMOUNT:
            point = MountPoint("mounted", seen.kernel, MOUNT_OPTIONS)
            return replace(seen, mount_point=point, mounted=(volume.mount,), exclusive=False)
        case Action.FINISH if luks and opened:
            assert opened.filesystem == volume.settings.filesystem
            return replace(seen, luks=replace(luks, label=volume.label))
    raise AssertionError(f"{step} cannot be done with {seen}")
