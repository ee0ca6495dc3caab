"""The passphrase leaves the environment, and no core is dumped, whatever a run comes to need."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fake.conftest import Inventory, Pyinfra

CANARY = "CANARY-passphrase-of-the-authorities"
# A deploy that tells what its process and those above it still have.
TELL = """
import os, resource
from pathlib import Path
with open({told!r}, "w") as file:
    file.write(f"limit {{resource.getrlimit(resource.RLIMIT_CORE)}}\\n")
    pid = os.getpid()
    for generation in range({generations}):
        kernel = Path(f"/proc/{{pid}}/environ").read_bytes()
        assert b"OTHER=kept" in kernel
        file.write(f"{{generation}} {{b'CANARY' in kernel}}\\n")
        pid = int(Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[1])
    file.write(f"child {{'CANARY' in os.popen('env').read()}}\\n")
"""


def deploy(folder: Path, generations: int) -> tuple[str, Path]:
    told = folder / "told"
    path = folder / "tell.py"
    path.write_text(TELL.format(told=str(told), generations=generations))
    return str(path), told


@pytest.mark.parametrize(
    ("variable", "setting", "option"),
    [
        ("STRONGBOX_CA_PASSPHRASE", {}, "-y"),
        ("STRONGBOX_CA_PASSPHRASE", {"tls_passphrase_file": "/absent"}, "--dry"),
        ("OUR_CA", {"tls_passphrase_env": "OUR_CA"}, "--dry"),
    ],
)
def test_a_run_that_opens_no_key(
    inventory: Inventory,
    pyinfra: Pyinfra,
    tmp_path: Path,
    variable: str,
    setting: dict[str, str],
    option: str,
) -> None:
    inventory.everywhere(**setting)
    path, told = deploy(tmp_path, 1)
    result = pyinfra(inventory, path, option, variables={variable: CANARY, "OTHER": "kept"})
    assert result.returncode == 0, result.stdout + result.stderr
    assert told.read_text() == "limit (0, 0)\n0 False\nchild False\n"


def test_drift_neither_keeps_nor_passes_it(
    inventory: Inventory, pyinfra: Pyinfra, tmp_path: Path
) -> None:
    inventory.everywhere(tls_passphrase_env="OUR_CA")
    path, told = deploy(tmp_path, 2)
    result = pyinfra(
        inventory, path, before=("-m", "strongbox", "drift"),
        variables={"OUR_CA": CANARY, "OTHER": "kept"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert told.read_text() == "limit (0, 0)\n0 False\n1 False\nchild False\n"


def test_the_check_sees_a_variable_that_stays(
    inventory: Inventory, pyinfra: Pyinfra, tmp_path: Path
) -> None:
    """The control: one that is no setting's stays where it is."""
    path, told = deploy(tmp_path, 1)
    result = pyinfra(inventory, path, "--dry", variables={"UNRELATED": CANARY, "OTHER": "kept"})
    assert result.returncode == 0, result.stdout + result.stderr
    assert told.read_text() == "limit (0, 0)\n0 True\nchild True\n"
