from pathlib import Path

import pytest

from tests.lab import raw


@pytest.mark.parametrize("at", [0, (1 << 22) - 3, 5 << 22])
def test_a_word_is_found_wherever_it_lies(tmp_path: Path, at: int) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(32 << 20)
        file.seek(at)
        file.write(b"canary-1canary-2")
    assert raw.found(image, [b"canary-1", b"canary-2", b"absent"]) == {
        b"canary-1": 1,
        b"canary-2": 1,
        b"absent": 0,
    }
