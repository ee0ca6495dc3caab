import re
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roles.common.guard import UnitGuard
from roles.common.host_settings import CommonSettings
from roles.common.plan import ManagedDirectory, ManagedFile
from roles.tls.stores import StoreType, paths
from roles.zookeeper import files
from roles.zookeeper.files import Layout, ZookeeperHost, four_letter_command, started_with, wanted
from roles.zookeeper.settings import ZookeeperSettings

COMMON = CommonSettings(cluster="payments", hostname="zk1.example.test", addresses=("10.0.0.1",))
TLS = Layout(COMMON.base_dir).tls
PEM = paths(f"{TLS}/{files.STORE}", StoreType.PEM)
PKCS12 = paths(f"{TLS}/{files.STORE}", StoreType.PKCS12)


def host(store: Any = PEM, **settings: Any) -> ZookeeperHost:
    data = {"zookeeper_id": 1, "zookeeper_archive": "kafka.tgz", **settings}
    members = {n: f"zk{n}.example.test" for n in (1, 2, 3)}
    return ZookeeperHost(
        ZookeeperSettings.load(data), COMMON, members, store, "/opt/strongbox/dist/0123456789abcdef"
    )


def file(of: ZookeeperHost, name: str) -> ManagedFile:
    found = [i for i in wanted(of) if isinstance(i, ManagedFile) and i.path.endswith(f"/{name}")]
    assert len(found) == 1
    return found[0]


def properties(of: ZookeeperHost, name: str = "zoo.cfg") -> dict[str, str]:
    lines = [
        line.split("=", 1)
        for line in file(of, name).content.decode().splitlines()
        if line and not line.startswith("#")
    ]
    assert all(len(pair) == 2 for pair in lines)
    keys = [key for key, _ in lines]
    assert len(set(keys)) == len(keys), "a key is there twice"
    return dict(lines)  # type: ignore[arg-type]


def exec_start(of: ZookeeperHost) -> list[str]:
    text = file(of, "zookeeper.service").content.decode().replace("\\\n", " ")
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert "$" not in line
    assert re.fullmatch(r"([^%]|%%)*", line), "systemd would take % for a specifier"
    return [word.replace("%%", "%") for word in shlex.split(line)]


def test_there_is_no_port_without_mutual_tls_1_3() -> None:
    config = properties(host())
    assert "clientPort" not in config
    assert config["secureClientPort"] == "2182"
    assert config["admin.enableServer"] == "false"
    assert config["4lw.commands.whitelist"] == "srvr,ruok,mntr"
    assert (config["sslQuorum"], config["portUnification"]) == ("true", "false")
    assert config["client.portUnification"] == "false"
    for prefix in ("ssl", "ssl.quorum"):
        assert config[f"{prefix}.clientAuth"] == "need"
        assert config[f"{prefix}.hostnameVerification"] == "true"
        assert config[f"{prefix}.allowReverseDnsLookup"] == "false"
        # 3.8 silently falls back to TLS 1.2 unless all three say 1.3.
        assert config[f"{prefix}.protocol"] == config[f"{prefix}.enabledProtocols"] == "TLSv1.3"
        assert all(
            suite.startswith("TLS_AES_") for suite in config[f"{prefix}.ciphersuites"].split(",")
        )
    assert config["fips-mode"] == "false"


def test_sessions_without_a_certificate_are_refused() -> None:
    config = properties(host())
    assert config["enforce.auth.enabled"] == "true"
    assert config["enforce.auth.schemes"] == "x509"
    assert config["authProvider.x509"].endswith(".X509AuthenticationProvider")


def test_certificates_are_reloaded_on_both_kinds_of_ports() -> None:
    config = properties(host())
    assert (config["client.certReload"], config["sslQuorumReloadCertFiles"]) == ("true", "true")


def test_old_snapshots_are_purged() -> None:
    config = properties(host(zookeeper_snap_retain_count=5, zookeeper_purge_interval_hours=2))
    assert config["autopurge.snapRetainCount"] == "5"
    assert config["autopurge.purgeInterval"] == "2"


def test_every_member_is_named() -> None:
    config = properties(host())
    assert {key: config[key] for key in config if key.startswith("server.")} == {
        f"server.{n}": f"zk{n}.example.test:2888:3888" for n in (1, 2, 3)
    }
    assert file(host(), "myid").content == b"1\n"


def test_pem_has_no_password_and_pkcs12_only_its_path() -> None:
    assert not [key for key in properties(host()) if "password" in key]
    config = properties(host(PKCS12))
    passwords = {key: value for key, value in config.items() if "password" in key.lower()}
    assert set(passwords) == {
        f"{prefix}.{kind}.passwordPath"
        for prefix in ("ssl", "ssl.quorum")
        for kind in ("keyStore", "trustStore")
    }
    assert set(passwords.values()) == {PKCS12.password}
    assert config["ssl.keyStore.type"] == "PKCS12"


def test_reverse_dns_is_a_choice_for_the_quorum_only() -> None:
    config = properties(host(zookeeper_quorum_reverse_dns=True))
    assert config["ssl.quorum.allowReverseDnsLookup"] == "true"
    assert config["ssl.allowReverseDnsLookup"] == "false"


def test_the_audit_log_has_a_file_of_its_own() -> None:
    assert "audit" not in file(host(), "log4j.properties").content.decode()
    assert properties(host(zookeeper_audit=True))["audit.enable"] == "true"
    logging = properties(host(zookeeper_audit=True), "log4j.properties")
    assert logging["log4j.logger.org.apache.zookeeper.audit.Slf4jAuditLogger"] == "INFO, audit"


def test_logs_are_bounded_files_on_the_encrypted_volume() -> None:
    logging = properties(host(zookeeper_audit=True), "log4j.properties")
    names = {key.split(".")[2] for key in logging if key.startswith("log4j.appender.")}
    for name in names:
        appender = f"log4j.appender.{name}"
        assert logging[appender] == "org.apache.log4j.RollingFileAppender"
        assert logging[f"{appender}.File"].startswith("/srv/strongbox/zookeeper/logs/")
        assert int(logging[f"{appender}.MaxBackupIndex"]) > 0


def test_the_jvm_leaves_no_memory_behind_and_opens_no_port() -> None:
    words = exec_start(host(zookeeper_jvm_options=["-Xlog:gc"]))
    assert words[0] == "/usr/bin/java"
    for option in (
        "-Xmx512m",
        "-XX:-HeapDumpOnOutOfMemoryError",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-CreateCoredumpOnCrash",
        "-XX:+DisableAttachMechanism",
        "-XX:-UsePerfData",
        "-XX:ErrorFile=/srv/strongbox/zookeeper/logs/hs_err_%p.log",
        "-Djava.io.tmpdir=/srv/strongbox/zookeeper/tmp",
        "-Xlog:gc",
    ):
        assert option in words
    assert not [word for word in words if "jmxremote" in word or "agent" in word]
    assert words[-2:] == [
        "org.apache.zookeeper.server.quorum.QuorumPeerMain",
        "/etc/strongbox/zookeeper/zoo.cfg",
    ]


def test_modes_and_owners() -> None:
    items = wanted(host())
    private = {item.path: item for item in items if item.path.startswith("/srv/strongbox/zoo")}
    for item in private.values():
        own = item.path.rpartition("/")[2] in ("data", "logs", "tmp", "myid")
        expected = ("zookeeper", "700") if own else ("root", "750")
        assert (item.owner, item.mode) == (
            expected if isinstance(item, ManagedDirectory) else ("zookeeper", "600")
        ), item.path
        assert item.group == "zookeeper"
    config = [item for item in items if item.path.startswith("/etc/strongbox/zookeeper/")]
    assert {(item.owner, item.group, item.mode) for item in config} == {
        ("root", "zookeeper", "640")
    }


def test_folders_come_before_what_is_in_them_and_the_unit_last() -> None:
    items = wanted(host())
    seen = {"/", "/srv", "/etc", "/etc/systemd/system"}
    for item in items:
        assert str(Path(item.path).parent) in seen
        seen.add(item.path)
    assert items[-1].path == files.UNIT


def run_below(root: Path, script: str) -> str:
    """Runs shell that hashes files and writes to /run, on a host whose files lie below *root*."""
    tools = root / "tools"
    tools.mkdir(exist_ok=True)
    fake = tools / "sha256sum"
    # The same output as on the host, whose paths are absolute.
    fake.write_text(
        "#!/bin/sh\n[ $# -gt 0 ] || exec /usr/bin/sha256sum\n"
        f'for path; do printf "%s  %s\\n" "$(/usr/bin/sha256sum <{root}$path | cut -c1-64)" $path; '
        "done\n"
    )
    fake.chmod(0o755)
    return subprocess.run(
        ["sh", "-c", script.replace("/run/", f"{root}/run/")],
        env={"PATH": f"{tools}:/usr/bin:/bin"}, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def install(items: Iterable[ManagedDirectory | ManagedFile], root: Path) -> None:
    for item in items:
        target = root / item.path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(item, ManagedDirectory):
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(item.content)


def record(root: Path, role: str) -> dict[str, str]:
    """What the unit's ExecStartPre writes on a host whose files lie below *root*."""
    unit = (root / f"etc/systemd/system/{role}.service").read_text()
    (line,) = re.findall(r"^ExecStartPre=(.*)$", unit, re.MULTILINE)
    assert re.fullmatch(r"([^$%]|\$\$)*", line), "systemd would put variables and specifiers in"
    shell, option, script = (word.replace("$$", "$") for word in shlex.split(line))
    assert (shell, option) == ("/bin/sh", "-c")
    folder = root / f"run/strongbox-{role}"
    folder.mkdir(parents=True, exist_ok=True)
    run_below(root, script)
    lines = (folder / "started-with").read_text().splitlines()
    return dict(text.split(" ", 1) for text in lines)  # type: ignore[misc]


@pytest.mark.parametrize("store", [PEM, PKCS12])
def test_what_a_start_records_is_what_the_controller_expects(store: Any, tmp_path: Path) -> None:
    install(wanted(host(store)), tmp_path)
    assert record(tmp_path, "zookeeper") == started_with(host(store))


def test_a_start_with_files_that_were_altered_by_hand_is_noticed(tmp_path: Path) -> None:
    """Even when the next run has put the files right again: the process still has the others."""
    install(wanted(host()), tmp_path)
    config = tmp_path / "etc/strongbox/zookeeper/zoo.cfg"
    config.write_text(config.read_text() + "clientPort=2181\n")
    assert record(tmp_path, "zookeeper") != started_with(host())


def test_what_needs_a_restart_changes_the_record() -> None:
    base = host()
    records = [
        started_with(other)["config"]
        for other in (
            base,
            host(zookeeper_heap="1g"),
            host(zookeeper_sync_limit=7),
            host(zookeeper_audit=True),
            host(zookeeper_id=2),
            host(PKCS12),
            replace(base, software="/opt/strongbox/dist/ffffffffffffffff"),
            replace(base, members={1: "zk1.example.test"}),
        )
    ]
    assert len(set(records)) == len(records)
    assert started_with(host()) == started_with(base)


@pytest.mark.parametrize("store", [PEM, PKCS12])
def test_health_is_asked_over_verified_tls_and_never_hangs(store: Any) -> None:
    command = four_letter_command(host(store))
    subprocess.run(["sh", "-n", "-c", command], check=True)
    for part in ("-tls1_3", "-verify_return_error", "-verify_hostname zk1.example.test"):
        assert part in command
    assert command.count("s_client") == command.count("timeout 5 openssl s_client") == 1
    with pytest.raises(ValueError, match="whitelist"):
        four_letter_command(host(store), "dump")


def test_the_unit_waits_for_its_volumes_and_is_guarded() -> None:
    guard = UnitGuard(("/srv/strongbox", "/srv/strongbox"), "/opt/guard /srv/strongbox")
    unit = file(replace(host(), guard=guard), "zookeeper.service").content.decode()
    lines = unit.splitlines()
    assert "ConditionPathIsMountPoint=/srv/strongbox" in lines
    assert "ConditionPathIsMountPoint=/srv/strongbox" in lines
    assert "RequiresMountsFor=/srv/strongbox /srv/strongbox" in lines
    # Before anything else runs, and as root, who may look at devices.
    first = next(line for line in lines if line.startswith("ExecStartPre="))
    assert first == "ExecStartPre=+/opt/guard /srv/strongbox"
