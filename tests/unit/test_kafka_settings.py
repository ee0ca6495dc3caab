from collections.abc import Callable, Mapping
from typing import Any

import pytest

from roles.common.settings import RoleSettings, SettingsError
from roles.kafka.settings import KafkaSettings, problems
from roles.zookeeper.settings import ZookeeperSettings

MINIMAL: Mapping[str, Any] = {"kafka_broker_id": 1, "kafka_archive": "kafka.tgz"}


def load(**changes: Any) -> KafkaSettings:
    return KafkaSettings.load({**MINIMAL, **changes})


def cluster(count: int, **changes: Any) -> dict[str, KafkaSettings]:
    return {f"kafka{n}": load(kafka_broker_id=n, **changes) for n in range(1, count + 1)}


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("broker_id", -1, "greater than or equal to 0"),
        ("client_auth", "requested", "'required' or 'none'"),
        ("client_port", 9093, "must differ"),
        ("client_tls_protocols", ["TLSv1.1"], "weaknesses are known"),
        ("client_tls_protocols", ["SSLv3"], "weaknesses are known"),
        ("client_tls_protocols", ["TLSv1.4"], "must be TLSv1.3 or TLSv1.2"),
        ("client_tls_protocols", [], "is empty"),
        ("min_insync_replicas", 3, "otherwise no broker could ever restart"),
        ("min_insync_replicas", 1, "acknowledged records could be lost"),
        ("heap", "1000000m", "between"),
        ("super_users", ["app"], "NAME@operators"),
        ("super_users", ["app@cluster"], "NAME@operators"),
        ("super_users", ["a;User:*@operators"], "NAME@operators"),
        ("archive", "https://repo example", "path or URL"),
        ("config", {"log.retention.hour": "1"}, "did you mean 'log.retention.hours'"),
        ("config", {"log.retention.hours": "1\nauthorizer.class.name="}, "line breaks"),
        ("config", {"broker.rack": "${env:HOME}"}, "refers to a secret"),
    ],
)
def test_refused_with_a_reason(key: str, value: object, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        load(**{f"kafka_{key}": value})


@pytest.mark.parametrize(
    "key",
    [
        "listeners",
        "advertised.listeners",
        "listener.security.protocol.map",
        "inter.broker.listener.name",
        "security.inter.broker.protocol",
        "listener.name.client.ssl.client.auth",
        "listener.name.plain.sasl.enabled.mechanisms",
        "ssl.client.auth",
        "ssl.enabled.protocols",
        "ssl.principal.mapping.rules",
        "sasl.enabled.mechanisms",
        "principal.builder.class",
        "authorizer.class.name",
        "allow.everyone.if.no.acl.found",
        "super.users",
        "zookeeper.connect",
        "zookeeper.set.acl",
        "zookeeper.ssl.client.enable",
        "log.dirs",
        "log.dir",
        "config.providers",
        "config.providers.env.class",
        "password.encoder.secret",
        "delegation.token.secret.key",
        "min.insync.replicas",
        "default.replication.factor",
        "offsets.topic.replication.factor",
        "transaction.state.log.min.isr",
        "unclean.leader.election.enable",
        "auto.create.topics.enable",
        "controlled.shutdown.enable",
        "remote.log.storage.system.enable",
        "broker.id",
        "process.roles",
    ],
)
def test_configuration_that_the_role_owns_is_refused_by_name(key: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(kafka_config={key: "x"})
    assert f"{key} is refused: " in str(error.value)


def test_other_configuration_passes_as_kafka_writes_it() -> None:
    settings = load(
        kafka_config={
            "log.retention.hours": 72,
            "log.cleaner.enable": True,
            "compression.type": "zstd",
            "zookeeper.session.timeout.ms": "30000",
        }
    )
    assert settings.config == {
        "log.retention.hours": "72",
        "log.cleaner.enable": "true",
        "compression.type": "zstd",
        "zookeeper.session.timeout.ms": "30000",
    }


def test_a_secret_in_configuration_is_not_echoed() -> None:
    canary = "CANARY-in-the-wrong-place"
    with pytest.raises(SettingsError) as error:
        load(kafka_config={"ssl.keystore.password": canary, "log.retention.hours": f"{canary}\n"})
    assert canary not in str(error.value)


Load = Callable[..., RoleSettings]
ROLES: list[tuple[type[RoleSettings], Mapping[str, Any]]] = [
    (KafkaSettings, MINIMAL),
    (ZookeeperSettings, {"zookeeper_id": 1, "zookeeper_archive": "kafka.tgz"}),
]


@pytest.mark.parametrize(("role", "minimal"), ROLES)
@pytest.mark.parametrize(
    "option",
    [
        "-XX:+HeapDumpOnOutOfMemoryError",
        "-XX:HeapDumpPath=/tmp",
        "-XX:+HeapDumpBeforeFullGC",
        "-XX:StartFlightRecording=filename=/tmp/x.jfr",
        "-XX:+CreateCoredumpOnCrash",
        "-XX:+CrashOnOutOfMemoryError",
        "-XX:-DisableAttachMechanism",
        "-XX:+UsePerfData",
        "-XX:OnOutOfMemoryError=id",
        "-XX:Flags=/tmp/flags",
        "-XX:VMOptionsFile=/tmp/options",
        "-XX:-ExitOnOutOfMemoryError",
        "-XX:MaxHeapSize=1g",
        "-XX:MaxRAMPercentage=50",
        "-Xmx1g",
        "-Dcom.sun.management.jmxremote.port=9999",
        "-Djavax.net.debug=all",
        "-Djavax.net.ssl.keyStorePassword=x",
        "-Djava.security.properties=/tmp/x",
        "-Dzookeeper.skipACL=yes",
        "-Dzookeeper.admin.enableServer=true",
        "-Dlog4j.configuration=file:/tmp/x",
        "-Dmy.password=x",
        "-agentlib:jdwp=transport=dt_socket",
        "-agentpath:/tmp/x.so",
        "-javaagent:/tmp/x.jar",
        "-Xrunjdwp:transport=dt_socket",
        "-Xdebug",
        "-cp",
        "@/tmp/arguments",
        "-Dx=%n",
        "-Dx=$HOME",
        "-Dx=a b",
        '-Dx="a"',
        "-Dx=a\nExecStartPost=/bin/id",
        "-Dx=a\\",
        "",
    ],
)
def test_options_that_undo_the_protection_are_refused(
    role: type[RoleSettings], minimal: Mapping[str, Any], option: str
) -> None:
    with pytest.raises(SettingsError, match="is refused"):
        role.load({**minimal, f"{role.prefix}_jvm_options": [option]})


@pytest.mark.parametrize(("role", "minimal"), ROLES)
@pytest.mark.parametrize(
    "option",
    [
        "-XX:+UseZGC",
        "-XX:MaxGCPauseMillis=50",
        "-Xlog:gc*",
        "-Xss512k",
        "-Djava.net.preferIPv4Stack=true",
    ],
)
def test_harmless_options_pass(
    role: type[RoleSettings], minimal: Mapping[str, Any], option: str
) -> None:
    role.load({**minimal, f"{role.prefix}_jvm_options": [option]})


def test_one_copy_and_unsafe_restarts_are_choices_with_a_name() -> None:
    assert (
        load(
            kafka_default_replication_factor=2,
            kafka_min_insync_replicas=1,
            kafka_allow_acks_from_one_copy=True,
        ).min_insync_replicas
        == 1
    )
    single = load(
        kafka_default_replication_factor=1,
        kafka_min_insync_replicas=1,
        kafka_allow_acks_from_one_copy=True,
        kafka_allow_unsafe_restart=True,
    )
    assert problems({"kafka1": single}) == []


def test_the_strongest_protocol_comes_first() -> None:
    settings = load(kafka_client_tls_protocols=["TLSv1.2", "TLSv1.3"])
    assert settings.client_tls_protocols == ("TLSv1.3", "TLSv1.2")


def test_super_users_are_the_brokers_the_admin_and_those_added() -> None:
    settings = load(kafka_super_users=["ops@operators", "admin@operators"])
    assert settings.super_user_principals == [
        "User:broker@cluster",
        "User:admin@operators",
        "User:ops@operators",
    ]


def test_a_cluster_of_three_works_and_one_of_two_has_too_few() -> None:
    assert problems(cluster(3)) == []
    (line,) = problems(cluster(2))
    assert "kafka_default_replication_factor is 3, but there are only 2 brokers" in line


def test_duplicate_ids_name_both_hosts() -> None:
    hosts = {**cluster(3), "kafka3": load(kafka_broker_id=1)}
    assert problems(hosts) == ["kafka_broker_id: kafka1 and kafka3 both have 1"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("internal_port", 9999),
        ("client_auth", "none"),
        ("client_tls_protocols", ["TLSv1.3"]),
        ("super_users", ["ops@operators"]),
        ("default_replication_factor", 4),
    ],
)
def test_what_the_cluster_shares_must_be_equal(field: str, value: object) -> None:
    hosts = {**cluster(4), "kafka2": load(kafka_broker_id=2, **{f"kafka_{field}": value})}
    assert [f"kafka_{field} differs between kafka1 and kafka2" in x for x in problems(hosts)] == [
        True
    ]
