from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.custody import recovery
from roles.custody.recovery import RecoveryKeyError
from tests.examples import examples

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
keys = st.binary(min_size=32, max_size=32)


def test_checksum_is_crc_24_of_openpgp() -> None:
    # The check value of the CRC catalogue for CRC-24/OPENPGP.
    assert recovery._checksum(b"123456789").hex() == "21cf02"


@examples(200)
@given(data=keys)
def test_text_and_back(data: bytes) -> None:
    key = recovery.from_bytes(data)
    assert re.fullmatch(r"([A-Z2-7]{4}-){13}[A-Z2-7]{4}", key.reveal())
    assert recovery.parse(key.reveal()) == key
    assert key.passphrase == key.reveal().encode()


@examples(100)
@given(data=keys, gap=st.sampled_from(["", " ", "  ", "\n", "-", " - "]), upper=st.booleans())
def test_case_and_blanks_do_not_matter(data: bytes, gap: str, upper: bool) -> None:
    key = recovery.from_bytes(data)
    typed = key.reveal().replace("-", gap)
    assert recovery.parse(f" {typed if upper else typed.lower()}\n") == key


@examples(200)
@given(data=keys, position=st.integers(0, 55), other=st.sampled_from(ALPHABET + "018é"))
def test_any_typing_error_is_found(data: bytes, position: int, other: str) -> None:
    text = recovery.from_bytes(data).reveal().replace("-", "")
    typed = text[:position] + other + text[position + 1 :]
    if typed == text:
        return
    with pytest.raises(RecoveryKeyError) as error:
        recovery.parse(typed)
    assert typed not in str(error.value)
    assert text[:8] not in str(error.value)


@examples(100)
@given(data=keys, position=st.integers(0, 54))
def test_any_swapped_neighbours_are_found(data: bytes, position: int) -> None:
    text = recovery.from_bytes(data).reveal().replace("-", "")
    typed = text[:position] + text[position + 1] + text[position] + text[position + 2 :]
    if typed != text:
        with pytest.raises(RecoveryKeyError, match="checksum"):
            recovery.parse(typed)


@pytest.mark.parametrize("change", [lambda text: text[1:], lambda text: text + "A"])
def test_missing_or_extra_character(change: object) -> None:
    text = recovery.generate().reveal()
    with pytest.raises(RecoveryKeyError, match="has 56 letters and digits"):
        recovery.parse(change(text))  # type: ignore[operator]


def test_wrong_size() -> None:
    with pytest.raises(RecoveryKeyError, match="32 bytes"):
        recovery.from_bytes(b"short")


def test_it_is_random_and_hidden() -> None:
    first, second = recovery.generate(), recovery.generate()
    assert first != second
    assert first.reveal() not in f"{first} {first!r} {[first]}"
