from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from roles.common.plan import Kind, ManagedFile, Observed
from roles.common.settings import SettingsError
from roles.volumes import names
from roles.volumes.boot import files, key_service, operations
from roles.volumes.boot.files import KeyService
from roles.volumes.settings import VolumesSettings
from tests.aws import KEY, OTHER_KEY

SERVICE = KeyService("payments", "kafka1.example.test", ("main", "data1"), KEY)
LISTENING = {
    **dict.fromkeys(files.OWN_PATHS, Observed(Kind.FILE)),
    files.ENABLED: Observed(Kind.LINK),
    files.TARGET_ENABLED: Observed(Kind.LINK),
    files.SOCKET: Observed(Kind.OTHER),
}


def file(path: str, of: KeyService = SERVICE) -> ManagedFile:
    (found,) = [item for item in files.wanted(of) if item.path == path]
    assert isinstance(found, ManagedFile)
    return found


def load(of: KeyService, folder: Path) -> key_service.Config:
    path = folder / "key-service.json"
    path.write_bytes(file(files.CONFIG, of).content)
    path.chmod(int(file(files.CONFIG, of).mode, 8))
    return key_service.load_config(str(path))


def test_the_program_takes_the_configuration(tmp_path: Path) -> None:
    config = load(SERVICE, tmp_path)
    assert (config.cluster, config.host, config.kms_keys) == ("payments", SERVICE.host, (KEY,))
    assert config.volumes == {
        f"strongbox-{name}": key_service.Volume(
            name, names.luks_uuid("payments", SERVICE.host, name)
        )
        for name in SERVICE.volumes
    }
    assert config.kms_endpoint == ""
    assert config.imds_endpoint == "http://169.254.169.254"
    assert config.device_dir == "/dev/disk/by-uuid"


def test_endpoints_can_be_others(tmp_path: Path) -> None:
    endpoint = "https://vpce-1.kms.eu-central-1.vpce.amazonaws.com"
    of = replace(SERVICE, kms_endpoint=f"{endpoint}/", imds_endpoint="http://[fd00:ec2::254]")
    config = load(of, tmp_path)
    assert (config.kms_endpoint, config.imds_endpoint) == (endpoint, "http://[fd00:ec2::254]")


def test_former_kms_keys_come_after_the_present_one(tmp_path: Path) -> None:
    config = load(replace(SERVICE, kms_old_keys=(OTHER_KEY,)), tmp_path)
    assert config.kms_keys == (KEY, OTHER_KEY)


def test_a_key_has_the_endpoint_of_its_region() -> None:
    assert key_service.region_and_endpoint(KEY, "") == (
        "eu-central-1",
        "https://kms.eu-central-1.amazonaws.com",
    )


def test_china_has_a_domain_of_its_own() -> None:
    arn = "arn:aws-cn:kms:cn-north-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    assert key_service.region_and_endpoint(arn, "") == (
        "cn-north-1",
        "https://kms.cn-north-1.amazonaws.com.cn",
    )


def test_only_root_reads_the_configuration_and_nobody_else_writes_anything() -> None:
    assert file(files.CONFIG).mode == "600"
    for item in files.wanted(SERVICE):
        assert (item.owner, item.group) == ("root", "root")
        assert not int(item.mode, 8) & 0o022


def test_the_same_settings_give_the_same_bytes() -> None:
    other = replace(SERVICE, volumes=("data1", "main"))
    assert file(files.CONFIG).content == file(files.CONFIG, other).content
    assert json.loads(file(files.CONFIG).content)


def test_the_program_needs_nothing_that_a_host_lacks() -> None:
    tree = ast.parse(file(files.PROGRAM).content)
    modules = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert modules <= sys.stdlib_module_names


def directives(path: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in file(path).content.decode().splitlines():
        key, _, value = line.partition("=")
        if value or line.endswith("="):
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_confines_the_program() -> None:
    unit = directives(files.SERVICE_UNIT)
    expected = {
        "CapabilityBoundingSet": "",
        "DeviceAllow": "block-* r",
        "DevicePolicy": "closed",
        "LimitCORE": "0",
        "MemoryDenyWriteExecute": "yes",
        "MemorySwapMax": "0",
        "NoNewPrivileges": "yes",
        "PrivateTmp": "yes",
        "ProtectSystem": "strict",
        "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
        # The default of both is where standard input goes: the key's way.
        "StandardOutput": "journal",
        "StandardError": "journal",
    }
    assert {key: unit[key] for key in expected} == {key: [value] for key, value in expected.items()}
    assert unit["ExecStart"] == [f"/usr/bin/python3 -I {files.PROGRAM}"]


def test_only_root_reaches_the_socket_and_it_is_there_before_it_is_asked() -> None:
    unit = directives(files.SOCKET_UNIT)
    assert unit["ListenStream"] == [files.SOCKET]
    assert unit["SocketMode"] == ["0600"]
    assert unit["DirectoryMode"] == ["0700"]
    assert unit["Accept"] == ["yes"]
    assert "cryptsetup-pre.target" in unit["Before"][0].split()
    assert unit["Wants"] == ["cryptsetup-pre.target"]


@pytest.mark.parametrize("path", [files.ENABLED, files.TARGET_ENABLED, files.SOCKET])
def test_it_listens_when_it_does_now_and_after_a_reboot(path: str) -> None:
    assert files.is_listening(LISTENING)
    assert not files.is_listening(LISTENING | {path: Observed(Kind.ABSENT)})


def test_what_remains_is_only_what_is_the_services_own() -> None:
    assert files.remains(LISTENING) == list(files.OWN_PATHS)
    gone = dict.fromkeys(files.STATE_PATHS, Observed(Kind.ABSENT))
    assert files.remains(gone | {files.TARGET_ENABLED: Observed(Kind.LINK)}) == []


class Machine:
    """A folder in the place of a host's root, with a systemctl that only notes what it is told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for path in files.OWN_PATHS:
            self.path(path).parent.mkdir(parents=True, exist_ok=True)
            self.path(path).touch()
        tools = root / "bin"
        tools.mkdir()
        (tools / "systemctl").write_text(f'#!/bin/sh\necho "$@" >>{root}/told\n')
        (tools / "systemctl").chmod(0o755)

    def path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        for folder in ("/etc/", "/run/", "/usr/local/"):
            script = re.sub(f"(?<![a-z]){folder}", f"{self.root}{folder}", script)
        path = f"{self.root}/bin:{os.defpath}"
        return subprocess.run(
            ["sh", "-c", script], env={"PATH": path}, capture_output=True, text=True, check=False
        )

    @property
    def told(self) -> list[str]:
        file = self.root / "told"
        return file.read_text().splitlines() if file.exists() else []


LINE = f"strongbox-main UUID=1 {files.SOCKET} luks,_netdev,nofail\n"


@pytest.mark.parametrize("crypttab", [LINE, f"# old\nswap /dev/sdb none\n{LINE}"])
def test_it_stays_while_crypttab_counts_on_it(tmp_path: Path, crypttab: str) -> None:
    machine = Machine(tmp_path)
    machine.path("/etc/crypttab").write_text(crypttab.replace("/run/", f"{tmp_path}/run/"))
    result = machine.run(operations._REMOVE)
    assert result.returncode == 1
    assert "would stay closed after a reboot, so the key service was left as it is" in result.stderr
    assert machine.told == []
    assert all(machine.path(path).exists() for path in files.OWN_PATHS)


@pytest.mark.parametrize("crypttab", [None, "", f"#{LINE}", "strongbox-main UUID=1 none noauto\n"])
def test_it_goes_when_nothing_counts_on_it(tmp_path: Path, crypttab: str | None) -> None:
    machine = Machine(tmp_path)
    if crypttab is not None:
        machine.path("/etc/crypttab").write_text(crypttab.replace("/run/", f"{tmp_path}/run/"))
    result = machine.run(operations._REMOVE)
    assert result.returncode == 0, result.stderr
    assert not any(machine.path(path).exists() for path in files.OWN_PATHS)
    assert machine.told == [
        "disable --now --quiet strongbox-key.socket",
        "stop strongbox-key@*.service",
        "daemon-reload",
    ]


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254.example.test", "https://169.254.169.254", "http://10.0.0.1", "imds"],
)
def test_a_strange_metadata_service_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="volumes_unlock_imds: is not the address"):
        VolumesSettings.load({"volumes_unencrypted": True, "volumes_unlock_imds": url})
