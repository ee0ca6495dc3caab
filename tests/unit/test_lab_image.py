"""The image cache, without building an image."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab import image
from lab.state import LabError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / ".lab" / "image"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Builds are noted; each makes the folder that its last argument names."""
    noted: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        noted.append(command)
        Path(command[-1]).mkdir()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return noted


def host(images: Path, lab: str, name: str, key: str) -> None:
    folder = images.parent / lab / "hosts.d" / name
    folder.mkdir(parents=True)
    image.record(folder).write_text(key)


def test_it_is_built_once(images: Path, commands: list[list[str]]) -> None:
    said: list[str] = []
    assert image.build(images, said.append) == images / image.key()
    assert [item.name for item in images.iterdir()] == [image.key()]
    assert image.build(images, said.append) == images / image.key()
    assert len(commands) == len(said) == 1


def test_another_recipe_is_another_image(
    images: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = image.build(images, print)
    monkeypatch.setattr(image, "PACKAGES", (*image.PACKAGES, "xfsprogs"))
    second = image.build(images, print)
    assert first != second
    assert any("xfsprogs" in word for word in commands[1])
    assert [item.name for item in images.iterdir()] == [second.name], "nothing used the first"


def test_an_image_that_hosts_were_made_from_stays(
    images: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = image.build(images, print)
    host(images, "other", "zk1", first.name)
    monkeypatch.setattr(image, "PACKAGES", (*image.PACKAGES, "xfsprogs"))
    second = image.build(images, print)
    assert first.is_dir()
    assert second.is_dir()


def test_a_failed_build_leaves_nothing_and_says_why(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        Path(command[-1]).mkdir()
        return subprocess.CompletedProcess(command, 100, "", "E: no such mirror")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(LabError, match="no such mirror"):
        image.build(images, print)
    assert list(images.iterdir()) == []


def test_what_an_interrupted_build_left_is_not_taken_for_an_image(
    images: Path, commands: list[list[str]]
) -> None:
    left = images / f"{image.key()}.new"
    left.mkdir(parents=True)
    (left / "half").touch()
    assert not (image.build(images, print) / "half").exists()
    assert not left.exists()


def test_purging_keeps_what_another_lab_runs_from(images: Path, commands: list[list[str]]) -> None:
    key = image.build(images, print).name
    (images / "old").mkdir()
    host(images, "one", "zk1", key)
    host(images, "one", "zk2", key)
    said: list[str] = []
    image.purge(images, said.append)
    assert said == [f"image {key} stays: used by lab one"]
    assert [item.name for item in images.iterdir()] == [key]
    image.record(images.parent / "one/hosts.d/zk1").unlink()
    image.record(images.parent / "one/hosts.d/zk2").unlink()
    image.purge(images, said.append)
    assert not images.exists()
    image.purge(images, said.append)


def test_the_recipe_has_no_way_in_but_keys() -> None:
    assert "PasswordAuthentication no" in image._SETUP
    assert "PermitRootLogin no" in image._SETUP
    assert "rm -f /etc/ssh/ssh_host_*" in image._SETUP
    assert subprocess.run(["sh", "-n", "-c", image._SETUP], check=False).returncode == 0
