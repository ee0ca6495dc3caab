"""Runs the real pyinfra CLI against recorded hosts: no connection, scripted answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
Pyinfra = Callable[..., subprocess.CompletedProcess[str]]


@dataclass
class Inventory:
    """A cluster of fake hosts that is right; tests break one thing in it."""

    archive: Path
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)
    all: dict[str, Any] = field(default_factory=dict)

    def data(self, name: str) -> dict[str, Any]:
        for members in self.groups.values():
            for host, data in members:
                if host == f"@fake/{name}":
                    return data
        raise KeyError(name)

    def everywhere(self, **settings: Any) -> None:
        """Sets it on each host, which beats what group_data says."""
        for members in self.groups.values():
            for _, data in members:
                data.update(settings)

    def over_ssh(self) -> None:
        """Real hosts in place of recorded ones, at an address where none answers."""
        for members in self.groups.values():
            members[:] = [
                (host.removeprefix("@fake/"), data | {"ssh_hostname": "127.0.0.1", "ssh_port": 1})
                for host, data in members
            ]

    def write(self, folder: Path) -> Path:
        everything = sorted({host for members in self.groups.values() for host, _ in members})
        lines = [f"{name} = {members!r}" for name, members in self.groups.items()]
        lines.append(f"all = ({everything!r}, {self.all!r})")
        path = folder / "cluster.py"
        path.write_text("\n".join(lines) + "\n")
        return path


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    archive = tmp_path / "kafka.tgz"
    archive.write_bytes(b"not unpacked by these tests")
    made = Inventory(archive)
    made.all = {
        "common_cluster": "fake",
        "volumes_unencrypted": True,
        "tls_authority_dir": str(tmp_path / "ca"),
        "fake_delay": 0.0,
        "fake_delay_jitter": 0.0,
    }
    for group, prefix, identifier in (
        ("zookeepers", "zk", "zookeeper_id"),
        ("brokers", "kafka", "kafka_broker_id"),
    ):
        role = identifier.split("_")[0]
        made.groups[group] = [
            (
                f"@fake/{prefix}{number}",
                {
                    identifier: number,
                    "common_hostname": f"{prefix}{number}.fake.test",
                    "common_addresses": [f"10.0.{len(prefix)}.{number}"],
                    f"{role}_archive": str(archive),
                    f"{role}_archive_sha512": "0" * 128,
                },
            )
            for number in (1, 2, 3)
        ]
    return made


@pytest.fixture
def pyinfra(tmp_path: Path) -> Pyinfra:
    def run(
        inventory: Inventory,
        *arguments: str,
        cwd: Path = PROJECT,
        before: tuple[str, ...] = ("-m", "pyinfra"),
        variables: dict[str, str] | None = None,
    ) -> Any:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYINFRA_")}
        environment |= {"PYINFRA_PROGRESS": "off"} | (variables or {})
        return subprocess.run(
            [sys.executable, *before, str(inventory.write(tmp_path)), *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )

    return run
