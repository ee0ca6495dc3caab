"""What counts as all messages having arrived."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.load import Report, read_properties

ALL = Report(sent=10, acknowledged=10, received=10)


def test_all_there_is_good_whatever_clients_got_over() -> None:
    assert ALL.good
    assert replace(ALL, client_errors=["a broker restarted"]).good


@pytest.mark.parametrize(
    "change",
    [
        {"sent": 0, "acknowledged": 0, "received": 0},
        {"sent": 11},
        {"received": 9},
        {"acknowledged": 9},
        {"fault": "the consumer was not ready"},
        {"lost": 1},
        {"duplicated": 1},
        {"out_of_order": 1},
        {"produce_errors": ["timed out"]},
    ],
)
def test_anything_else_is_not(change: dict[str, Any]) -> None:
    assert not replace(ALL, **change).good


def test_properties_are_read_as_librdkafka_takes_them(tmp_path: Path) -> None:
    file = tmp_path / "librdkafka.properties"
    file.write_text("# comment\n\nssl.ca.location = /a=b.pem\nsecurity.protocol=ssl\n")
    assert read_properties(file) == {"ssl.ca.location": "/a=b.pem", "security.protocol": "ssl"}
