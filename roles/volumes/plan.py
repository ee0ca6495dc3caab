"""What is done to a declared volume, given all that its host tells of it: steps, or a refusal.

The rules, of which every one is there because the opposite loses data:

- Formatted is only a disk that is declared, free, of the declared size, without any signature and
  without any byte that is not zero; or, to become LUKS, one whose serial the operator has confirmed
  for this host and run; or one whose formatting by this project was interrupted before the volume
  was ever mounted.
- What could not be read is unknown, and unknown stops.
- A volume of ours is never formatted again, whatever was confirmed.

Pure: no pyinfra, no host.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from roles.volumes.luks2 import Luks
from roles.volumes.names import label, luks_uuid, mapping
from roles.volumes.settings import Volume, VolumesSettings
from roles.volumes.token import Token

MOUNT_OPTIONS = frozenset({"noatime", "nodev", "nosuid", "noexec"})
GIB = 1 << 30
#: Bytes below which there is no file system: xfsprogs 5.19 and later refuse less than 300 MB.
SMALLEST = {"xfs": 330 << 20, "ext4": 64 << 20}
#: Kinds of devices that can become a volume.
KINDS = frozenset({"disk", "part", "lvm", "multipath", "loop"})


def new_label(volume: str) -> str:
    """Of a volume's header from its formatting until it has its file system.

    A volume is mounted only once its label is final. So one that still has this label has never
    held anything of value, and may be formatted again.
    """
    return f"strongbox-new-{volume}"


@dataclass(frozen=True)
class Wanted:
    """A declared volume. ``mount`` is the mount point, ``host`` the host's ``common_hostname``."""

    host: str
    name: str
    settings: Volume
    mount: str
    uuid: str

    @property
    def label(self) -> str:
        return label(self.name)

    @property
    def mapping(self) -> str:
        return mapping(self.name)

    @property
    def is_luks(self) -> bool:
        return self.settings.encryption == "luks"

    def confirmation(self, serial: str) -> str:
        """What has to be confirmed before a disk of that serial is wiped for it."""
        return f"{self.host}:{serial}"

    @property
    def ebs_serial(self) -> str:
        """As the disk says it: the volume's id without the dash."""
        return self.settings.ebs_volume.replace("-", "")


def wanted(settings: VolumesSettings, cluster: str, hostname: str, base_dir: str) -> list[Wanted]:
    """The declared volumes, mount points that lie above others first."""
    volumes = [
        Wanted(
            hostname,
            name,
            volume,
            settings.mount_point(name, base_dir),
            luks_uuid(cluster, hostname, name),
        )
        for name, volume in settings.layout.items()
    ]
    return sorted(volumes, key=lambda item: item.mount)


@dataclass(frozen=True)
class OpenMapping:
    """An open device-mapper device of the volume's name. Devices by their kernel names."""

    kernel: str
    uuid: str
    on: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    mounted: tuple[str, ...] = ()
    filesystem: str = ""

    def is_of(self, luks_uuid: str) -> bool:
        return self.uuid.startswith(f"CRYPT-LUKS2-{luks_uuid.replace('-', '')}-")


@dataclass(frozen=True)
class MountPoint:
    """``state``: absent, empty, full, mounted, link or file. ``source``: kernel name of what is
    mounted; ``conflict``: files that name the mount point or the mapping outside our block."""

    state: str = "absent"
    source: str = ""
    options: frozenset[str] = frozenset()
    conflict: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """All that a host tells of one declared device.

    ``kernel`` is the name under which the kernel has it, empty when there is no such device;
    ``children`` are its partitions, and holders and mounts are theirs too. ``listed`` are files in
    which it is named (fstab, crypttab, mdstat). ``exclusive`` is whether nobody has it open.
    ``blkid`` is blkid's exit code. ``head_zero`` and ``tail_zero`` are None when that was not
    looked at, as other signs say already that the device is not empty; ``mark`` is the UUID of a
    volume whose formatting began here. ``unknown`` names what could not be read.
    """

    kernel: str = ""
    kind: str = ""
    size: int = 0
    read_only: bool = False
    rotational: bool = True
    serial: str = ""
    children: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    mounted: tuple[str, ...] = ()
    swap: bool = False
    listed: tuple[str, ...] = ()
    exclusive: bool = False
    blkid: int | None = None
    type: str = ""
    partition_table: str = ""
    uuid: str = ""
    signatures: tuple[str, ...] = ()
    head_zero: bool | None = None
    tail_zero: bool | None = None
    mark: str = ""
    luks: Luks | None = None
    mapping: OpenMapping | None = None
    mount_point: MountPoint = MountPoint()
    unknown: tuple[str, ...] = ()


class Reason(Enum):
    """Why nothing is done to a volume. The value is the message: ``{device}`` and so on are filled
    in by `Refusal`, and each ends with the remedy."""

    ABSENT = "{device} is not there: attach the disk, or correct volumes_layout"
    UNREADABLE = "{detail}: not decided on a guess; see to it, then run again"
    WRONG_KIND = (
        "{device} is {detail}: declare a disk, a partition, an LVM volume or a multipath device"
    )
    WRONG_SIZE = (
        "{device} has {detail}, outside min_gib and max_gib: it may be another disk; correct "
        "volumes_layout if it is not"
    )
    TOO_SMALL = "{device} is too small for {detail}: use a larger disk or ext4"
    READ_ONLY = (
        "{device} is read-only: make it writable (blockdev --getro), or declare another disk"
    )
    SAME_DISK = "{device} is the same disk as volume {detail}: declare one disk for each"
    MAPPING_ELSEWHERE = (
        "/dev/mapper/{mapping} is open on {detail}: see what that is (dmsetup table), and close it "
        "(cryptsetup close) if nothing needs it"
    )
    MOUNT_TAKEN = "{detail} is mounted on {mount}: unmount it, or declare another mount point"
    MOUNT_NOT_EMPTY = (
        "{mount} has files in it while nothing is mounted there: they lie unencrypted and would be "
        "hidden; move them away after a look at them"
    )
    MOUNT_NOT_A_FOLDER = (
        "{mount} is not a folder, or there is a symbolic link in its path: declare the real path"
    )
    MOUNTED_ELSEWHERE = "the volume is mounted on {detail}, not on {mount}: unmount it there"
    CONFLICT = "{detail} has an entry of its own for {mount} or {mapping}: remove it there"
    MOUNTED = "{device} is in use, mounted on {detail}: declare another disk, or unmount it first"
    HELD = "{device} is in use by {detail}: declare another disk, or release it first"
    SWAP_IN_USE = "{device} is swap in use: declare another disk, or swapoff first"
    LISTED = "{device} is named in {detail}: declare another disk, or remove it there first"
    BUSY = "{device} is opened by another process or kernel part: declare another disk, or end that"
    FOREIGN_LUKS = "{device} holds LUKS that is not ours (UUID {detail}): {wipe}"
    OTHER_VOLUME = (
        "{device} is the disk of {detail}: attach it there, or erase it there first "
        "(docs/volumes.md); it is not formatted whatever is confirmed"
    )
    OTHER_CLUSTER = (
        "{device} is a volume of another cluster, host or name (LUKS UUID {detail}): attach it "
        "where it belongs; {wipe}"
    )
    PARTITION_TABLE = "{device} has a partition table ({detail}): {wipe}"
    BACKUP_GPT = (
        "{device} has a backup GPT at its end, the partition table of a disk whose first was "
        "lost: {wipe}"
    )
    FILESYSTEM = "{device} holds a file system ({detail}): {wipe}"
    LVM = "{device} is an LVM physical volume: {wipe}"
    MD_MEMBER = "{device} is a member of a RAID array ({detail}): {wipe}"
    SWAP = "{device} is swap space, not in use now: {wipe}"
    SIGNATURE = "{device} holds {detail}: {wipe}"
    AMBIVALENT = "{device} has signatures of several kinds (wipefs {device} lists them): {wipe}"
    DATA_WITHOUT_SIGNATURE = (
        "{device} has no signature but is not empty: a lost header, an encrypted disk without "
        "one, or one filled at random; {wipe}"
    )
    DAMAGED_HEADER = (
        "{device}: {detail}: something wrote over it; restore the header from its backup "
        "(docs/volumes.md)"
    )
    HEADER_GONE = (
        "{device} has lost its LUKS header while the volume is open: do not close it or reboot; "
        "restore the header from its backup (docs/volumes.md)"
    )
    KEY_UNKNOWN = (
        "{device} is this volume, but {detail}, so no key can be asked for: restore the header "
        "from its backup, or open it with the recovery key (docs/volumes.md)"
    )
    NO_FILESYSTEM = (
        "the open volume holds no file system though it once did: restore it from the other "
        "replicas after a look at it (docs/volumes.md); it is not formatted again"
    )
    OTHER_FILESYSTEM = "the volume holds {detail}, volumes_layout says {filesystem}: correct that"
    EBS_UNVERIFIED = (
        "{detail} is not in /etc/strongbox/ebs-verified, so it may be unencrypted: run "
        "deploys/ebs.py, which verifies it"
    )
    EBS_OTHER_DISK = "{device} has the serial {detail}: it is not the EBS volume {ebs_volume}"


#: May be overruled by the confirmation of host and serial: what they protect is on the disk only,
#: and nothing uses it now.
CONFIRMABLE = frozenset(
    {
        Reason.FOREIGN_LUKS,
        Reason.OTHER_CLUSTER,
        Reason.PARTITION_TABLE,
        Reason.BACKUP_GPT,
        Reason.FILESYSTEM,
        Reason.LVM,
        Reason.MD_MEMBER,
        Reason.SWAP,
        Reason.SIGNATURE,
        Reason.AMBIVALENT,
        Reason.DATA_WITHOUT_SIGNATURE,
    }
)


@dataclass(frozen=True)
class Refusal:
    """One line for the operator, with the remedy."""

    reason: Reason
    volume: Wanted
    detail: str = ""
    serial: str = ""

    def __str__(self) -> str:
        text = self.reason.value.format(
            device=self.volume.settings.device,
            detail=self.detail,
            mount=self.volume.mount,
            mapping=self.volume.mapping,
            filesystem=self.volume.settings.filesystem,
            ebs_volume=self.volume.settings.ebs_volume,
            wipe=self._wipe(),
        )
        return f"volume {self.volume.name!r}: {text}"

    def _wipe(self) -> str:
        device = self.volume.settings.device
        if not self.volume.is_luks:
            return (
                "declare another disk, or, if nothing on it is needed, empty it by hand: "
                f"wipefs --all {device} && blkdiscard --zeroout {device}"
            )
        if not self.serial:
            return "declare another disk, or empty it by hand (it has no serial to confirm)"
        option = f"volumes_wipe_confirm={self.volume.confirmation(self.serial)}"
        return (
            "declare another disk, or, if nothing on it is needed, run once with "
            f"--data {shlex.quote(option)}"
        )


class Action(Enum):
    REPAIR = "write the damaged copy of its header anew from the whole one"
    CLOSE = "close what an interrupted run left open"
    FORMAT = "format"
    OPEN = "open"
    MAKE_FILESYSTEM = "make the file system"
    MOUNT = "mount"
    REMOUNT = "mount again"
    FINISH = "note that it is set up"


class Why(Enum):
    EMPTY = "the disk is empty"
    INTERRUPTED = "an earlier run was interrupted before the volume was ever mounted"
    WIPE_CONFIRMED = "its serial was confirmed: what is on it is destroyed"
    CLOSED = "it is closed"
    NEW = "it is new"
    UNMOUNTED = "it is not mounted"
    MOUNTED = "it is mounted already"
    OPTIONS = "its mount options differ"
    TORN = "something, such as a power cut, has damaged one of the two"


@dataclass(frozen=True)
class Step:
    """:param token: with `Action.OPEN` of a volume that was there before: whose key opens it."""

    action: Action
    why: Why
    token: Token | None = None

    def __str__(self) -> str:
        return f"{self.action.value}, as {self.why.value}"


def is_first_setup(steps: Sequence[Step]) -> bool:
    """Whether there is nothing on the volume yet that other roles would have to see to plan."""
    setup = {Action.FORMAT, Action.MAKE_FILESYSTEM, Action.FINISH}
    return any(step.action in setup for step in steps)


def needs_unlocking(steps: Sequence[Step]) -> bool:
    """Whether the volume was set up before and cannot be seen into now."""
    closed = {Action.OPEN, Action.MOUNT}
    return any(step.action in closed for step in steps) and not is_first_setup(steps)


def plan_host(
    volumes: Sequence[Wanted],
    seen: Mapping[str, Seen],
    ours: Mapping[str, str],
    verified_ebs: frozenset[str] = frozenset(),
    confirmed: str = "",
) -> dict[str, list[Step] | Refusal]:
    """Steps or a refusal for each volume of a host.

    :param seen: by the volume's name; one that is missing could not be looked at.
    :param ours: LUKS UUID -> words for every volume of the whole cluster, as in
        ``"volume 'main' of kafka2"``.
    :param verified_ebs: ids of EBS volumes that were verified to be encrypted.
    :param confirmed: ``HOST:SERIAL`` of the disk that may be wiped in this run.
    """
    answers: dict[str, list[Step] | Refusal] = {}
    meant = [
        item for item in volumes
        if item.name in seen and item.confirmation(seen[item.name].serial) == confirmed
    ]  # fmt: skip
    if len(meant) > 1:
        confirmed = ""  # it does not say which of them
    for volume in volumes:
        mine = seen.get(volume.name, Seen(unknown=(f"{volume.settings.device} was not looked at",)))
        answers[volume.name] = _same_disk(volume, volumes, seen) or plan(
            volume, mine, ours, verified_ebs, confirmed
        )
    return answers


def _same_disk(
    volume: Wanted, volumes: Sequence[Wanted], seen: Mapping[str, Seen]
) -> Refusal | None:
    mine = seen.get(volume.name, Seen())
    for other in volumes:
        theirs = seen.get(other.name, Seen())
        if other.name == volume.name or not mine.kernel or not theirs.kernel:
            continue
        if {mine.kernel, *mine.children} & {theirs.kernel, *theirs.children}:
            return Refusal(Reason.SAME_DISK, volume, repr(other.name))
    return None


def plan(
    volume: Wanted,
    seen: Seen,
    ours: Mapping[str, str],
    verified_ebs: frozenset[str] = frozenset(),
    confirmed: str = "",
) -> list[Step] | Refusal:
    """Steps that bring one volume to be mounted where it belongs, or why there are none."""
    refusal = _device(volume, seen) or _place(volume, seen)
    if refusal:
        return refusal
    found = seen.luks.uuid if seen.luks else seen.uuid
    if found in ours and (found != volume.uuid or bool(seen.luks) is not volume.is_luks):
        kind = "LUKS" if seen.luks else "an unencrypted file system"
        return Refusal(Reason.OTHER_VOLUME, volume, f"{ours[found]}, as {kind}")
    if not volume.is_luks:
        return _plan_ebs(volume, seen, verified_ebs)
    if seen.luks and seen.luks.uuid == volume.uuid:
        return _plan_ours(volume, seen, seen.luks)
    return _plan_other(volume, seen, confirmed)


def _device(volume: Wanted, seen: Seen) -> Refusal | None:
    if seen.unknown:
        return Refusal(Reason.UNREADABLE, volume, seen.unknown[0])
    if not seen.kernel:
        return Refusal(Reason.ABSENT, volume)
    if seen.kind not in KINDS:
        return Refusal(Reason.WRONG_KIND, volume, f"a device of kind {seen.kind or 'unknown'}")
    gib = seen.size / GIB
    if not volume.settings.min_gib <= gib <= volume.settings.max_gib:
        return Refusal(Reason.WRONG_SIZE, volume, f"{gib:.3f} GiB")
    if seen.size < SMALLEST[volume.settings.filesystem]:
        return Refusal(Reason.TOO_SMALL, volume, volume.settings.filesystem)
    if seen.read_only:
        return Refusal(Reason.READ_ONLY, volume)
    return None


def _place(volume: Wanted, seen: Seen) -> Refusal | None:
    """Whether the mapping's name and the mount point are the volume's."""
    point, opened = seen.mount_point, seen.mapping
    if opened and not (
        volume.is_luks and opened.is_of(volume.uuid) and opened.on == (seen.kernel,)
    ):
        return Refusal(
            Reason.MAPPING_ELSEWHERE, volume, ", ".join(opened.on) or "nothing that is still there"
        )
    if point.conflict:
        return Refusal(Reason.CONFLICT, volume, ", ".join(point.conflict))
    if point.state in ("link", "file"):
        return Refusal(Reason.MOUNT_NOT_A_FOLDER, volume)
    if point.state == "full":
        return Refusal(Reason.MOUNT_NOT_EMPTY, volume)
    if point.state == "mounted" and point.source != _source(volume, seen):
        return Refusal(Reason.MOUNT_TAKEN, volume, point.source or "another file system")
    if point.state not in ("absent", "empty", "mounted"):
        return Refusal(Reason.UNREADABLE, volume, f"{volume.mount} could not be looked at")
    return None


def _source(volume: Wanted, seen: Seen) -> str | None:
    """Kernel name of what is to be mounted, None while it is not there."""
    if not volume.is_luks:
        return seen.kernel
    return seen.mapping.kernel if seen.mapping else None


def _plan_ours(volume: Wanted, seen: Seen, luks: Luks) -> list[Step] | Refusal:
    opened = seen.mapping
    new = luks.label == new_label(volume.name)
    if luks.damaged:
        return Refusal(Reason.DAMAGED_HEADER, volume, luks.damaged)
    if seen.blkid != 0 or seen.type != "crypto_LUKS" or seen.partition_table:
        over = seen.partition_table or seen.type or ", ".join(seen.signatures)
        return Refusal(Reason.DAMAGED_HEADER, volume, f"its first header is gone, under {over}")
    if new and luks.torn == "first":
        # The first copy is written first, so the other may be what was true long ago.
        return Refusal(Reason.DAMAGED_HEADER, volume, "the first copy of its header is damaged")
    strangers = [*seen.holders] if opened is None else [*opened.holders]
    if opened is not None:
        strangers += [name for name in seen.holders if name != opened.kernel]
    if strangers:
        return Refusal(Reason.HELD, volume, ", ".join(strangers))
    elsewhere = [path for path in (opened.mounted if opened else ()) if path != volume.mount]
    if elsewhere:
        return Refusal(Reason.MOUNTED_ELSEWHERE, volume, ", ".join(elsewhere))
    if seen.mounted:
        return Refusal(Reason.MOUNTED, volume, ", ".join(seen.mounted))
    mounted = seen.mount_point.state == "mounted"
    if new and not mounted:
        return _start_over(volume, seen)
    if not luks.token:
        problem = luks.token_problem or (
            "its token names a keyslot that is gone" if luks.tokens else "it has no token of ours"
        )
        return Refusal(Reason.KEY_UNKNOWN, volume, problem)
    repair = [Step(Action.REPAIR, Why.TORN)] if luks.torn else []
    if opened is None:
        opening = [Step(Action.OPEN, Why.CLOSED, luks.token), Step(Action.MOUNT, Why.CLOSED)]
        return [*repair, *opening]
    if not opened.filesystem:
        return Refusal(Reason.NO_FILESYSTEM, volume)
    if opened.filesystem != volume.settings.filesystem:
        return Refusal(Reason.OTHER_FILESYSTEM, volume, opened.filesystem)
    # Only by hand is it mounted before: then it may hold data already.
    noted = [Step(Action.FINISH, Why.MOUNTED)] if new else []
    return [*repair, *noted, *_mount(seen)]


def _mount(seen: Seen) -> list[Step]:
    if seen.mount_point.state != "mounted":
        return [Step(Action.MOUNT, Why.UNMOUNTED)]
    if not seen.mount_point.options >= MOUNT_OPTIONS:
        return [Step(Action.REMOUNT, Why.OPTIONS)]
    return []


def _start_over(volume: Wanted, seen: Seen) -> list[Step] | Refusal:
    """Formatting was interrupted before the first mount. The key may never have been stored."""
    if seen.mapping:
        return [Step(Action.CLOSE, Why.INTERRUPTED), *_set_up(Why.INTERRUPTED)]
    return _use(volume, seen) or _set_up(Why.INTERRUPTED)


def _set_up(why: Why) -> list[Step]:
    return [
        Step(Action.FORMAT, why),
        Step(Action.OPEN, Why.NEW),
        Step(Action.MAKE_FILESYSTEM, Why.NEW),
        Step(Action.FINISH, Why.NEW),
        Step(Action.MOUNT, Why.NEW),
    ]


def _plan_other(volume: Wanted, seen: Seen, confirmed: str) -> list[Step] | Refusal:
    """A disk that is not this volume yet, and may be something else."""
    if seen.mapping:
        return Refusal(Reason.HEADER_GONE, volume)
    refusal = _use(volume, seen)
    if refusal:
        return refusal
    refusal = _content(volume, seen)
    if refusal is None:
        return _set_up(Why.INTERRUPTED if seen.mark else Why.EMPTY)
    is_confirmed = seen.serial and confirmed == volume.confirmation(seen.serial)
    if refusal.reason in CONFIRMABLE and is_confirmed:
        return _set_up(Why.WIPE_CONFIRMED)
    return refusal


def _use(volume: Wanted, seen: Seen) -> Refusal | None:
    """Whether anything uses the disk now, or is told to."""
    if seen.mounted:
        return Refusal(Reason.MOUNTED, volume, ", ".join(seen.mounted))
    if seen.swap:
        return Refusal(Reason.SWAP_IN_USE, volume)
    if seen.holders:
        return Refusal(Reason.HELD, volume, ", ".join(seen.holders))
    if seen.listed:
        return Refusal(Reason.LISTED, volume, ", ".join(dict.fromkeys(seen.listed)))
    if not seen.exclusive:
        return Refusal(Reason.BUSY, volume)
    return None


def _content(volume: Wanted, seen: Seen) -> Refusal | None:
    """What is on the disk, None only when that is nothing at all."""

    def refuse(reason: Reason, detail: str = "") -> Refusal:
        return Refusal(reason, volume, detail, seen.serial)

    if seen.luks or seen.type == "crypto_LUKS":
        return _other_luks(volume, seen)
    if seen.blkid == 8:
        return refuse(Reason.AMBIVALENT)
    if seen.partition_table:
        return refuse(Reason.PARTITION_TABLE, seen.partition_table)
    if seen.children:
        return refuse(Reason.PARTITION_TABLE, ", ".join(seen.children))
    if seen.type:
        return refuse(*_signature(seen.type))
    if any(item.endswith(" gpt") for item in seen.signatures):
        return refuse(Reason.BACKUP_GPT)
    if seen.signatures:
        return refuse(Reason.SIGNATURE, ", ".join(seen.signatures))
    if seen.blkid != 2 or seen.head_zero is None or seen.tail_zero is None:
        return refuse(Reason.UNREADABLE, f"what is on {volume.settings.device}")
    begun = volume.is_luks and seen.mark == volume.uuid
    if seen.tail_zero and (begun or (seen.head_zero and not seen.mark)):
        return None
    return refuse(Reason.DATA_WITHOUT_SIGNATURE)


def _other_luks(volume: Wanted, seen: Seen) -> Refusal:
    luks = seen.luks
    if luks is None:
        return Refusal(Reason.UNREADABLE, volume, f"the header of {volume.settings.device}")
    if luks.damaged:
        # It may be this very volume: what its header said is lost or in doubt.
        return Refusal(Reason.DAMAGED_HEADER, volume, luks.damaged)
    strongbox = luks.label.startswith("strongbox-") or luks.tokens or luks.token_problem
    reason = Reason.OTHER_CLUSTER if strongbox else Reason.FOREIGN_LUKS
    return Refusal(reason, volume, luks.uuid, seen.serial)


def _signature(type_: str) -> tuple[Reason, str]:
    if type_ == "swap":
        return Reason.SWAP, ""
    if type_ == "LVM2_member":
        return Reason.LVM, ""
    if type_.endswith("_raid_member") or type_ == "ddf_raid_member":
        return Reason.MD_MEMBER, type_
    if type_.endswith("_member"):
        return Reason.SIGNATURE, type_
    return Reason.FILESYSTEM, type_


def _plan_ebs(
    volume: Wanted,
    seen: Seen,
    verified_ebs: frozenset[str],
) -> list[Step] | Refusal:
    if seen.serial != volume.ebs_serial:
        return Refusal(Reason.EBS_OTHER_DISK, volume, seen.serial or "none")
    if volume.settings.ebs_volume not in verified_ebs:
        return Refusal(Reason.EBS_UNVERIFIED, volume, volume.settings.ebs_volume)
    if seen.uuid == volume.uuid and seen.blkid == 0 and not seen.partition_table:
        if seen.type != volume.settings.filesystem:
            return Refusal(Reason.OTHER_FILESYSTEM, volume, seen.type)
        if seen.holders:
            return Refusal(Reason.HELD, volume, ", ".join(seen.holders))
        elsewhere = [path for path in seen.mounted if path != volume.mount]
        if elsewhere:
            return Refusal(Reason.MOUNTED_ELSEWHERE, volume, ", ".join(elsewhere))
        return _mount(seen)
    # Nothing is wiped here: unlike the header of LUKS, no mark would say how far that got.
    found = _plan_other(volume, seen, confirmed="")
    if isinstance(found, Refusal):
        return found
    why = found[0].why
    return [Step(Action.MAKE_FILESYSTEM, why), Step(Action.MOUNT, Why.NEW)]


def flags(volume: Volume, rotational: bool) -> tuple[str, ...]:
    """dm-crypt's flags as crypttab names them; see `Volume` for what decides."""
    spins = rotational if volume.rotational is None else volume.rotational
    discard = not spins if volume.discard is None else volume.discard
    workqueues = spins if volume.workqueues is None else volume.workqueues
    found = ["discard"] if discard else []
    return (*found, *(() if workqueues else ("no-read-workqueue", "no-write-workqueue")))


def described(volume: Wanted, steps: Sequence[Step], seen: Seen) -> list[str]:
    """One line for each step, for people."""
    disk = f"{volume.settings.device} ({seen.kernel}, {seen.size / GIB:.1f} GiB"
    disk += f", serial {seen.serial})" if seen.serial else ")"
    return [f"volume {volume.name!r} on {disk}: {step}" for step in steps]
