import hashlib
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.guard import UnitGuard
from roles.common.host_settings import CommonSettings
from roles.common.plan import ManagedFile
from roles.kafka import files
from roles.kafka.files import BrokerHost, Layout, Stores, started_with, wanted
from roles.kafka.settings import KafkaSettings
from roles.tls.stores import StoreType, paths
from tests.unit.test_zookeeper_files import install, record, run_below

COMMON = CommonSettings(cluster="payments", hostname="kafka1.example.test")


def stores(kind: StoreType) -> Stores:
    tls = Layout(COMMON.base_dir).tls
    return Stores(*(paths(f"{tls}/{name}", kind) for name in ("internal", "client", "zookeeper")))


PEM, PKCS12 = stores(StoreType.PEM), stores(StoreType.PKCS12)


def host(of: Stores = PEM, common: CommonSettings = COMMON, **settings: Any) -> BrokerHost:
    data = {"kafka_broker_id": 1, "kafka_archive": "kafka.tgz", **settings}
    return BrokerHost(
        KafkaSettings.load(data),
        common,
        [f"zk{n}.example.test:2182" for n in (3, 1, 2)],
        [f"kafka{n}.example.test:9093" for n in (2, 1, 3)],
        of,
        "/opt/strongbox/dist/0123456789abcdef",
    )


def file(of: BrokerHost, name: str) -> ManagedFile:
    found = [i for i in wanted(of) if isinstance(i, ManagedFile) and i.path.endswith(f"/{name}")]
    assert len(found) == 1
    return found[0]


def properties(of: BrokerHost, name: str = "server.properties") -> dict[str, str]:
    lines = [
        line.split("=", 1)
        for line in file(of, name).content.decode().splitlines()
        if line and not line.startswith("#")
    ]
    assert all(len(pair) == 2 for pair in lines)
    keys = [key for key, _ in lines]
    assert len(set(keys)) == len(keys), "a key is there twice"
    return dict(lines)  # type: ignore[arg-type]


def exec_start(of: BrokerHost) -> list[str]:
    text = file(of, "kafka.service").content.decode().replace("\\\n", " ")
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert "$" not in line
    assert re.fullmatch(r"([^%]|%%)*", line), "systemd would take % for a specifier"
    return [word.replace("%%", "%") for word in shlex.split(line)]


def test_every_listener_is_tls() -> None:
    config = properties(host())
    assert config["listeners"] == "INTERNAL://:9093,CLIENT://:9094"
    assert config["listener.security.protocol.map"] == "INTERNAL:SSL,CLIENT:SSL"
    assert config["inter.broker.listener.name"] == "INTERNAL"
    assert "security.inter.broker.protocol" not in config
    assert config["ssl.client.auth"] == "required"


def test_prefixes_are_lower_case_or_they_would_be_ignored() -> None:
    keys = [key for key in properties(host()) if key.startswith("listener.name.")]
    assert {key.split(".")[2] for key in keys} == {"internal", "client"}


def test_internal_is_mutual_tls_1_3_with_the_clusters_authority() -> None:
    config = properties(host(kafka_client_auth="none"))
    internal = "listener.name.internal.ssl."
    assert config[f"{internal}client.auth"] == "required"
    assert config[f"{internal}enabled.protocols"] == "TLSv1.3"
    assert config[f"{internal}truststore.location"] == PEM.internal.truststore
    assert config[f"{internal}endpoint.identification.algorithm"] == "https"


@pytest.mark.parametrize("client_auth", ["required", "none"])
def test_client_authentication_is_a_setting(client_auth: str) -> None:
    config = properties(host(kafka_client_auth=client_auth))
    assert config["listener.name.client.ssl.client.auth"] == client_auth
    assert config["listener.name.client.ssl.truststore.location"] == PEM.client.truststore


def test_suites_fit_the_protocols_and_have_forward_secrecy() -> None:
    key = "listener.name.client.ssl."
    both, only = properties(host()), properties(host(kafka_client_tls_protocols=["TLSv1.3"]))
    assert both[f"{key}enabled.protocols"] == "TLSv1.3,TLSv1.2"
    suites = both[f"{key}cipher.suites"].split(",")
    assert all(re.fullmatch(r"TLS_(ECDHE_(ECDSA|RSA)_WITH_)?AES_\d+_GCM_SHA\d+", s) for s in suites)
    assert "ECDHE" not in only[f"{key}cipher.suites"]
    old = properties(host(kafka_client_tls_protocols=["TLSv1.2"]))
    # A protocol of TLSv1.2 would forbid 1.3, and the other way round.
    assert (old[f"{key}protocol"], both[f"{key}protocol"]) == ("TLSv1.2", "TLSv1.3")
    assert "TLS_AES" not in old[f"{key}cipher.suites"]


def test_advertised_names() -> None:
    config = properties(
        host(kafka_client_advertised_name="lb.example.test", kafka_client_advertised_port=443)
    )
    assert config["advertised.listeners"] == (
        "INTERNAL://kafka1.example.test:9093,CLIENT://lb.example.test:443"
    )


def test_nothing_is_allowed_by_default() -> None:
    config = properties(host(kafka_super_users=["ops@operators"]))
    assert config["authorizer.class.name"] == "kafka.security.authorizer.AclAuthorizer"
    assert config["allow.everyone.if.no.acl.found"] == "false"
    assert config["super.users"] == "User:broker@cluster;User:admin@operators;User:ops@operators"
    assert config["auto.create.topics.enable"] == "false"


def test_zookeeper_is_reached_over_mutual_tls_in_a_folder_of_its_own() -> None:
    config = properties(host())
    assert config["zookeeper.connect"] == (
        "zk1.example.test:2182,zk2.example.test:2182,zk3.example.test:2182/kafka"
    )
    assert config["zookeeper.set.acl"] == "true"
    assert config["zookeeper.ssl.client.enable"] == "true"
    assert config["zookeeper.clientCnxnSocket"].endswith("ClientCnxnSocketNetty")
    assert config["zookeeper.ssl.protocol"] == "TLSv1.3"
    assert config["zookeeper.ssl.endpoint.identification.algorithm"] == "HTTPS"


def test_internal_topics_follow_the_replication_settings() -> None:
    config = properties(host(kafka_default_replication_factor=5, kafka_min_insync_replicas=3))
    for key in ("default", "offsets.topic", "transaction.state.log"):
        assert config[f"{key}.replication.factor"] == "5"
    assert config["min.insync.replicas"] == config["transaction.state.log.min.isr"] == "3"
    assert config["unclean.leader.election.enable"] == "false"


def test_additional_configuration_is_escaped() -> None:
    config = properties(host(kafka_config={"broker.rack": "a\\b", "log.retention.hours": 72}))
    assert (config["broker.rack"], config["log.retention.hours"]) == ("a\\\\b", "72")


def test_pem_needs_no_password() -> None:
    assert not [key for key in properties(host()) if "password" in key]
    assert not [key for key in properties(host(), "cli.properties") if "password" in key]
    assert "config.providers" not in properties(host())


@pytest.mark.parametrize("name", ["server.properties", "cli.properties"])
def test_pkcs12_passwords_are_references_that_the_provider_may_follow(name: str) -> None:
    config = properties(host(PKCS12), name)
    passwords = {key: value for key, value in config.items() if key.endswith("password")}
    assert len(passwords) == (6 if name == "server.properties" else 3)
    for key, value in passwords.items():
        store = "client" if ".client." in key else "internal"
        assert value == f"${{dir:/srv/strongbox/kafka/tls:{store}.password}}"
    assert config["config.providers.dir.param.allowed.paths"] == "/srv/strongbox/kafka/tls"
    assert config["config.providers.dir.class"].endswith(".DirectoryConfigProvider")


def test_zookeepers_client_reads_its_password_at_each_connection() -> None:
    """Kafka's own setting is read once, and a renewed store would cut all brokers off."""
    assert not [k for k in properties(host(PKCS12)) if k.startswith("zookeeper") and "passw" in k]
    given = [word for word in exec_start(host(PKCS12)) if "passwordPath" in word]
    assert given == [
        f"-Dzookeeper.ssl.{kind}.passwordPath=/srv/strongbox/kafka/tls/zookeeper.password"
        for kind in ("keyStore", "trustStore")
    ]


def names(config: dict[str, str], listener: str, distinguished_name: str) -> str | None:
    """What Kafka's mapper makes of a certificate's name: the first rule that matches it whole."""
    rules = config[f"listener.name.{listener}.ssl.principal.mapping.rules"]
    parsed = re.findall(r"RULE:([^/]*)/([^/]*)/(?:,|$)", rules)
    assert "".join(f"RULE:{a}/{b}/," for a, b in parsed) == f"{rules},"
    for pattern, replacement in parsed:
        if re.fullmatch(pattern, distinguished_name):
            return re.sub(pattern, replacement.replace("$1", r"\1"), distinguished_name)
    return None


@pytest.mark.parametrize(
    ("listener", "name", "principal"),
    [
        ("internal", "CN=kafka1.example.test,OU=brokers,O=payments", "broker@cluster"),
        ("internal", "CN=admin,OU=operators,O=payments", "admin@operators"),
        ("internal", "CN=app,OU=clients,O=payments", None),
        ("internal", "CN=admin,OU=operators,O=other", None),
        ("internal", "CN=admin,OU=operators,O=payments,C=DE", None),
        ("internal", "CN=x,CN=admin,OU=operators,O=payments", None),
        ("client", "CN=app-1.x_y,OU=clients,O=payments", "app-1.x_y"),
        ("client", "CN=broker@cluster,OU=clients,O=payments", None),
        ("client", "CN=kafka1,OU=brokers,O=payments", None),
        ("client", "CN=admin,OU=operators,O=payments", None),
        ("client", "CN=a\\,OU\\=operators,OU=clients,O=payments", None),
        ("client", "CN=a+UID=b,OU=clients,O=payments", None),
    ],
)
def test_principals(listener: str, name: str, principal: str | None) -> None:
    assert names(properties(host()), listener, name) == principal


@given(st.text(min_size=1), st.sampled_from(["clients", "brokers", "operators", "x"]))
def test_no_certificate_of_a_client_gives_a_super_user(common_name: str, unit: str) -> None:
    escaped = re.sub(r'([,+"\\<>;=#])', r"\\\1", common_name)
    config = properties(host())
    principal = names(config, "client", f"CN={escaped},OU={unit},O=payments")
    assert f"User:{principal}" not in config["super.users"].split(";")
    assert principal is None or "@" not in principal


def test_logging_leaves_out_what_holds_secrets() -> None:
    logging = properties(host(), "log4j.properties")
    assert logging["log4j.rootLogger"] == "INFO, file"
    assert logging["log4j.logger.kafka.request.logger"] == "WARN"
    assert logging["log4j.logger.kafka.server.ConfigAdminManager"] == "FATAL"
    appenders = {key.split(".")[2] for key in logging if key.startswith("log4j.appender.")}
    for name in appenders:
        appender = f"log4j.appender.{name}"
        assert logging[appender] == "org.apache.log4j.RollingFileAppender"
        assert logging[f"{appender}.File"].startswith("/srv/strongbox/kafka/logs/")
        assert int(logging[f"{appender}.MaxBackupIndex"]) > 0


def test_the_jvm_leaves_no_memory_behind_and_opens_no_port() -> None:
    words = exec_start(host(kafka_jvm_options=["-Xlog:gc"]))
    for option in (
        "-Xmx1g",
        "-XX:-HeapDumpOnOutOfMemoryError",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-CreateCoredumpOnCrash",
        "-XX:+DisableAttachMechanism",
        "-XX:-UsePerfData",
        "-XX:ErrorFile=/srv/strongbox/kafka/logs/hs_err_%p.log",
        "-Djava.io.tmpdir=/srv/strongbox/kafka/tmp",
        "-Xlog:gc",
    ):
        assert option in words
    assert not [word for word in words if "jmxremote" in word or "agent" in word]
    assert words[-2:] == ["kafka.Kafka", "/etc/strongbox/kafka/server.properties"]


def test_modes_and_owners() -> None:
    for item in wanted(host()):
        if item.path.startswith("/srv/strongbox/kafka"):
            own = item.path.endswith(("/data", "/logs", "/tmp"))
            expected = ("kafka", "kafka", "700") if own else ("root", "kafka", "750")
            assert (item.owner, item.group, item.mode) == expected, item.path
        elif item.path.startswith("/etc/strongbox/kafka/"):
            assert (item.owner, item.group, item.mode) == ("root", "kafka", "640")
        else:
            assert item.owner == "root"
    assert file(host(), "kafka-cli").mode == "755"


def test_folders_come_before_what_is_in_them_and_the_unit_last() -> None:
    items = wanted(host())
    seen = {"/srv", "/etc", "/etc/systemd/system", "/usr/local/bin"}
    for item in items:
        assert str(Path(item.path).parent) in seen
        seen.add(item.path)
    assert items[-1].path == files.UNIT


def install_with_stores(of: BrokerHost, root: Path) -> None:
    install(wanted(of), root)
    for store in (of.stores.internal, of.stores.client, of.stores.zookeeper):
        for path in filter(None, (store.keystore, store.truststore, store.password)):
            (root / path.lstrip("/")).write_text(f"content of {path}")


@pytest.mark.parametrize("of", [PEM, PKCS12])
def test_what_a_start_records_is_what_the_controller_expects(of: Stores, tmp_path: Path) -> None:
    broker = host(of)
    install_with_stores(broker, tmp_path)
    seen = record(tmp_path, "kafka")
    assert {**started_with(broker), "stores": seen["stores"]} == seen

    def now() -> str:
        return run_below(tmp_path, files.stores_digest_command(broker)).strip()

    assert now() == seen["stores"]
    tls = tmp_path / "srv/strongbox/kafka/tls"
    digests = {
        f"/srv/strongbox/kafka/tls/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tls.iterdir()
    }
    assert files.stores_digest(broker, digests) == seen["stores"]
    for path in tls.iterdir():
        if path.name.startswith("zookeeper"):
            path.write_text("renewed")
    assert now() == seen["stores"], "the connection to ZooKeeper reads its stores by itself"
    Path(f"{tmp_path}{of.client.keystore}").write_text("renewed")
    assert now() != seen["stores"]


def test_a_start_with_files_that_were_altered_by_hand_is_noticed(tmp_path: Path) -> None:
    """Even when the next run has put the files right again: the process still has the others."""
    install_with_stores(host(), tmp_path)
    config = tmp_path / "etc/strongbox/kafka/server.properties"
    config.write_text(config.read_text() + "auto.create.topics.enable=true\n")
    assert record(tmp_path, "kafka")["config"] != started_with(host())["config"]


def test_what_needs_a_restart_changes_the_record() -> None:
    base = host()
    records = [
        started_with(other)["config"]
        for other in (
            base,
            host(kafka_heap="2g"),
            host(kafka_config={"num.io.threads": 4}),
            host(PKCS12),
            replace(base, zookeepers=["zk1.example.test:2182"]),
            replace(base, software="/opt/strongbox/dist/ffffffffffffffff"),
        )
    ]
    assert len(set(records)) == len(records)


def test_what_only_the_tools_use_needs_no_restart() -> None:
    more = replace(host(), brokers=[*host().brokers, "kafka4.example.test:9093"])
    assert wanted(more) != wanted(host())
    assert started_with(more) == started_with(host())
    # Nor does the order in which an inventory lists hosts.
    shuffled = replace(host(), zookeepers=sorted(host().zookeepers))
    assert wanted(shuffled) == wanted(host())


@pytest.mark.parametrize("of", [PEM, PKCS12])
def test_readiness_is_a_verified_handshake_on_both_listeners(of: Stores) -> None:
    command = files.ready_command(host(of))
    subprocess.run(["sh", "-n", "-c", command], check=True)
    assert command.count("timeout 5 openssl s_client") == command.count("s_client") == 2
    assert command.count("-verify_return_error -verify_hostname kafka1.example.test") == 2
    assert {":9093", ":9094"} == set(re.findall(r":90\d\d", command))


class Cli:
    """The rendered kafka-cli with a Java that prints its arguments and exits with 42."""

    def __init__(self, folder: Path, user: str, uid: int) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self._script("java", 'printf "%s\\n" "$@"; env | sed "s/^/env /"; exit 42')
        self._script("id", f'if [ "$1" = -un ]; then echo {user}; else echo {uid}; fi')
        self._script("setpriv", 'printf "setpriv %s\\n" "$*"')
        common = COMMON.model_copy(update={"java": f"{self.bin}/java"})
        self.path = folder / "kafka-cli"
        self.path.write_bytes(file(host(common=common), "kafka-cli").content)
        self.path.chmod(0o755)

    def _script(self, name: str, body: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.bin / name).chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{self.bin}:/usr/bin:/bin", "JAVA_TOOL_OPTIONS": "-X"}
        return subprocess.run(
            [str(self.path), *arguments], env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def java(self, *arguments: str) -> Sequence[str]:
        result = self.run(*arguments)
        assert result.returncode == 42, "the tool's own exit code"
        return result.stdout.splitlines()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path, "kafka", 951)


BOOTSTRAP = "kafka1.example.test:9093,kafka2.example.test:9093,kafka3.example.test:9093"
FILE = "/etc/strongbox/kafka/cli.properties"


def arguments(words: Sequence[str]) -> list[str]:
    """What comes after the class path."""
    rest = words[words.index("-cp") + 2 :]
    return [word for word in rest if not word.startswith("env ")]


def test_the_tool_gets_servers_and_identity(cli: Cli) -> None:
    assert arguments(cli.java("topics", "--describe", "--topic", "a b")) == [
        "org.apache.kafka.tools.TopicCommand",
        "--bootstrap-server", BOOTSTRAP, "--command-config", FILE,
        "--describe", "--topic", "a b",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["kafka-topics", "kafka-topics.sh", "topics.sh"])
def test_kafkas_own_names_work(cli: Cli, name: str) -> None:
    assert arguments(cli.java(name))[0] == "org.apache.kafka.tools.TopicCommand"


def test_what_the_user_names_is_left_alone(cli: Cli) -> None:
    words = arguments(cli.java("topics", "--bootstrap-server", "other:1", "--list"))
    assert words[1:] == ["--command-config", FILE, "--bootstrap-server", "other:1", "--list"]
    words = arguments(cli.java("configs", "--command-config=/mine", "--describe"))
    assert words[1:] == ["--bootstrap-server", BOOTSTRAP, "--command-config=/mine", "--describe"]
    # --config is a topic's setting, not a file.
    assert FILE in arguments(cli.java("topics", "--config", "retention.ms=1"))


def test_the_cluster_tool_wants_its_subcommand_first(cli: Cli) -> None:
    words = arguments(cli.java("cluster", "cluster-id"))
    assert words[1:] == ["cluster-id", "--bootstrap-server", BOOTSTRAP, "--config", FILE]


def test_zookeeper_shell_is_in_the_brokers_folder_over_tls(cli: Cli) -> None:
    words = cli.java("zookeeper-shell", "get", "/controller")
    assert arguments(words)[1:3] == [
        "-server",
        "zk1.example.test:2182,zk2.example.test:2182,zk3.example.test:2182/kafka",
    ]
    assert "-Dzookeeper.client.secure=true" in words
    assert f"-Dzookeeper.ssl.keyStore.location={PEM.zookeeper.keystore}" in words


def test_options_in_the_environment_do_not_reach_java(cli: Cli) -> None:
    environment = {word for word in cli.java("acls") if word.startswith("env ")}
    assert not [word for word in environment if "JAVA" in word]


def test_alone_it_lists_the_tools(cli: Cli) -> None:
    for arguments_ in ([], ["--help"]):
        result = cli.run(*arguments_)
        assert result.returncode == 0
        for tool in files.TOOLS:
            assert re.search(rf"^  {tool.name} +{re.escape(tool.summary)}$", result.stdout, re.M)


def test_an_unknown_tool_is_refused(cli: Cli) -> None:
    result = cli.run("topisc")
    assert (result.returncode, result.stdout) == (64, "")
    assert "there is no tool 'topisc'" in result.stderr


def test_root_becomes_the_service_user_and_others_are_told(tmp_path: Path) -> None:
    result = Cli(tmp_path, "root", 0).run("topics", "--list")
    assert result.stdout == (
        "setpriv --reuid=kafka --regid=kafka --init-groups --no-new-privs --bounding-set=-all "
        f"--inh-caps=-all {tmp_path}/kafka-cli topics --list\n"
    )


def test_other_users_are_told_to_use_sudo(tmp_path: Path) -> None:
    result = Cli(tmp_path, "deploy", 1000).run("topics", "--list")
    assert result.returncode == 77
    assert "sudo kafka-cli topics" in result.stderr


def test_the_unit_waits_for_its_volumes_and_is_guarded() -> None:
    guard = UnitGuard(("/srv/strongbox", "/srv/strongbox-data1"), "/opt/guard /srv/strongbox")
    unit = file(
        replace(host(), guard=guard, data_volumes=["/srv/strongbox-data1"]), "kafka.service"
    ).content.decode()
    lines = unit.splitlines()
    assert "ConditionPathIsMountPoint=/srv/strongbox" in lines
    assert "ConditionPathIsMountPoint=/srv/strongbox-data1" in lines
    assert "RequiresMountsFor=/srv/strongbox /srv/strongbox-data1" in lines
    # Before anything else runs, and as root, who may look at devices.
    first = next(line for line in lines if line.startswith("ExecStartPre="))
    assert first == "ExecStartPre=+/opt/guard /srv/strongbox"


def test_volumes_for_data_hold_all_partitions_below_their_top() -> None:
    many = replace(host(), data_volumes=["/srv/a", "/srv/b"])
    assert properties(many)["log.dirs"] == "/srv/a/kafka,/srv/b/kafka"
    unit = file(many, "kafka.service").content.decode()
    assert "ReadWritePaths=/srv/strongbox/kafka /srv/a /srv/b\n" in unit
    folders = [item.path for item in wanted(many)]
    assert folders.index("/srv/a") < folders.index("/srv/a/kafka")
