"""Volumes on loop devices with real custody and records, their scripts run by this machine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roles.custody.age import AgeCustody
from roles.custody.records import Records
from roles.volumes.keys.life import Life, VolumeKeys
from roles.volumes.keys.plan import Purpose
from roles.volumes.keys.script import Result, Script, key_line
from roles.volumes.token import Token
from tests.lab.disks import Disk

PBKDF2 = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")


def local(script: Script) -> Result:
    """Runs a script as a host would, only on this machine."""
    done = subprocess.run(
        ["sh", "-c", script.command], input=script.input, capture_output=True, text=True
    )
    return Result(done.returncode, done.stdout.splitlines(), done.stderr.splitlines())


def cryptsetup(*arguments: str, key: bytes = b"", status: int = 0) -> str:
    done = subprocess.run(["cryptsetup", *arguments], input=key, capture_output=True)
    assert done.returncode == status, (arguments, done.returncode, done.stderr.decode())
    return done.stdout.decode()


def opens(device: str, key: bytes) -> bool:
    """Whether a key opens any keyslot."""
    done = subprocess.run(
        ["cryptsetup", "open", "--test-passphrase", "--key-file", "-", device],
        input=key,
        capture_output=True,
    )
    assert done.returncode in (0, 1, 2), done.stderr
    return done.returncode == 0


def metadata(device: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cryptsetup("luksDump", "--dump-json-metadata", device))
    return found


@dataclass
class LocalVolume:
    """A formatted volume with its machine key's token, as formatting leaves it."""

    keys: VolumeKeys
    custody: AgeCustody
    records: Records
    runner: Callable[[Script], Result] = local
    first_key: bytes = field(default=b"", repr=False)

    @property
    def device(self) -> str:
        return self.keys.device

    def life(self, runner: Callable[[Script], Result] | None = None) -> Life:
        return Life(self.keys, runner or self.runner, self.custody, self.records)

    def key(self, purpose: Purpose) -> bytes:
        """The present key, through custody."""
        _, seen = self.life().look()
        token = seen.current(purpose)
        assert token is not None
        return self.life().key_of(token)


def formatted(disk: Disk, custody: AgeCustody, folder: Path, host: str = "zk1") -> LocalVolume:
    keys = VolumeKeys("payments", host, "main", disk.path)
    key, wrapped = custody.new_key(keys.context("volume"))
    cryptsetup(
        "luksFormat", "--batch-mode", "--type", "luks2", "--sector-size", "4096", "--key-size",
        "512", "--hash", "sha256", "--uuid", keys.uuid, *PBKDF2, "--key-file", "-", disk.path,
        key=key,
    )  # fmt: skip
    token = Token(0, 1, wrapped).to_json()
    cryptsetup("token", "import", disk.path, key=token.encode())
    return LocalVolume(keys, custody, Records(folder, custody), first_key=key)


__all__ = ["LocalVolume", "cryptsetup", "formatted", "key_line", "local", "metadata", "opens"]
