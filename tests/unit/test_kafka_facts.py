"""The facts' own shell, run against files and tools that stand for a host's."""

import re
import subprocess
from pathlib import Path

import pytest

from roles.common.redact import MASK
from roles.kafka import files
from roles.kafka.facts import Described, KafkaState, Observed, TopicDescriptions
from tests.unit.test_kafka_files import PKCS12, file, host


class Machine:
    """A folder with a broker's files, and tools before the real ones in PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tool(
            "systemctl", "case $1 in show) echo ActiveState=active;; is-active) exit 0;; esac"
        )
        self.answers = "true"

    def tool(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def run(self, script: str) -> list[str]:
        result = subprocess.run(
            ["sh", "-c", script], env={"PATH": f"{self.folder}:/usr/bin:/bin"},
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        assert result.stderr == ""
        return result.stdout.splitlines()

    def configure(self, *log_dirs: Path, **settings: int) -> None:
        """A configuration as the role writes it, with these folders of data."""
        content = file(host(**settings), "server.properties").content.decode()
        dirs = ",".join(map(str, log_dirs))
        content = re.sub("^log.dirs=.*$", f"log.dirs={dirs}", content, flags=re.MULTILINE)
        (self.folder / "server.properties").write_text(content)

    def observe(self) -> Observed:
        fact = KafkaState()
        command = fact.command(
            stores_digest="echo " + "0" * 64,
            log_dirs=[str(self.folder / "data")],
            properties=str(self.folder / "server.properties"),
            answers=self.answers,
        )
        seen = fact.process(self.run(command.get_raw_value()))
        assert seen is not None
        assert seen.service.running == (self.folder.name != "stopped")
        return seen

    def describe(self, timeout_s: int = 20) -> Described:
        command = TopicDescriptions().command(timeout_s=timeout_s)
        found = TopicDescriptions().process(self.run(command.get_raw_value()))
        assert found is not None
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_bare_host_has_neither_data_nor_configuration(machine: Machine) -> None:
    seen = machine.observe()
    assert (seen.has_data, seen.broker_id, seen.internal_port) == (False, None, None)
    assert not seen.silent


def test_id_and_port_are_read_from_what_kafka_and_the_role_write(machine: Machine) -> None:
    data = machine.folder / "data"
    data.mkdir()
    # As written by Kafka 3.9.2 in ZooKeeper mode.
    (data / "meta.properties").write_text(
        "#\n#Tue Nov 24 14:04:25 UTC 2026\nbroker.id=12\ncluster.id=E0zFpFfLSR-rmpROuJwG7Q\n"
        "directory.id=Qd8M0Mh6rkmX4jJ9nQy8Kw\nversion=0\n"
    )
    machine.configure(data, kafka_internal_port=9193)
    seen = machine.observe()
    assert (seen.has_data, seen.broker_id, seen.internal_port) == (True, 12, 9193)
    assert (seen.log_dirs, seen.with_partitions) == ((str(data),), ())


def test_without_a_configuration_the_declared_folders_are_looked_at(machine: Machine) -> None:
    data = machine.folder / "data"
    data.mkdir()
    (data / "meta.properties").write_text("broker.id=3\n")
    seen = machine.observe()
    assert (seen.has_data, seen.broker_id, seen.log_dirs) == (True, 3, ())


def test_folders_with_partitions_are_told(machine: Machine) -> None:
    used, unused = machine.folder / "data1", machine.folder / "data2"
    for folder in (used, unused):
        folder.mkdir()
        (folder / "meta.properties").write_text("broker.id=3\n")
    (used / "orders-12").mkdir()
    machine.configure(used, unused)
    seen = machine.observe()
    assert seen.has_data
    assert seen.log_dirs == (str(used), str(unused))
    assert seen.with_partitions == (str(used),)


def test_one_volume_that_came_back_empty_is_a_loss_of_data(machine: Machine) -> None:
    used, lost = machine.folder / "data1", machine.folder / "data2"
    for folder in (used, lost):
        folder.mkdir()
    (used / "meta.properties").write_text("broker.id=3\n")
    machine.configure(used, lost)
    seen = machine.observe()
    assert (seen.has_data, seen.broker_id) == (False, 3)


def test_data_that_names_no_broker_is_data(machine: Machine) -> None:
    (machine.folder / "data").mkdir()
    (machine.folder / "data/meta.properties").touch()
    seen = machine.observe()
    assert (seen.has_data, seen.broker_id) == (True, None)


def test_a_broker_that_runs_and_does_not_answer_is_silent(machine: Machine) -> None:
    machine.answers = "false"
    assert machine.observe().silent


def test_a_stopped_broker_is_not_asked(tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    folder.mkdir()
    machine = Machine(folder)
    machine.tool(
        "systemctl", "case $1 in show) echo ActiveState=inactive;; is-active) exit 3;; esac"
    )
    machine.answers = "touch asked; false"
    assert not machine.observe().silent


@pytest.mark.parametrize("store", [None, PKCS12])
def test_the_question_ends_in_time_and_is_not_asked_without_a_keystore(
    machine: Machine, store: files.Stores | None
) -> None:
    node = host(store) if store else host()
    command = files.answers_command(node)
    assert "timeout 5 openssl s_client -connect kafka1.example.test:9093 " in command
    assert f"-cert {node.stores.internal.keystore} -key {node.stores.internal.keystore}" in command
    assert ("-pass file:" in command) == (store is not None)
    machine.tool("openssl", "exit 1")
    assert machine.run(f"{command} && echo fine") == ["fine"]
    keystore = machine.folder / "keystore"
    keystore.write_text("x")
    asked = command.replace(node.stores.internal.keystore, str(keystore))
    assert machine.run(f"if {asked}; then echo answers; else echo silent; fi") == ["silent"]
    machine.tool("openssl", "exit 0")
    assert machine.run(f"if {asked}; then echo answers; else echo silent; fi") == ["answers"]


def test_descriptions_are_what_kafka_cli_printed(machine: Machine) -> None:
    machine.tool("kafka-cli", 'echo "Topic: a"; echo "WARN noise" >&2; printf "\\tTopic: a\\n"')
    assert machine.describe() == Described("Topic: a\n\tTopic: a")
    machine.tool("kafka-cli", ":")
    assert machine.describe() == Described("")


def test_a_failure_is_told_in_kafka_clis_last_words(machine: Machine) -> None:
    machine.tool(
        "kafka-cli",
        'echo "Topic: a"; { echo "WARN first"; echo "ERROR no route to kafka1"; '
        "printf '\\tat org.apache.kafka.Tool.main(Tool.java:1)\\n'; } >&2; exit 1",
    )
    assert machine.describe() == Described(None, "ERROR no route to kafka1")
    machine.tool("kafka-cli", "exit 1")
    assert machine.describe() == Described(None, "it gave no reason")


def test_no_answer_in_time_is_told_with_the_last_words(machine: Machine) -> None:
    machine.tool("kafka-cli", 'echo "WARN could not connect" >&2; exec sleep 25')
    found = machine.describe(timeout_s=1)
    assert found == Described(None, "no answer within 1 s; WARN could not connect")


def test_a_missing_kafka_cli_is_told(machine: Machine) -> None:
    found = machine.describe()
    assert found.partitions is None
    assert "kafka-cli" in found.problem


def test_secrets_in_the_last_words_are_masked(machine: Machine) -> None:
    machine.tool("kafka-cli", 'echo "ERROR bad ssl.key.password=hunter2 x" >&2; exit 1')
    assert machine.describe().problem == f"ERROR bad ssl.key.password={MASK}"


def test_a_host_that_was_not_reached_has_no_answer() -> None:
    assert TopicDescriptions().process([]) is None
    assert KafkaState().process(["ActiveState=active"]) is None
