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
        (lambda i: i.data("zk1").update(tls_passphrase_env="OTHER"),
         "tls_passphrase_* differs between"),
        (lambda i: i.data("zk1").update(common_hostname="a" * 60 + ".fake.test"),
         "longer than 64 characters"),
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


def problems(output: str) -> list[str]:
    """The lines below the one that says that the inventory was refused."""
    _, found, rest = output.partition("the inventory was refused, no host was contacted:\n")
    assert found
    return [line.strip() for line in rest.splitlines() if line.startswith("    ")]


def test_a_missing_archive_and_a_missing_digest_are_told_before_connecting(
    inventory: Inventory, pyinfra: Pyinfra, tmp_path: Path
) -> None:
    inventory.data("zk2").update(zookeeper_archive="/absent/zk.tgz")
    for name in ("kafka1", "kafka2", "kafka3"):
        inventory.data(name).pop("kafka_archive_sha512")
    inventory.data("kafka2").update(kafka_archive_sha512=str(tmp_path))
    assert problems(refused(pyinfra(inventory, SITE, "--dry"))) == [
        f"@fake/kafka1, @fake/kafka3: kafka_archive: {inventory.archive} has no digest: give its "
        "SHA-512, or put kafka.tgz.sha512 beside it",
        f"@fake/kafka2: kafka_archive: {str(tmp_path)!r} is neither a SHA-512 (128 hex digits) "
        "nor a file with one",
        "@fake/zk2: zookeeper_archive: /absent/zk.tgz does not exist on this machine: correct the "
        "path",
    ]


@pytest.mark.parametrize("value", ["accept-new", "no"])
def test_hosts_whose_keys_would_not_be_checked_are_refused(
    inventory: Inventory, pyinfra: Pyinfra, value: str
) -> None:
    inventory.over_ssh()
    for host, data in inventory.groups["zookeepers"]:
        if host != "zk1":
            data["ssh_strict_host_key_checking"] = value
    (problem,) = problems(refused(pyinfra(inventory, SITE, "--dry")))
    assert problem.startswith(f"zk2, zk3: ssh_strict_host_key_checking is {value!r}, so")
    assert 'set it to "yes" in group_data/all.py' in problem
    assert "ssh-keyscan" in problem


def test_the_command_line_does_not_weaken_the_check_of_host_keys(
    inventory: Inventory, pyinfra: Pyinfra
) -> None:
    inventory.over_ssh()
    options = ("--data", "ssh_strict_host_key_checking=accept-new")
    (problem,) = problems(refused(pyinfra(inventory, SITE, "--dry", *options)))
    assert problem.startswith("kafka1, kafka2, kafka3, zk1, zk2, zk3: ssh_strict")


def test_group_data_sets_the_check_of_host_keys(inventory: Inventory, pyinfra: Pyinfra) -> None:
    """The control of both: with the project's group_data alone, the run goes on to connect."""
    inventory.over_ssh()
    result = pyinfra(inventory, SITE, "--dry")
    output = result.stdout + result.stderr
    assert result.returncode == 1
    assert "was refused" not in output
    assert "Could not connect" in output


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
