"""Keys of real LUKS2 volumes on loop devices: what cryptsetup itself makes of every step."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from roles.custody.age import AgeCustody
from roles.custody.identity import IdentitySource, create
from roles.custody.records import Records
from roles.volumes.keys import erase, plan, restore
from roles.volumes.keys.life import VolumeKeys, look
from roles.volumes.keys.plan import Purpose, Refusal
from roles.volumes.keys.reencrypt import Reencryption
from roles.volumes.keys.restore import Action
from roles.volumes.keys.script import BUSY, Result, Script, ScriptError
from roles.volumes.keys.unlocking import keys_to_try
from tests.lab.disks import MIB, MakeDisk, attach, detach, disk  # noqa: F401
from tests.lab.local_keys import LocalVolume, cryptsetup, formatted, local, metadata, opens

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
BOTH = frozenset(Purpose)
SIZE_MIB = 20


@pytest.fixture(scope="module")
def custody(tmp_path_factory: pytest.TempPathFactory) -> AgeCustody:
    identity = tmp_path_factory.mktemp("identity") / "age"
    return AgeCustody([create(identity)], IdentitySource(str(identity), ()))


@dataclass(frozen=True)
class Template:
    """A volume that is complete, to be copied: its disk and its records."""

    disk: Path
    records: Path


@pytest.fixture(scope="module")
def template(custody: AgeCustody, tmp_path_factory: pytest.TempPathFactory) -> Template:
    folder = tmp_path_factory.mktemp("template")
    made = Template(folder / "disk.img", folder / "records")
    with made.disk.open("wb") as file:
        file.truncate(SIZE_MIB * MIB)
    attached = attach(made.disk)
    try:
        volume = formatted(attached, custody, made.records)
        assert run(volume)
        assert_complete(volume)
        assert opens(volume.device, volume.first_key)
    finally:
        detach(attached)
    return made


@pytest.fixture
def complete(
    template: Template,
    disk: MakeDisk,  # noqa: F811
    custody: AgeCustody,
    tmp_path: Path,
) -> LocalVolume:
    backing, records = tmp_path / "disk.img", tmp_path / "records"
    subprocess.run(["cp", "--sparse=always", template.disk, backing], check=True)
    shutil.copytree(template.records, records)
    keys = VolumeKeys("payments", "zk1", "main", disk(backing=backing).path)
    return LocalVolume(keys, custody, Records(records, custody))


def run(
    volume: LocalVolume,
    rotate: frozenset[Purpose] = frozenset(),
    runner: Callable[[Script], Result] = local,
    kill: frozenset[int] = frozenset(),
) -> list[str]:
    life = volume.life(runner)
    _, seen = life.look()
    goal = plan.goal(seen, rotate, kill)
    listed = [str(step) for step in plan.steps(seen, goal)]
    done = [str(step) for step in life.reach(goal)]
    assert done == listed
    return done


def assert_complete(volume: LocalVolume, others: int = 0) -> None:
    found = metadata(volume.device)
    kdfs = sorted(slot["kdf"]["type"] for slot in found["keyslots"].values())
    assert kdfs == ["argon2id", *["pbkdf2"] * (1 + others)]
    types = sorted(token["type"] for token in found["tokens"].values())
    assert types == ["strongbox", "strongbox-recovery"]
    for purpose in Purpose:
        assert opens(volume.device, volume.key(purpose))
    header = look(local, volume.keys)
    (backup,) = volume.records.headers(volume.keys.context("header"))
    image = volume.records.open_header(volume.keys.context("header"), backup.path)
    assert hashlib.sha256(image).hexdigest() == header.image
    assert run(volume) == []


def test_recovery_key_is_a_text_that_a_person_can_type(complete: LocalVolume) -> None:
    text = complete.key(Purpose.RECOVERY)
    assert text.decode().count("-") == 13
    # As at a prompt: a line, without our tools.
    cryptsetup("open", "--test-passphrase", complete.device, key=text + b"\n")


def test_rotation_of_both_keys(complete: LocalVolume) -> None:
    old = [complete.key(purpose) for purpose in Purpose]
    run(complete, BOTH)
    assert_complete(complete)
    assert not any(opens(complete.device, key) for key in old)
    assert {token["epoch"] for token in metadata(complete.device)["tokens"].values()} == {"2"}
    assert [item.epoch for item in complete.records.recoveries(complete.keys.context(""))] == [2]


class Killed(BaseException):
    pass


def _killed_before(chance: int, only: frozenset[str] = frozenset()) -> Callable[[Script], Result]:
    """A connection that ends before the command of that number; reading does not count."""
    left = chance

    def runner(script: Script) -> Result:
        nonlocal left
        if script.name in only or (not only and script.name != "keys-look"):
            left -= 1
            if left < 0:
                raise Killed
        return local(script)

    return runner


def test_rotation_killed_before_each_command_is_finished_by_the_next_run(
    complete: LocalVolume,
) -> None:
    for chance in range(40):
        old = complete.key(Purpose.VOLUME)
        try:
            run(complete, frozenset({Purpose.VOLUME}), _killed_before(chance))
        except Killed:
            # Whatever was reached, custody has a key that opens the volume.
            tried = keys_to_try(
                complete.keys, look(local, complete.keys), complete.custody, complete.records
            )
            assert opens(complete.device, next(tried)[1])
            run(complete, frozenset({Purpose.VOLUME}))
        else:
            break
        assert not opens(complete.device, old)
    assert chance > 6
    assert_complete(complete)


def test_unknown_keyslot_is_left_alone_until_it_is_named(complete: LocalVolume) -> None:
    mine = b"k" * 32
    key = complete.key(Purpose.VOLUME)
    cryptsetup(
        "luksAddKey", "--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
        "--new-key-slot", "9", "--key-file", "-", "--keyfile-size", "64", "--new-keyfile-size",
        "32", complete.device, "-", key=key + mine,
    )  # fmt: skip
    run(complete, frozenset({Purpose.VOLUME}))
    assert opens(complete.device, mine)
    _, seen = complete.life().look()
    assert plan.notes(seen, plan.goal(seen))
    assert_complete(complete, others=1)
    run(complete, kill=frozenset({9}))
    assert not opens(complete.device, mine)
    assert_complete(complete)


def test_keyslot_is_removed_only_with_the_key_of_another(complete: LocalVolume) -> None:
    header = look(local, complete.keys)
    before = metadata(complete.device)
    wrong = ("c" * 64 + "\n",)
    for slot, kept, status in (("0", "1", 2), ("0", "0", 1), ("0", "7", 2)):
        arguments = (complete.device, header.digest, slot, kept)
        assert local(Script("keys-kill", arguments, wrong)).status == status
    assert local(Script("keys-kill", (*arguments[:2], "0", "1"), ())).status == 1
    assert metadata(complete.device) == before


def test_script_for_another_header_changes_nothing(complete: LocalVolume) -> None:
    header = look(local, complete.keys)
    cryptsetup("config", "--label", "touched", complete.device)
    cryptsetup("token", "import", complete.device, key=b'{"type":"other","keyslots":[]}')
    before = metadata(complete.device)
    for name, rest in (("keys-token", ("remove", "0")), ("keys-header", ())):
        arguments = (complete.device, header.digest, *rest)
        result = local(Script(name, arguments))
        assert result.status == 3
        assert "is not the one that was looked at" in result.errors[0]
    assert metadata(complete.device) == before


def test_damaged_token_is_replaced(complete: LocalVolume) -> None:
    tokens = metadata(complete.device)["tokens"]
    number = next(item for item, data in tokens.items() if data["type"] == "strongbox")
    cryptsetup(
        "token", "import", "--token-id", number, "--token-replace", complete.device,
        key=b'{"type":"strongbox","keyslots":["0"],"epoch":"1","ciphertext":"?"}',
    )  # fmt: skip
    header = look(local, complete.keys)
    offered = list(keys_to_try(complete.keys, header, complete.custody, complete.records))
    assert [name for name, _ in offered] == ["recovery key, epoch 1"]
    assert opens(complete.device, offered[0][1])
    run(complete)
    assert opens(complete.device, complete.key(Purpose.VOLUME))


@pytest.mark.parametrize(
    ("at", "size", "action"),
    [
        (0, 4096, Action.REPAIR),
        (4096, 12288, Action.REPAIR),
        (16384, 16384, Action.REPAIR),
        (0, 32768, Action.RESTORE),
        (32768, 1 << 20, Action.RESTORE),
        (0, 1 << 20, Action.RESTORE),
    ],
)
def test_damaged_header_is_restored(
    complete: LocalVolume, at: int, size: int, action: Action
) -> None:
    whole = look(local, complete.keys)
    key = complete.key(Purpose.VOLUME)
    _overwrite(complete.device, at, size)
    with pytest.raises(Refusal, match=r"restore_header|does not open") as refused:
        run(complete, frozenset({Purpose.VOLUME}))
    assert "\n" not in str(refused.value)
    done, said = _restore(complete)
    assert done is action
    assert said == "the machine key opens keyslot 0"
    assert opens(complete.device, key)
    found = look(local, complete.keys)
    assert (found.whole, found.metadata) == (True, whole.metadata)
    run(complete)
    assert_complete(complete)


def _restore(volume: LocalVolume) -> tuple[Action, str]:
    return restore.restore(volume.keys, local, volume.life(), volume.records)


def _overwrite(device: str, at: int, size: int) -> None:
    with open(device, "r+b") as file:  # noqa: PTH123
        file.seek(at)
        file.write(os.urandom(size))
        os.fsync(file.fileno())


def test_intact_header_is_not_restored(complete: LocalVolume) -> None:
    before = look(local, complete.keys)
    with pytest.raises(Refusal, match="is intact: the machine key opens keyslot 0"):
        _restore(complete)
    assert look(local, complete.keys) == before


def test_older_backup_is_not_put_over_a_whole_header(complete: LocalVolume, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "records", tmp_path / "older")
    run(complete, frozenset({Purpose.VOLUME}))
    _overwrite(complete.device, 32768, 1 << 20)
    older = Records(tmp_path / "older", complete.custody)
    with pytest.raises(Refusal, match="would bring back removed keys"):
        _restore(replace(complete, records=older))
    assert _restore(complete)[0] is Action.RESTORE


def test_header_is_not_restored_over_a_file_system(complete: LocalVolume) -> None:
    _overwrite(complete.device, 0, 1 << 20)
    subprocess.run(["mkswap", complete.device], check=True, capture_output=True)
    with pytest.raises(Refusal, match="holds swap now"):
        _restore(complete)


def test_header_of_another_volume_is_refused_by_every_deploy(
    complete: LocalVolume, custody: AgeCustody, tmp_path: Path
) -> None:
    stranger = LocalVolume(replace(complete.keys, host="zk2"), custody, complete.records)
    header = look(local, complete.keys)
    for attempt in (
        lambda: run(stranger),
        lambda: _restore(stranger),
        lambda: erase.erase(stranger.keys, local, stranger.records),
        lambda: list(Reencryption(stranger.keys, local, custody, stranger.records, True).reach()),
    ):
        with pytest.raises(Refusal, match="it is another disk"):
            attempt()
    assert look(local, complete.keys) == header


def test_erased_volume_opens_with_no_key_and_no_backup_is_left(complete: LocalVolume) -> None:
    keys = [complete.key(purpose) for purpose in Purpose]
    header = look(local, complete.keys)
    assert erase.named(complete.keys.uuid, {complete.keys: header}) == complete.keys
    erase.erase(complete.keys, local, complete.records)
    assert not any(opens(complete.device, key) for key in keys)
    with open(complete.device, "rb") as file:  # noqa: PTH123
        assert not any(file.read(16 << 20))
    assert erase.done(complete.keys, look(local, complete.keys), complete.records)
    context = complete.keys.context("header")
    assert not complete.records.headers(context) + complete.records.recoveries(context)


def _whole_disk(device: str) -> str:
    with open(device, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def partitioned(complete: LocalVolume) -> LocalVolume:
    """The disk of the volume that was given another use, with a GPT."""
    _overwrite(complete.device, 0, 1 << 20)
    subprocess.run(["sfdisk", "--quiet", complete.device], input=b"label: gpt\n2048\n", check=True)
    return complete


def assert_left_alone(volume: LocalVolume, said: str) -> None:
    """By the decision, and by the scripts if that was wrong."""
    before, header = _whole_disk(volume.device), look(local, volume.keys)
    for attempt in (
        lambda: erase.erase(volume.keys, local, volume.records),
        lambda: _restore(volume),
    ):
        with pytest.raises((Refusal, ScriptError), match=said):
            attempt()
    for name, rest in (
        ("keys-erase", (header.serial,)),
        ("keys-restore", (volume.keys.uuid, "repair")),
        ("keys-restore", (volume.keys.uuid, "restore", "0" * 64)),
    ):
        result = local(Script(name, (volume.device, header.digest, *rest)))
        assert result.status == BUSY, result.errors
        assert "nothing was changed" in result.errors[0]
    assert _whole_disk(volume.device) == before


def test_partitioned_disk_is_neither_erased_nor_restored(partitioned: LocalVolume) -> None:
    assert_left_alone(partitioned, "holds a partition table")


def test_backup_of_a_gpt_at_the_end_of_a_disk_is_a_sign_of_use(partitioned: LocalVolume) -> None:
    _overwrite(partitioned.device, 0, 1 << 20)
    assert_left_alone(partitioned, "gpt|partition table")


def test_disk_with_a_mounted_file_system_is_neither_erased_nor_restored(
    complete: LocalVolume, tmp_path: Path
) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    subprocess.run(["mkfs.ext4", "-qF", complete.device], check=True)
    # Not writable, as the file system itself would write to the disk meanwhile.
    subprocess.run(["mount", "-o", "ro,noload", complete.device, mount], check=True)
    try:
        assert_left_alone(complete, "holds ext4")
    finally:
        subprocess.run(["umount", complete.device], check=True)


def test_disk_that_somebody_has_claimed_is_not_erased(complete: LocalVolume) -> None:
    claim = os.open(complete.device, os.O_RDWR | os.O_EXCL)
    try:
        assert_left_alone(complete, "somebody else has it open|is intact")
    finally:
        os.close(claim)


def test_uuid_confirms_only_what_is_on_the_disk(complete: LocalVolume) -> None:
    _overwrite(complete.device, 0, 4096)
    header = look(local, complete.keys)
    with pytest.raises(Refusal, match="named by its serial"):
        erase.named(complete.keys.uuid, {complete.keys: header})
    assert erase.named(header.serial, {complete.keys: header}) == complete.keys


def test_volume_is_erased_whatever_is_left_of_its_header(complete: LocalVolume) -> None:
    _overwrite(complete.device, 0, 8192)
    erase.erase(complete.keys, local, complete.records)
    assert erase.done(complete.keys, look(local, complete.keys), complete.records)


def test_reencryption_gives_a_new_volume_key_and_keeps_both_keys(
    complete: LocalVolume, custody: AgeCustody
) -> None:
    with open(complete.device, "r+b") as file:  # noqa: PTH123
        file.seek(17 << 20)
        file.write(b"plain" * 1000)
    before = metadata(complete.device)["digests"]
    keys = [complete.key(purpose) for purpose in Purpose]
    reencryption = Reencryption(complete.keys, local, custody, complete.records, offline=True)
    done = list(reencryption.reach())
    assert len(done) > 3
    assert metadata(complete.device)["digests"] != before
    assert [complete.key(purpose) for purpose in Purpose] == keys
    assert_complete(complete)


def test_reencryption_that_was_killed_is_gone_on_with(
    complete: LocalVolume, custody: AgeCustody
) -> None:
    for chance in range(12):
        runner = _killed_before(chance, frozenset({"keys-reencrypt", "keys-header"}))
        again = Reencryption(complete.keys, runner, custody, complete.records, offline=True)
        try:
            list(again.reach())
            break
        except Killed:
            found = look(local, complete.keys)
            key = next(keys_to_try(complete.keys, found, custody, complete.records))[1]
            assert opens(complete.device, key)
    assert chance > 2
    assert_complete(complete)


def test_keys_are_not_changed_and_no_older_header_restored_while_reencrypting(
    complete: LocalVolume, custody: AgeCustody
) -> None:
    again = Reencryption(complete.keys, local, custody, complete.records, offline=True)
    steps = again.reach()
    next(steps)
    next(steps)
    with pytest.raises(Refusal, match="a re-encryption was begun"):
        run(complete, BOTH)
    _overwrite(complete.device, 0, 1 << 20)
    with pytest.raises(Refusal, match="lost in the middle of a re-encryption"):
        _restore(complete)


def test_device_that_vanished_is_refused(complete: LocalVolume, custody: AgeCustody) -> None:
    gone = LocalVolume(replace(complete.keys, device="/dev/loop999"), custody, complete.records)
    with pytest.raises(Refusal, match="/dev/loop999 is not there"):
        run(gone)


def test_no_key_reaches_an_argument(complete: LocalVolume) -> None:
    seen: list[Script] = []

    def watching(script: Script) -> Result:
        seen.append(script)
        return local(script)

    run(complete, BOTH, watching)
    secret = [line for script in seen for line in script.stdin if not line.startswith("{")]
    assert len(secret) > 5
    shown = "".join(script.command + repr(script) for script in seen)
    assert not any(line in shown for line in secret)
