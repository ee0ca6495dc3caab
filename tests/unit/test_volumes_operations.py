"""What the host is told to do, what custody is asked, and where the key is found."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import secrets
import struct
from contextlib import ExitStack
from typing import Any

import pyinfra
import pytest
from pyinfra.api import Config, Inventory, State
from pyinfra.api.connect import connect_all
from pyinfra.api.exceptions import OperationError
from pyinfra.api.state import StateStage
from pyinfra.context import ctx_config, ctx_host, ctx_inventory, ctx_state

from roles.common.readings import forget
from roles.custody.protocol import CustodyAway, KeyContext, WrappedKey
from roles.volumes import files
from roles.volumes.files import VolumesHost, known_volumes
from roles.volumes.luks2 import AREA, HEADER, read
from roles.volumes.names import luks_uuid
from roles.volumes.operations import mounted_volumes, refuse_while_locked
from roles.volumes.settings import Volume, VolumesSettings
from roles.volumes.token import Token

NAME = "@fake/kafka1"
UUID = luks_uuid("payments", "kafka1.example", "main")
CONTEXT = KeyContext("payments", "kafka1.example", "main", "volume")
WRAPPED = WrappedKey("age", "recipients", "d3JhcHBlZA==")
TOKEN = Token(0, 1, WRAPPED)
SETTINGS = VolumesSettings(
    layout={"main": Volume(device="/dev/disk/by-id/main", min_gib=9, max_gib=11)}
)


class Keys:
    """A custody that notes what it was asked; its key is a canary."""

    def __init__(self, away: bool = False) -> None:
        self.key = secrets.token_bytes(64)
        self.asked: list[tuple[str, KeyContext]] = []
        self.away = away

    def new_key(self, context: KeyContext) -> tuple[bytes, WrappedKey]:
        self.asked.append(("new", context))
        return self.key, WRAPPED

    def unwrap(self, wrapped: WrappedKey, context: KeyContext) -> bytes:
        if self.away:
            raise CustodyAway("KMS does not answer: try later")
        assert wrapped == WRAPPED
        self.asked.append(("unwrap", context))
        return self.key


def luks_header(label: str, *, uuid: str = UUID, damage: int | None = None) -> bytes:
    """Both copies of a LUKS2 header, as cryptsetup writes them."""
    metadata = {"keyslots": {"0": {}}, "tokens": {"0": json.loads(TOKEN.to_json())}}
    body = json.dumps(metadata).encode().ljust(AREA - HEADER, b"\0")
    copies = []
    for number, magic in enumerate((b"LUKS\xba\xbe", b"SKUL\xba\xbe")):
        head = struct.pack(
            ">6sHQQ48s32s64s40s48sQ184s64s", magic, 2, AREA, 3, label.encode(), b"sha256",
            b"salt", uuid.encode(), b"", number * AREA, b"", b"",
        ).ljust(HEADER, b"\0")  # fmt: skip
        digest = hashlib.sha256(head + body).digest()
        head = head[:448] + digest.ljust(64, b"\0") + head[512:]
        copies.append(head + body)
    if damage is not None:
        copies[damage] = copies[damage].replace(b"keyslots", b"KEYSLOTS")
    return b"".join(copies)


DISK = """\
volume main
kernel vdb
kind disk
bytes 10737418240
read-only 0
rotational 0
serial DISK-1
exclusive yes
"""
EMPTY = f"{DISK}blkid 2\nhead-zero yes\ntail-zero yes\nmount-point absent\n"


def with_header(header: bytes, rest: str = "mount-point empty\n") -> str:
    packed = base64.b64encode(gzip.compress(header)).decode()
    return (
        f"{DISK}blkid 0\nprobe UUID={UUID}\nprobe TYPE=crypto_LUKS\n"
        f"signature 0x0 crypto_LUKS\nluks {packed}\n{rest}"
    )


CLOSED = with_header(luks_header("strongbox-main"))
OPENED = f"""\
holder dm-0
mapping dm-0
mapping-uuid CRYPT-LUKS2-{UUID.replace("-", "")}-strongbox-main
mapping-on vdb
mapping-mounted /srv/strongbox
mapping-blkid 0
mapping-probe TYPE=xfs
mount-point mounted dm-0 rw,noatime,nodev,nosuid,noexec
"""
MOUNTED = with_header(luks_header("strongbox-main"), OPENED)


class Run:
    """One recorded host, whose answer to the look at its volumes is *seen*."""

    def __init__(self, seen: str, executing: bool = True, keys: Keys | None = None) -> None:
        self.keys = keys or Keys()
        self.seen, self.executing = seen, executing

    def __enter__(self) -> Run:
        answers = {"volume": f"{self.seen}--end--"}
        data = {"fake_delay": 0.0, "fake_delay_jitter": 0.0, "fake_responses": answers}
        inventory = Inventory(([(NAME, data)], {}))
        state = State(inventory, Config())
        state.current_stage = StateStage.Connect
        self.stack = ExitStack()
        for context in (
            ctx_state.use(state),
            ctx_inventory.use(inventory),
            ctx_config.use(state.config.copy()),
        ):
            self.stack.enter_context(context)
        connect_all(state)
        state.is_executing = self.executing
        self.stack.enter_context(ctx_host.use(inventory.get_host(NAME)))
        forget()
        # What `once` keeps is kept with the proxy, which outlives the state that it stands for.
        pyinfra.state.__dict__.pop("_strongbox_shared", None)
        return self

    def __exit__(self, *_error: object) -> None:
        self.stack.close()

    def volumes(self, settings: VolumesSettings = SETTINGS) -> VolumesHost:
        return VolumesHost(
            cluster="payments",
            hostname="kafka1.example",
            base_dir="/srv/strongbox",
            settings=settings,
            custody=lambda: self.keys,  # type: ignore[arg-type, return-value]
            ours=known_volumes("payments", {"kafka1.example": settings}),
            unit="kafka",
        )

    def commands(self, **arguments: Any) -> list[Any]:
        arguments = {"volumes": self.volumes()} | arguments
        return list(mounted_volumes._inner(**arguments))


def scripts(commands: list[Any]) -> list[str]:
    """Names of the scripts in order: the word behind the script's text."""
    return [str(command.bits[2]) for command in commands]


def test_an_empty_disk_is_set_up_with_a_new_key_on_stdin_only() -> None:
    with Run(EMPTY) as run:
        disable, *commands = run.commands()
    # Whatever kept its data on the disk that was there before must not start by itself.
    assert "systemctl disable --quiet kafka" in disable.get_raw_value()
    assert scripts(commands) == ["format", "open", "mkfs", "finish", "mount"]
    finish = [bit.obj for bit in commands[3].bits[3:]]
    assert finish == ["/dev/disk/by-id/main", UUID, "strongbox-main", "strongbox-main", "xfs"]
    assert run.keys.asked == [("new", CONTEXT)]
    secret = base64.b64encode(run.keys.key).decode()
    formatted = commands[0].connector_arguments["_stdin"].splitlines()
    assert formatted == [secret, TOKEN.to_json()]
    assert commands[1].connector_arguments["_stdin"] == secret
    for command in commands:
        for text in (command.get_raw_value(), command.get_masked_value()):
            assert secret not in text and run.keys.key.hex() not in text
    assert "empty /dev/disk/by-id/main" in commands[0].get_raw_value().replace("'", "")


def test_while_it_is_planned_custody_is_not_asked() -> None:
    for seen in (EMPTY, CLOSED):
        with Run(seen, executing=False) as run:
            (command,) = run.commands()
        assert command.get_raw_value() == "true"
        assert run.keys.asked == []


def test_what_is_mounted_is_left_alone_and_custody_is_not_asked() -> None:
    with Run(MOUNTED) as run:
        assert run.commands() == []
        refuse_while_locked({NAME: run.volumes()})
    assert run.keys.asked == []


def test_a_closed_volume_is_opened_with_its_own_key() -> None:
    with Run(CLOSED) as run:
        commands = run.commands(set_up=False)
        assert scripts(commands) == ["open", "mount"]
        assert "--allow-discards --perf-no_read_workqueue" in commands[0].get_raw_value()
        with pytest.raises(OperationError, match=r"deploys/unlock\.py"):
            refuse_while_locked({NAME: run.volumes()})
    assert run.keys.asked == [("unwrap", CONTEXT)]


def test_custody_that_is_away_leaves_it_closed() -> None:
    refused = pytest.raises(OperationError, match=r"kafka1: volume 'main' stays closed: KMS")
    with Run(CLOSED, keys=Keys(away=True)) as run, refused:
        run.commands()


def test_unlocking_sets_nothing_up() -> None:
    with Run(EMPTY) as run:
        assert run.commands(set_up=False) == []
    assert run.keys.asked == []


def test_a_refusal_of_any_host_stops_the_run_by_its_name() -> None:
    seen = f"{DISK}blkid 0\nprobe TYPE=ext4\nsignature 0x438 ext4\nmount-point absent\n"
    with Run(seen) as run, pytest.raises(OperationError) as error:
        refuse_while_locked({NAME: run.volumes()})
    assert str(error.value).startswith(f"{NAME}: volume 'main': /dev/disk/by-id/main holds a file")


@pytest.mark.parametrize("executing", [True, False])
def test_a_refusal_names_host_volume_and_device(executing: bool) -> None:
    seen = f"{DISK}blkid 0\nprobe TYPE=ext4\nsignature 0x438 ext4\nmount-point absent\n"
    with Run(seen, executing=executing) as run, pytest.raises(OperationError) as error:
        run.commands()
    assert "kafka1: volume 'main': /dev/disk/by-id/main holds a file system (ext4)" in str(
        error.value
    )
    assert "--data volumes_wipe_confirm=kafka1.example:DISK-1" in str(error.value)
    assert run.keys.asked == []


def test_a_host_that_could_not_be_looked_at_stops() -> None:
    with Run("") as run, pytest.raises(OperationError, match="was not looked at"):
        run.commands()


def test_lines_for_boot_follow_the_mode() -> None:
    settings = SETTINGS.model_copy(update={"unlock": "boot"})
    with Run(MOUNTED) as run:
        commands = run.commands(volumes=run.volumes(settings))
    assert scripts(commands) == ["block", "block"]
    assert [command.bits[3].obj for command in commands] == [
        "/etc/fstab",
        "/etc/crypttab",
    ]
    with Run("block /etc/fstab old line\n" + MOUNTED) as run:
        (command,) = run.commands()
    assert command.connector_arguments["_stdin"] == ""


def test_lines_of_a_replaced_disk_go_before_the_new_one_is_formatted() -> None:
    other = "/dev/mapper/strongbox-data0 /srv/strongbox-data0 xfs noatime,nofail 0 0"
    with Run(EMPTY) as run:
        boot = run.volumes(SETTINGS.model_copy(update={"unlock": "boot"}))
        lines = files.fstab(boot), files.crypttab(boot, {"main": False})
    blocks = f"block /etc/fstab {lines[0][0]}\nblock /etc/fstab {other}\n"
    blocks += f"block /etc/crypttab {lines[1][0]}\n"
    with Run(blocks + EMPTY) as run:
        _disable, *commands = run.commands(volumes=boot)
    setup = ["format", "open", "mkfs", "finish", "mount"]
    assert scripts(commands) == ["block", "block", *setup, "block", "block"]
    said = [
        (command.bits[3].obj, command.connector_arguments["_stdin"])
        for command in commands
        if command.bits[2] == "block"
    ]
    assert said == [
        ("/etc/fstab", other),
        ("/etc/crypttab", ""),
        ("/etc/fstab", lines[0][0]),
        ("/etc/crypttab", lines[1][0]),
    ]
    # Cut behind the first two, the next run writes them at its end.
    with Run(EMPTY) as run:
        assert scripts(run.commands(volumes=boot)[1:]) == [*setup, "block", "block"]


# The header, read without cryptsetup -------------------------------------------------------------


def test_a_whole_header() -> None:
    found = read(luks_header("strongbox-main"))
    assert (found.uuid, found.label, found.keyslots) == (UUID, "strongbox-main", {0})
    assert (found.torn, found.damaged) == ("", "") and found.token == TOKEN


@pytest.mark.parametrize(("copy", "torn"), [(0, "first"), (1, "second")])
def test_one_copy_is_damaged(copy: int, torn: str) -> None:
    found = read(luks_header("strongbox-main", damage=copy))
    assert (found.torn, found.damaged, found.token) == (torn, "", TOKEN)


def test_no_copy_is_whole() -> None:
    for head in (b"", bytes(32768), luks_header("x")[:100], luks_header("x", damage=0)[:AREA]):
        assert read(head).damaged != ""


def test_copies_of_two_volumes() -> None:
    mixed = luks_header("x")[:AREA] + luks_header("x", uuid="other")[AREA:]
    assert "different volumes" in read(mixed).damaged


def test_luks1_has_a_uuid_only() -> None:
    head = b"LUKS\xba\xbe\x00\x01".ljust(168, b"\0") + UUID.encode()
    found = read(head)
    assert (found.version, found.uuid, found.token) == (1, UUID, None)
