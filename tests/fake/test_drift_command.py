"""`strongbox drift` on recorded hosts: what it prints, and its exit codes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from strongbox.cli import drift, main
from tests.fake.conftest import Inventory, Pyinfra

DRIFT = ("-m", "strongbox", "drift")
IN_STEP = "from pyinfra import host\n"
CHANGES = (
    "from pyinfra.operations import server\n"
    "server.shell(name='say hello', commands=['echo hello'])\n"
)


def deploy(folder: Path, text: str) -> str:
    path = folder / "deploy.py"
    path.write_text(text)
    return str(path)


def test_quiet_says_nothing_when_in_step(
    inventory: Inventory, pyinfra: Pyinfra, tmp_path: Path
) -> None:
    path = deploy(tmp_path, IN_STEP)
    result = pyinfra(inventory, path, "-q", before=DRIFT)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    loud = pyinfra(inventory, path, before=DRIFT)
    assert loud.returncode == 0
    assert "in step" in loud.stdout
    assert "Connected" in loud.stderr


def test_quiet_tells_drift_and_only_that(
    inventory: Inventory, pyinfra: Pyinfra, tmp_path: Path
) -> None:
    result = pyinfra(inventory, deploy(tmp_path, CHANGES), "--quiet", before=DRIFT)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "say hello" in result.stdout
    assert "@fake/kafka1" in result.stdout
    assert result.stderr == ""


def test_quiet_tells_why_it_could_not_tell(
    inventory: Inventory, pyinfra: Pyinfra, tmp_path: Path
) -> None:
    result = pyinfra(inventory, deploy(tmp_path, "1 / 0\n"), "-q", before=DRIFT)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "ZeroDivisionError" in result.stderr
    assert "could not tell" in result.stderr


def test_a_refused_declaration_is_could_not_tell(
    inventory: Inventory, pyinfra: Pyinfra, tmp_path: Path
) -> None:
    inventory.data("kafka1").update(kafka_clinet_port=9095)
    result = pyinfra(inventory, deploy(tmp_path, IN_STEP), "-q", before=DRIFT)
    assert result.returncode == 1
    assert "could not tell: the inventory was refused:\n" in result.stderr
    assert "did you mean 'kafka_client_port'" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    ["drift", "drift a", "drift a b c", "drift a b --no-such-option", "drfit a b", "--nothing",
     "ca", "ca nothing", "client", "client -i x a --days 0", "settings x", ""],
)  # fmt: skip
def test_a_usage_error_is_never_taken_for_drift(arguments: str) -> None:
    result = CliRunner().invoke(main, shlex.split(arguments))
    assert result.exit_code == 1, result.output
    assert "Usage:" in result.output


def test_the_cron_line_of_the_help_is_one_that_works() -> None:
    """Its options are taken; the inventory that it names is what is missing."""
    shown = CliRunner().invoke(main, ["drift", "--help"])
    assert shown.exit_code == 0
    (line,) = [item for item in shown.output.splitlines() if "&& strongbox drift" in item]
    words = shlex.split(line.partition("strongbox drift ")[2])
    parsed = drift.make_context("drift", words).params
    assert parsed == {
        "inventory": "inventories/prod.py", "deploy": "deploys/site.py", "quiet": True,
    }  # fmt: skip
