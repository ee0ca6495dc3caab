from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common import files
from roles.custody import identity, record_file, recovery
from roles.custody.age import AgeCustody
from roles.custody.identity import IdentitySource
from roles.custody.protocol import CustodyError
from roles.custody.records import RecordError, Records
from tests.examples import examples

from .custody_support import CONTEXT, UUID, local

RECOVERY_CONTEXT = replace(CONTEXT, purpose="recovery")
HEADER = b"LUKS\xba\xbe" + secrets.token_bytes(3000) + bytes(1024 * 1024)


@pytest.fixture(scope="module")
def custody(tmp_path_factory: pytest.TempPathFactory) -> AgeCustody:
    return local(tmp_path_factory.mktemp("age"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "custody"


@pytest.fixture
def records(folder: Path, custody: AgeCustody) -> Records:
    return Records(folder, custody)


@pytest.fixture(scope="module")
def no_disk() -> Iterator[None]:
    """Waiting for the disk takes most of the time of a test with many examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "fsync", lambda _: None)
        yield


def place(folder: Path, name: str) -> Path:
    return folder / "kafka1.test" / "main" / name


def test_recovery_keys_newest_first(records: Records, custody: AgeCustody, folder: Path) -> None:
    made = {epoch: recovery.generate().passphrase for epoch in (1, 2, 10)}
    for epoch, key in made.items():
        records.put_recovery(CONTEXT, UUID, epoch, key)
    found = records.recoveries(CONTEXT)
    assert [(item.epoch, item.uuid) for item in found] == [(10, UUID), (2, UUID), (1, UUID)]
    for item in found:
        assert custody.unwrap(item.wrapped, RECOVERY_CONTEXT) == made[item.epoch]
    assert place(folder, "recovery-10.json").is_file()


def test_headers_newest_first(records: Records, folder: Path) -> None:
    for epoch in (1, 2):
        records.put_header(CONTEXT, UUID, epoch, HEADER + bytes([epoch]))
    newest, oldest = records.headers(CONTEXT)
    assert (newest.epoch, newest.path) == (2, place(folder, "header-2.sealed"))
    assert records.open_header(CONTEXT, newest.path) == HEADER + b"\2"
    assert records.open_header(CONTEXT, oldest.path) == HEADER + b"\1"
    assert newest.path.stat().st_size < 10_000


def test_nothing_kept_is_no_error(records: Records) -> None:
    assert records.recoveries(CONTEXT) == records.headers(CONTEXT) == []
    records.forget(CONTEXT)
    records.forget_before(CONTEXT, 5)
    assert records.contexts("payments") == []


@examples(100)
@given(epochs=st.lists(st.integers(1, 6), min_size=1, max_size=8), sealed=st.booleans())
def test_epochs_never_go_down(
    custody: AgeCustody,
    tmp_path_factory: pytest.TempPathFactory,
    no_disk: None,
    epochs: list[int],
    sealed: bool,
) -> None:
    folder = tmp_path_factory.mktemp("records")
    records = Records(folder, custody)
    newest = 0
    for epoch in epochs:
        put: Callable[[], object] = (
            (lambda: records.put_header(CONTEXT, UUID, epoch, b"header"))  # noqa: B023
            if sealed
            else (lambda: records.put_recovery(CONTEXT, UUID, epoch, b"k" * 32))  # noqa: B023
        )
        if epoch < newest:
            with pytest.raises(RecordError, match=f"epoch {epoch} .* is older than"):
                put()
        else:
            put()
            newest = epoch
        kept = records.headers(CONTEXT) if sealed else records.recoveries(CONTEXT)
        assert kept[0].epoch == newest
    shutil.rmtree(folder)


def test_same_epoch_replaces(records: Records, custody: AgeCustody) -> None:
    for key in (b"a" * 32, b"b" * 32):
        records.put_recovery(CONTEXT, UUID, 3, key)
    (only,) = records.recoveries(CONTEXT)
    assert custody.unwrap(only.wrapped, RECOVERY_CONTEXT) == b"b" * 32


def test_forget_before_leaves_the_newest(records: Records) -> None:
    records.put_recovery(CONTEXT, UUID, 1, b"k" * 32)
    for epoch in (1, 2, 3):
        records.put_header(CONTEXT, UUID, epoch, HEADER)
    records.forget_before(CONTEXT, 3)
    assert [item.epoch for item in records.headers(CONTEXT)] == [3]
    assert [item.epoch for item in records.recoveries(CONTEXT)] == [1], "the only one stays"
    records.forget_before(CONTEXT, 4)
    assert [item.epoch for item in records.headers(CONTEXT)] == [3]


def test_forget_before_of_one_kind(records: Records) -> None:
    for epoch in (1, 2):
        records.put_recovery(CONTEXT, UUID, epoch, b"k" * 32)
        records.put_header(CONTEXT, UUID, epoch, HEADER)
    records.forget_before(CONTEXT, 2, "header")
    assert [item.epoch for item in records.headers(CONTEXT)] == [2]
    assert [item.epoch for item in records.recoveries(CONTEXT)] == [2, 1]


def test_forget_leaves_nothing(records: Records, folder: Path) -> None:
    other = replace(CONTEXT, volume="data1")
    for context in (CONTEXT, other):
        records.put_recovery(context, UUID, 1, b"k" * 32)
        records.put_header(context, UUID, 1, HEADER)
    place(folder, ".recovery-2.json.1234").write_text("half written")
    records.forget(CONTEXT)
    assert not place(folder, "").exists()
    assert len(records.headers(other)) == 1


def test_files_are_private(records: Records, folder: Path) -> None:
    old = os.umask(0)
    try:
        records.put_recovery(CONTEXT, UUID, 1, b"k" * 32)
        records.put_header(CONTEXT, UUID, 1, HEADER)
    finally:
        os.umask(old)
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_files_are_safe_to_commit(records: Records, custody: AgeCustody, folder: Path) -> None:
    key, header = recovery.generate(), HEADER
    records.put_recovery(CONTEXT, UUID, 1, key.passphrase)
    records.put_header(CONTEXT, UUID, 1, header)
    custody.unwrap(records.recoveries(CONTEXT)[0].wrapped, RECOVERY_CONTEXT)
    secret = Path(custody._source.file).read_text().splitlines()[-1]
    head, _ = record_file.read(place(folder, "header-1.sealed"))
    data_key = custody.unwrap(head.wrapped, head.context)
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"strongbox:cluster" in content
    for canary in (key.passphrase, secret.encode(), data_key, data_key[:32], header[6:40]):
        for form in (canary, base64.b64encode(canary), canary.hex().encode()):
            assert form not in content


@pytest.mark.parametrize("name", ["recovery-1.json", "header-1.sealed"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:200],
        lambda data: b"\xff" + data[1:],
        lambda data: b"[]\n",
        lambda data: b"[" * 100_000 + b"\n",
        lambda data: data.replace(b'"epoch": 1', b'"epoch": 2'),
        lambda data: data.replace(b'"epoch": 1', b'"epoch": true'),
        lambda data: data.replace(b'"format": 1', b'"format": 2'),
        lambda data: data.replace(UUID.encode(), b"../../../etc"),
        lambda data: data.replace(b'"ciphertext": "', b'"ciphertext": "*'),
        lambda data: data.replace(b"strongbox:volume", b"volume"),
    ],
)
def test_damaged_record(
    records: Records, folder: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    records.put_recovery(CONTEXT, UUID, 1, b"k" * 32)
    records.put_header(CONTEXT, UUID, 1, HEADER)
    path = place(folder, name)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RecordError, match=f"{path} is damaged .*restore it from version control"):
        records.recoveries(CONTEXT) if "recovery" in name else records.headers(CONTEXT)


@examples(60)
@given(position=st.integers(min_value=0), bit=st.integers(0, 7), cut=st.booleans())
def test_no_bit_of_a_sealed_header_can_change(
    custody: AgeCustody,
    tmp_path_factory: pytest.TempPathFactory,
    no_disk: None,
    position: int,
    bit: int,
    cut: bool,
) -> None:
    folder = tmp_path_factory.mktemp("records")
    records = Records(folder, custody)
    path = records.put_header(CONTEXT, UUID, 1, b"LUKS" * 20).path
    original, _ = record_file.read(path)
    data = bytearray(path.read_bytes())
    position %= len(data)
    if cut:
        del data[position:]
    else:
        data[position] ^= 1 << bit
    path.write_bytes(bytes(data))
    try:
        assert records.open_header(CONTEXT, path) == b"LUKS" * 20
    except (RecordError, CustodyError) as error:
        assert "\n" not in str(error)
    else:
        # Only what it was wrapped under is not authenticated (it decides nothing), and how
        # base64 spells the ciphertext.
        head, _ = record_file.read(path)
        assert replace(head, wrapped=original.wrapped) == original
        assert head.wrapped != original.wrapped
    shutil.rmtree(folder)


def test_foreign_file(records: Records, folder: Path) -> None:
    records.put_recovery(CONTEXT, UUID, 1, b"k" * 32)
    place(folder, "notes.txt").write_text("mine")
    with pytest.raises(RecordError, match=r"notes\.txt is damaged or no record of ours"):
        records.recoveries(CONTEXT)
    with pytest.raises(RecordError, match=r"notes\.txt"):
        records.put_header(CONTEXT, UUID, 1, HEADER)


def test_link_is_not_followed(records: Records, folder: Path, tmp_path: Path) -> None:
    records.put_recovery(CONTEXT, UUID, 1, b"k" * 32)
    path = place(folder, "recovery-1.json")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RecordError, match=f"record {path}"):
        records.recoveries(CONTEXT)


def test_record_of_another_volume(records: Records, folder: Path) -> None:
    other = replace(CONTEXT, host="kafka2.test")
    records.put_recovery(CONTEXT, UUID, 1, b"k" * 32)
    path = records.put_header(CONTEXT, UUID, 1, HEADER).path
    shutil.copytree(folder / "kafka1.test", folder / "kafka2.test")
    for ask in (records.recoveries, records.headers):
        with pytest.raises(RecordError, match=r"is of the .* on kafka1\.test .*, not of the"):
            ask(other)
    with pytest.raises(RecordError, match="not of the header key"):
        records.open_header(other, path)
    with pytest.raises(RecordError, match="move it to"):
        records.contexts("payments")


def test_records_of_other_clusters_are_left_alone(records: Records) -> None:
    other = replace(CONTEXT, cluster="orders", host="kafka9.test")
    for context in (CONTEXT, other):
        records.put_recovery(context, UUID, 1, b"k" * 32)
    assert records.contexts("payments") == [replace(CONTEXT, purpose="")]


@pytest.mark.parametrize("host", ["..", ".", "", "a/b", "/etc"])
def test_host_that_would_leave_the_folder(records: Records, host: str) -> None:
    with pytest.raises(RecordError, match="cannot be the name"):
        records.put_recovery(replace(CONTEXT, host=host), UUID, 1, b"k" * 32)


@pytest.mark.parametrize(("uuid", "epoch"), [("nonsense", 1), (UUID, 0), (UUID, -1), ("", 1)])
def test_nonsense_is_not_kept(records: Records, folder: Path, uuid: str, epoch: int) -> None:
    with pytest.raises(RecordError, match=r"epochs count from 1|not the UUID"):
        records.put_recovery(CONTEXT, uuid, epoch, b"k" * 32)
    assert not folder.exists()


def test_header_of_no_sensible_size(records: Records) -> None:
    for header in (b"", bytes(record_file.LONGEST_HEADER + 1)):
        with pytest.raises(RecordError, match="at most 64 MiB and is not empty"):
            records.put_header(CONTEXT, UUID, 1, header)


def test_folder_that_cannot_be_made(custody: AgeCustody, tmp_path: Path) -> None:
    (tmp_path / "custody").write_text("a file")
    with pytest.raises(RecordError, match=r"Not a directory|File exists"):
        Records(tmp_path / "custody", custody).put_recovery(CONTEXT, UUID, 1, b"k" * 32)


def test_write_that_fails_leaves_the_old_one(
    records: Records, custody: AgeCustody, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.put_recovery(CONTEXT, UUID, 1, b"a" * 32)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RecordError, match=r"recovery-1\.json: No space left on device"):
        records.put_recovery(CONTEXT, UUID, 1, b"b" * 32)
    monkeypatch.undo()
    assert [path.name for path in place(folder, "").iterdir()] == ["recovery-1.json"]
    (only,) = records.recoveries(CONTEXT)
    assert custody.unwrap(only.wrapped, RECOVERY_CONTEXT) == b"a" * 32


def test_rewrap_goes_to_the_present_recipients_and_resumes(
    records: Records, custody: AgeCustody, folder: Path, tmp_path: Path
) -> None:
    for epoch in (1, 2):
        records.put_recovery(CONTEXT, UUID, epoch, b"k" * 32)
        records.put_header(CONTEXT, UUID, epoch, HEADER)
    newcomer = identity.create(tmp_path / "new.age")
    both = AgeCustody((*custody._recipients, newcomer), custody._source)

    class Killed(BaseException):
        pass

    class DiesAfterTwo(AgeCustody):
        left = 2

        def rotate(self, *arguments: object) -> object:  # type: ignore[override]
            if not self.left:
                raise Killed
            self.left -= 1
            return super().rotate(*arguments)  # type: ignore[arg-type]

    assert not Records(folder, both).is_current(CONTEXT)
    with pytest.raises(Killed):
        Records(folder, DiesAfterTwo(both._recipients, custody._source)).rewrap(CONTEXT)
    assert Records(folder, both).rewrap(CONTEXT) == 2
    assert Records(folder, both).rewrap(CONTEXT) == 0
    assert Records(folder, both).is_current(CONTEXT)
    alone = AgeCustody(both._recipients, IdentitySource(file=str(tmp_path / "new.age")))
    opened = Records(folder, alone)
    for header in opened.headers(CONTEXT):
        assert opened.open_header(CONTEXT, header.path) == HEADER
    for item in opened.recoveries(CONTEXT):
        assert alone.unwrap(item.wrapped, RECOVERY_CONTEXT) == b"k" * 32


def test_records_under_gevent(custody: AgeCustody, folder: Path) -> None:
    """pyinfra patches os.close: a folder's descriptor stays open until its loop runs."""
    program = (
        "from gevent import monkey\n"
        "monkey.patch_all()\n"
        "import gevent\n"
        "gevent.get_hub()\n"
        "from roles.custody.records import Records\n"
        "from tests.unit.test_custody_records import CONTEXT, UUID, AgeCustody, IdentitySource\n"
        f"records = Records({str(folder)!r}, "
        f"AgeCustody({custody._recipients!r}, IdentitySource()))\n"
        "for epoch in (1, 2):\n"
        "    records.put_recovery(CONTEXT, UUID, epoch, b'k' * 32)\n"
        "print(len(records.recoveries(CONTEXT)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    assert result.stdout == b"2\n"


def test_a_record_is_plain_json(records: Records, folder: Path) -> None:
    records.put_recovery(CONTEXT, UUID, 7, b"k" * 32)
    data = json.loads(place(folder, "recovery-7.json").read_text())
    assert (data["epoch"], data["uuid"], data["scheme"]) == (7, UUID, "age")
    assert data["context"] == RECOVERY_CONTEXT.as_dict()
