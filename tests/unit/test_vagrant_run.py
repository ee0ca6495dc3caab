"""Which accelerator the machines get, and what Vagrant is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.state import Lab, LabError
from lab.vagrant import declare, plan, probe
from lab.vagrant.run import Vagrant

VARIABLE = "STRONGBOX_VAGRANT_ACCELERATOR"


@pytest.fixture
def vagrant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vagrant:
    monkeypatch.setattr(plan, "lab", lambda: Lab("unit", tmp_path))
    monkeypatch.setattr(declare, "OPTIONS", tmp_path / "@vagrant.json")
    monkeypatch.delenv(VARIABLE, raising=False)
    found = Vagrant(lambda _: None)
    found.lab.folder.mkdir()
    return found


@pytest.mark.parametrize("works", ["kvm", "qemu"])
def test_what_boots_is_what_they_get_and_is_tried_once(
    vagrant: Vagrant, works: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried: list[Path] = []

    def accelerator(kernel: Path, _: Path) -> str:
        tried.append(kernel)
        return works

    monkeypatch.setattr(probe, "accelerator", accelerator)
    for _ in range(2):
        vagrant._choose_accelerator(tmp_path)
        assert vagrant.environment()[VARIABLE] == works
    assert tried == [tmp_path / "vmlinuz"]


def test_kvm_that_does_not_work_is_refused_before_anything_is_made(
    vagrant: Vagrant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, "kvm")
    monkeypatch.setattr(probe, "accelerator", lambda *_: "qemu")
    with pytest.raises(LabError, match="is kvm, but no kernel boots with KVM here: leave it out"):
        vagrant._choose_accelerator(tmp_path)


def test_emulation_that_is_asked_for_is_not_argued_with(
    vagrant: Vagrant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, "qemu")
    monkeypatch.setattr(probe, "accelerator", lambda *_: pytest.fail("it was tried"))
    vagrant._choose_accelerator(tmp_path)
    assert vagrant.environment()[VARIABLE] == "qemu"


def test_vagrant_keeps_its_files_in_the_labs_folder(vagrant: Vagrant) -> None:
    environment = vagrant.environment()
    for name in ("VAGRANT_HOME", "VAGRANT_DOTFILE_PATH"):
        assert Path(environment[name]).parent == vagrant.lab.folder


def test_without_a_libvirt_of_their_own_commands_run_as_they_are(vagrant: Vagrant) -> None:
    assert not vagrant.libvirt.is_ours
    assert vagrant.words() == []


@pytest.fixture
def destroyed(vagrant: Vagrant, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands of Vagrant's that were run; each fails."""
    noted: list[str] = []

    def run(*command: str, names: bool = False) -> None:
        noted.append(command[-2])
        raise LabError("vagrant failed")

    monkeypatch.setattr(vagrant, "run", run)
    (vagrant.lab.folder / "dot").mkdir()
    return noted


def test_what_a_libvirt_of_ours_left_is_removed_after_it_has_ended(
    vagrant: Vagrant, destroyed: list[str]
) -> None:
    (vagrant.libvirt.folder / "etc").mkdir(parents=True)
    (vagrant.libvirt.folder / "pid").write_text("1 1 a-boot-before\n")
    vagrant.down()
    assert destroyed == []
    assert not vagrant.lab.folder.exists()


def test_machines_of_another_libvirt_that_stay_are_not_forgotten(
    vagrant: Vagrant, destroyed: list[str]
) -> None:
    with pytest.raises(LabError, match="vagrant failed"):
        vagrant.down()
    assert destroyed == ["destroy"]
    assert (vagrant.lab.folder / "dot").is_dir()


def test_taking_down_what_was_never_up_is_no_error(vagrant: Vagrant) -> None:
    vagrant.down()
    vagrant.down()
    assert not vagrant.lab.folder.exists()
