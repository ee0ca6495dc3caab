"""The box, without bootstrapping a Debian."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab import image
from lab.state import LabError
from lab.vagrant import box


@pytest.fixture
def bootstraps(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Packages of each bootstrap; it makes what the box is made of."""
    noted: list[Sequence[str]] = []

    def bootstrap(root: Path, packages: Sequence[str], setup: str) -> None:
        noted.append(packages)
        (root / "boot").mkdir(parents=True)
        (root / "boot/vmlinuz-6.1").write_bytes(b"kernel")
        (root / "vmlinuz").symlink_to("boot/vmlinuz-6.1")
        (root / "initrd.img").write_bytes(b"initrd")

    monkeypatch.setattr(image, "bootstrap", bootstrap)
    return noted


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that write disks write small ones; tar is real."""
    real = box._run

    def run(*command: str) -> None:
        if command[0] == "mke2fs":
            Path(command[-2]).write_bytes(b"raw")
        elif command[0] == "qemu-img":
            Path(command[-1]).write_bytes(b"qcow2")
        else:
            real(*command)

    monkeypatch.setattr(box, "_run", run)


def test_it_is_what_vagrant_expects(
    tmp_path: Path, bootstraps: list[Sequence[str]], tools: None
) -> None:
    folder = box.build(tmp_path, lambda _: None)
    assert sorted(item.name for item in folder.iterdir()) == [
        "initrd.img",
        "strongbox.box",
        "vmlinuz",
    ]
    assert (folder / box.KERNEL).read_bytes() == b"kernel"
    with tarfile.open(folder / box.FILE) as archive:
        assert sorted(archive.getnames()) == ["Vagrantfile", "box.img", "metadata.json"]
        file = archive.extractfile("metadata.json")
        assert file is not None
        metadata = json.load(file)
    assert metadata == {"provider": "libvirt", "format": "qcow2", "virtual_size": 4}


def test_it_is_made_once_and_replaces_those_of_other_recipes(
    tmp_path: Path, bootstraps: list[Sequence[str]], tools: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = box.build(tmp_path, lambda _: None)
    assert box.build(tmp_path, lambda _: None) == first
    assert len(bootstraps) == 1
    monkeypatch.setattr(box, "PACKAGES", (*box.PACKAGES, "gdisk"))
    second = box.build(tmp_path, lambda _: None)
    assert "gdisk" in bootstraps[1]
    assert [item.name for item in tmp_path.iterdir()] == [second.name] != [first.name]


def test_a_build_that_fails_leaves_nothing(
    tmp_path: Path, bootstraps: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    monkeypatch.setattr(box, "_run", lambda *command: _fail(command[0]))
    with pytest.raises(LabError, match="mke2fs"):
        box.build(tmp_path, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def _fail(program: str) -> None:
    raise LabError(f"{program} failed: no space")


def test_it_has_what_encrypted_volumes_need() -> None:
    assert {"linux-image-cloud-amd64", "cryptsetup-bin", "xfsprogs", "udev"} <= {*box.PACKAGES}
    assert len(set(box.PACKAGES)) == len(box.PACKAGES)


def test_the_recipe_is_a_shell_script() -> None:
    assert subprocess.run(["sh", "-n", "-c", box._SETUP], check=False).returncode == 0


def test_the_only_way_in_is_the_key_that_vagrant_replaces() -> None:
    """Vagrant takes a key out at the first boot only when it is, to the letter, this one."""
    assert "PasswordAuthentication no" in box._SETUP
    ruby = shutil.which("ruby")
    if ruby is None:
        pytest.skip("vagrant is not installed, whose public key this compares with")
    where = subprocess.run(
        [ruby, "-e", "puts Gem::Specification.find_by_name('vagrant').gem_dir"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if where.returncode != 0:
        pytest.skip("vagrant is not a Ruby gem here: its public key is elsewhere")
    public = Path(where.stdout.strip()) / "keys/vagrant.pub"
    assert public.read_text().strip() == box._INSECURE_KEY
