from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyrage import x25519

from roles.custody import identity
from roles.custody.age import AgeCustody
from roles.custody.identity import IdentitySource
from roles.custody.protocol import KEY_BYTES, Custody, CustodyError, KeyContext, WrappedKey
from tests.examples import examples

from .custody_support import CONTEXT, contexts, local
from .tls_support import canary


@pytest.fixture(scope="module")
def custody(tmp_path_factory: pytest.TempPathFactory) -> AgeCustody:
    return local(tmp_path_factory.mktemp("age"))


@examples(100)
@given(context=contexts, key=st.binary(min_size=16, max_size=512))
def test_what_was_wrapped_comes_back(custody: AgeCustody, context: KeyContext, key: bytes) -> None:
    wrapped = WrappedKey.from_dict(json.loads(json.dumps(custody.wrap(key, context).as_dict())))
    assert custody.unwrap(wrapped, context) == key
    assert custody.unwrap(custody.rotate(wrapped, context), context) == key


@examples(100)
@given(made_for=contexts, asked_for=contexts)
def test_any_other_context_is_refused(
    custody: AgeCustody, made_for: KeyContext, asked_for: KeyContext
) -> None:
    key, wrapped = custody.new_key(made_for)
    if made_for == asked_for:
        assert custody.unwrap(wrapped, asked_for) == key
        return
    with pytest.raises(CustodyError) as error:
        custody.unwrap(wrapped, asked_for)
    assert str(made_for) in str(error.value)
    assert str(asked_for) in str(error.value)


def test_it_is_a_custody(custody: Custody) -> None:
    key, wrapped = custody.new_key(CONTEXT)
    assert len(key) == KEY_BYTES
    assert custody.is_current(wrapped)
    assert key not in base64.b64decode(wrapped.ciphertext)


def test_each_operator_can_unwrap_alone(tmp_path: Path) -> None:
    names = [identity.create(tmp_path / name) for name in ("anna", "ben")]
    both = AgeCustody(names, IdentitySource())
    key, wrapped = both.new_key(CONTEXT)
    for name in ("anna", "ben"):
        alone = AgeCustody(names[::-1], IdentitySource(file=str(tmp_path / name)))
        assert alone.unwrap(wrapped, CONTEXT) == key
        assert alone.is_current(wrapped)


def test_rotation_goes_to_the_present_recipients(tmp_path: Path) -> None:
    old, new = local(tmp_path, "old"), local(tmp_path, "new")
    both = AgeCustody(
        (identity.create(tmp_path / "third"),), IdentitySource(file=str(tmp_path / "old.age"))
    )
    key, wrapped = old.new_key(CONTEXT)
    assert not both.is_current(wrapped)
    rotated = both.rotate(wrapped, CONTEXT)
    assert both.is_current(rotated)
    third = AgeCustody((), IdentitySource(file=str(tmp_path / "third")))
    assert third.unwrap(rotated, CONTEXT) == key
    for no_longer in (old, new):
        with pytest.raises(CustodyError):
            no_longer.unwrap(rotated, CONTEXT)


def test_strangers_identity_is_named(tmp_path: Path) -> None:
    ours, theirs = local(tmp_path, "ours"), local(tmp_path, "theirs")
    stranger = AgeCustody(ours._recipients, IdentitySource(file=str(tmp_path / "theirs.age")))
    _, wrapped = ours.new_key(CONTEXT)
    with pytest.raises(CustodyError, match="is none of custody_recipients") as error:
        stranger.unwrap(wrapped, CONTEXT)
    assert theirs._recipients[0] in str(error.value)


def test_newcomer_learns_that_keys_are_older(tmp_path: Path) -> None:
    old, new = local(tmp_path, "old"), local(tmp_path, "new")
    _, wrapped = old.new_key(CONTEXT)
    both = AgeCustody(
        old._recipients + new._recipients, IdentitySource(file=str(tmp_path / "new.age"))
    )
    with pytest.raises(CustodyError, match=r"wrapped before .*`strongbox custody rewrap`"):
        both.unwrap(wrapped, CONTEXT)


@examples(150)
@given(position=st.integers(min_value=0), bit=st.integers(0, 7), cut=st.booleans())
def test_damaged_ciphertext(custody: AgeCustody, position: int, bit: int, cut: bool) -> None:
    _, wrapped = custody.new_key(CONTEXT)
    data = bytearray(base64.b64decode(wrapped.ciphertext))
    position %= len(data)
    if cut:
        del data[position:]
    else:
        data[position] ^= 1 << bit
    changed = replace(wrapped, ciphertext=base64.b64encode(bytes(data)).decode())
    with pytest.raises(CustodyError, match="is damaged: restore") as error:
        custody.unwrap(changed, CONTEXT)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["AAA", "====", "x" * 100_000])
def test_ciphertext_that_is_none(custody: AgeCustody, text: str) -> None:
    with pytest.raises(CustodyError, match="is damaged"):
        custody.unwrap(WrappedKey("age", custody.key_id, text), CONTEXT)


@pytest.mark.parametrize("content", [b"{}", b"[]", b"\xff", b'{"context": {}, "key": "AAAA"}'])
def test_content_of_another_tool(custody: AgeCustody, content: bytes) -> None:
    sealed = pyrage.encrypt(content, [x25519.Recipient.from_str(custody._recipients[0])])
    wrapped = WrappedKey("age", custody.key_id, base64.b64encode(sealed).decode())
    with pytest.raises(CustodyError, match="strongbox did not make"):
        custody.unwrap(wrapped, CONTEXT)


@pytest.mark.parametrize("size", [0, 15, 513])
def test_key_of_no_sensible_length(custody: AgeCustody, size: int) -> None:
    with pytest.raises(CustodyError, match="16 to 512"):
        custody.wrap(b"k" * size, CONTEXT)
    content = {"context": CONTEXT.as_dict(), "key": base64.b64encode(b"k" * size).decode()}
    recipient = x25519.Recipient.from_str(custody._recipients[0])
    sealed = base64.b64encode(pyrage.encrypt(json.dumps(content).encode(), [recipient])).decode()
    with pytest.raises(CustodyError, match="16 to 512"):
        custody.unwrap(WrappedKey("age", custody.key_id, sealed), CONTEXT)


def test_key_of_another_custody(custody: AgeCustody) -> None:
    with pytest.raises(CustodyError, match="custody_kind = 'aws-kms'"):
        custody.unwrap(WrappedKey("aws-kms", "arn:…", "AAAA"), CONTEXT)


def test_nobody_to_wrap_for() -> None:
    with pytest.raises(CustodyError, match="custody_recipients is empty"):
        AgeCustody((), IdentitySource()).new_key(CONTEXT)


def test_recipient_with_a_typing_error() -> None:
    recipient = str(x25519.Identity.generate().to_public())
    wrong = recipient[:-1] + ("q" if recipient[-1] != "q" else "p")
    with pytest.raises(CustodyError, match="wrong checksum"):
        AgeCustody((wrong,), IdentitySource()).new_key(CONTEXT)


def test_identity_is_read_once_and_only_to_unwrap(tmp_path: Path) -> None:
    path, count = tmp_path / "id", tmp_path / "count"
    recipient = identity.create(path)
    command = ("sh", "-c", f"echo x >>{count}; cat {path}")
    custody = AgeCustody((recipient,), IdentitySource(command=command))
    key, wrapped = custody.new_key(CONTEXT)
    custody.is_current(wrapped)
    custody.describe()
    assert not count.exists()
    assert custody.unwrap(wrapped, CONTEXT) == custody.unwrap(wrapped, CONTEXT) == key
    assert count.read_text() == "x\n"


def test_a_source_that_failed_is_not_asked_again(tmp_path: Path) -> None:
    count = tmp_path / "count"
    source = IdentitySource(command=("sh", "-c", f"echo x >>{count}; exit 3"))
    custody = AgeCustody((identity.create(tmp_path / "id"),), source)
    _, wrapped = custody.new_key(CONTEXT)
    for _ in range(2):
        with pytest.raises(CustodyError, match="command 'sh' failed with exit code 3"):
            custody.unwrap(wrapped, CONTEXT)
    assert count.read_text() == "x\n"


def test_identity_is_nowhere(tmp_path: Path) -> None:
    custody = AgeCustody((identity.create(tmp_path / "id"),), IdentitySource())
    _, wrapped = custody.new_key(CONTEXT)
    with pytest.raises(CustodyError, match="set custody_identity_file or custody_identity_command"):
        custody.unwrap(wrapped, CONTEXT)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_identity_that_others_can_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "an id"
    identity.create(path)
    path.chmod(mode)
    with pytest.raises(CustodyError, match=f"can be read by others.*chmod 600 '{path}'"):
        identity.read(IdentitySource(file=str(path)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_identity_that_belongs_to_another_user(tmp_path: Path) -> None:
    path = tmp_path / "id"
    identity.create(path)
    os.chown(path, 12345, -1)
    with pytest.raises(CustodyError, match=f"user with id 12345.*chown 0 {path}"):
        identity.read(IdentitySource(file=str(path)))


def test_identity_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(CustodyError, match="is not a regular file"):
            identity.read(IdentitySource(file=str(path)))
    with pytest.raises(CustodyError, match="No such file"):
        identity.read(IdentitySource(file=str(tmp_path / "absent")))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("{canary}", "is none: it must have lines AGE-SECRET-KEY-1"),
        ("AGE-SECRET-KEY-1" + "Q" * 58, "its checksum is wrong"),
        ("{canary}" + "x" * 5000, "longer than 4096 bytes"),
    ],
)
def test_identity_that_is_something_else(tmp_path: Path, content: str, reason: str) -> None:
    secret, path = canary(), tmp_path / "id"
    path.write_text(content.replace("{canary}", secret))
    path.chmod(0o600)
    with pytest.raises(CustodyError, match=reason) as error:
        identity.read(IdentitySource(file=str(path)))
    assert secret not in str(error.value)
    assert error.value.__cause__ is None


def test_several_identities_are_all_tried(tmp_path: Path) -> None:
    custody = local(tmp_path)
    key, wrapped = custody.new_key(CONTEXT)
    other = tmp_path / "other"
    identity.create(other)
    other.write_text(other.read_text() + "\n" + (tmp_path / "operator.age").read_text())
    both = AgeCustody(custody._recipients, IdentitySource(file=str(other)))
    assert both.unwrap(wrapped, CONTEXT) == key


def test_no_identity_is_ever_shown(tmp_path: Path) -> None:
    custody = local(tmp_path)
    _, wrapped = custody.new_key(CONTEXT)
    custody.unwrap(wrapped, CONTEXT)
    secret = (tmp_path / "operator.age").read_text().splitlines()[-1]
    assert secret.startswith("AGE-SECRET-KEY-1")
    source = IdentitySource(command=("pass", secret))
    shown = f"{custody!r} {custody._identities!r} {source!r} {source} {source.describe()}"
    assert secret not in shown
    assert custody._recipients[0] in shown


def test_an_identity_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "id"
    identity.create(path)
    before = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(CustodyError, match="never overwritten"):
        identity.create(path)
    assert path.read_bytes() == before
    with pytest.raises(CustodyError, match="No such file"):
        identity.create(tmp_path / "absent" / "id")
