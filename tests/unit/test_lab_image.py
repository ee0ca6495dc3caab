"""The image cache, without building an image."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab import disk_image, image
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


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with the modules of an installed kernel."""
    modules = tmp_path / "modules"
    (modules / "6.1.0").mkdir(parents=True)
    monkeypatch.setattr(disk_image, "MODULES", modules)
    monkeypatch.setattr(disk_image, "_make", lambda root, disk: disk.write_text(root.name))
    return modules


def test_a_disk_is_made_once_from_the_image_and_again_for_another_kernel(
    images: Path, commands: list[list[str]], kernel: Path
) -> None:
    first = disk_image.build(images, print)
    assert first.read_text() == image.key()
    first.write_text("kept")
    assert disk_image.build(images, print).read_text() == "kept"
    (kernel / "6.1.0").rename(kernel / "6.1.1")
    second = disk_image.build(images, print)
    assert {item.name for item in images.iterdir()} == {image.key(), second.name}
    assert len(commands) == 1, "the image itself is the same"


def test_a_disk_that_hosts_run_from_stays_with_its_image(
    images: Path, commands: list[list[str]], kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = disk_image.build(images, print)
    host(images, "one", "zk1", disk.name)
    monkeypatch.setattr(image, "PACKAGES", (*image.PACKAGES, "strace"))
    disk_image.build(images, print)
    said: list[str] = []
    image.purge(images, said.append)
    assert said == [f"image {disk.name} stays: used by lab one"]
    assert {item.name for item in images.iterdir()} == {disk.name, disk.name.partition("-")[0]}


def test_a_disk_that_could_not_be_made_leaves_nothing(
    images: Path, commands: list[list[str]], kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(root: Path, disk: Path) -> None:
        disk.write_text("half")
        raise LabError("no space left")

    monkeypatch.setattr(disk_image, "_make", fail)
    with pytest.raises(LabError, match="no space left"):
        disk_image.build(images, print)
    assert [item.name for item in images.iterdir()] == [image.key()]


@pytest.mark.parametrize("kernels", [(), ("6.1.0", "6.2.0")])
def test_without_one_kernel_the_remedy_is_told(
    images: Path, kernel: Path, kernels: tuple[str, ...]
) -> None:
    (kernel / "6.1.0").rmdir()
    for name in kernels:
        (kernel / name).mkdir()
    with pytest.raises(LabError, match="apt-get install --no-install-recommends user-mode-linux"):
        disk_image.build(images, print)
    assert not images.exists(), "found out before two minutes of building"


def test_the_recipe_has_no_way_in_but_keys() -> None:
    assert "PasswordAuthentication no" in image.SETUP
    assert "PermitRootLogin no" in image.SETUP
    assert "rm -f /etc/ssh/ssh_host_*" in image.SETUP
    for script in (image.SETUP, disk_image._SCRIPT):
        assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0
