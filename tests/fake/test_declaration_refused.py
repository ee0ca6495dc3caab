"""A declaration that cannot be right is refused before any host is contacted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fake.conftest import PROJECT, Inventory, Pyinfra

SITE = "deploys/site.py"
Change = Callable[[Inventory], object]


def refused(result: object) -> str:
    """The message of a run that was refused before connecting."""
    assert result.returncode == 1, result.stdout + result.stderr  # type: ignore[attr-defined]
    output: str = result.stdout + result.stderr  # type: ignore[attr-defined]
    assert "Connected" not in output
    assert "Traceback" not in output
    return output


def both_groups(inventory: Inventory) -> None:
    inventory.groups["brokers"].append(inventory.groups["zookeepers"][0])


def even_ensemble(inventory: Inventory) -> None:
    inventory.groups["zookeepers"].pop()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i: i.data("kafka1").update(kafka_clinet_port=9095),
         "@fake/kafka1: unknown setting 'kafka_clinet_port': did you mean 'kafka_client_port'?"),
        (lambda i: i.data("kafka1").update(kafak_client_port=9095), "did you mean"),
        (lambda i: i.data("kafka2").update(kafka_broker_id=1), "broker_id"),
        (lambda i: i.data("zk2").update(zookeeper_id=1), "zookeeper_id"),
        (even_ensemble, "even"),
        (both_groups, "is in both groups"),
        (lambda i: i.data("kafka2").update(common_hostname="kafka1.fake.test"),
         "both have kafka1.fake.test"),
        (lambda i: i.data("kafka2").update(common_cluster="other"), "common_cluster differs"),
        (lambda i: i.everywhere(tls_key_type="rsa-1024"), "tls_key_type"),
        (lambda i: i.everywhere(kafka_min_insync_replicas=3), "min_insync_replicas"),
        (lambda i: i.everywhere(zookeeper_purge_interval_hours=0), "purge_interval_hours"),
    ],
)  # fmt: skip
def test_refused_by_name(inventory: Inventory, pyinfra: Pyinfra, change: Change, said: str) -> None:
    change(inventory)
    assert said in refused(pyinfra(inventory, SITE, "--dry"))


@pytest.mark.parametrize("option", ["--no-wait", "--serial"])
def test_options_that_break_the_order_of_work_are_refused(
    inventory: Inventory, pyinfra: Pyinfra, option: str
) -> None:
    assert f"{option} cannot be used here" in refused(pyinfra(inventory, SITE, "-y", option))


def test_without_config_py_nothing_is_done(
    inventory: Inventory, pyinfra: Pyinfra, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = pyinfra(inventory, str(PROJECT / SITE), "--dry", cwd=elsewhere)
    assert result.returncode == 1
    assert "config.py was not read" in result.stdout + result.stderr


def test_a_host_that_cannot_be_read_is_not_taken_for_an_empty_one(
    inventory: Inventory, pyinfra: Pyinfra
) -> None:
    """Recorded hosts answer every fact with nothing, as after a lost connection."""
    result = pyinfra(inventory, SITE, "--dry")
    assert result.returncode == 1
    assert "could not be read, so nothing was changed" in result.stdout + result.stderr
