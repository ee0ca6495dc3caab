"""What lies on a broker: folders, configuration, unit and `kafka-cli`, rendered from its settings.

Pure: no pyinfra, no host. The key and trust stores are the tls role's; here are only their paths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from roles.common.guard import UnitGuard
from roles.common.host_settings import CommonSettings
from roles.common.plan import ManagedDirectory, ManagedFile
from roles.kafka.settings import BROKER_PRINCIPAL, KafkaSettings

USER = "kafka"
UNIT = "/etc/systemd/system/kafka.service"
CLI = "/usr/local/bin/kafka-cli"
CHROOT = "/kafka"

_TLS13 = ("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256")
# Forward secrecy and authenticated encryption only. ChaCha20 is ten times slower on Java 17.
_TLS12 = tuple(
    f"TLS_ECDHE_{key}_WITH_AES_{suite}"
    for suite in ("256_GCM_SHA384", "128_GCM_SHA256")
    for key in ("ECDSA", "RSA")
)
_PROVIDER = "org.apache.kafka.common.config.provider.DirectoryConfigProvider"
_ANSWER_S = 5


class Store(Protocol):
    """Where the files of a store lie; ``password`` is empty with PEM."""

    @property
    def keystore(self) -> str: ...
    @property
    def truststore(self) -> str: ...
    @property
    def password(self) -> str: ...


@dataclass(frozen=True)
class Stores:
    """``internal`` and ``client`` are the listeners', ``zookeeper`` the broker's as a client."""

    internal: Store
    client: Store
    zookeeper: Store


@dataclass(frozen=True)
class Layout:
    """The role's folders on a host."""

    base_dir: str

    @property
    def root(self) -> str:
        return f"{self.base_dir}/kafka"

    @property
    def data(self) -> str:
        return f"{self.root}/data"

    @property
    def tls(self) -> str:
        return f"{self.root}/tls"

    @property
    def logs(self) -> str:
        return f"{self.root}/logs"

    @property
    def tmp(self) -> str:
        return f"{self.root}/tmp"  # noqa: S108

    @property
    def config(self) -> str:
        return "/etc/strongbox/kafka"


@dataclass(frozen=True)
class BrokerHost:
    """All that decides what lies on one broker.

    ``zookeepers`` and ``brokers`` are ``host:port`` of the ensemble's client ports and of every
    broker's INTERNAL listener; ``software`` is the unpacked archive, with ``libs/`` in it;
    ``data_volumes`` are mount points of volumes that hold nothing but partitions.
    """

    settings: KafkaSettings
    common: CommonSettings
    zookeepers: Sequence[str]
    brokers: Sequence[str]
    stores: Stores
    software: str
    guard: UnitGuard | None = None
    data_volumes: Sequence[str] = ()

    @property
    def layout(self) -> Layout:
        return Layout(self.common.base_dir)

    @property
    def log_dirs(self) -> list[str]:
        """Folders of the partitions, each below the top of its volume: ext4 has lost+found there,
        which Kafka would take for a partition."""
        return [f"{mount}/kafka" for mount in self.data_volumes] or [self.layout.data]


@dataclass(frozen=True)
class Tool:
    """A tool of `kafka-cli`: its Java class, and the options that name servers and settings.

    ``servers`` is left out when the user names servers, ``config`` when the user names a file with
    settings; ``after`` is for a tool that wants both behind its own arguments.
    """

    name: str
    summary: str
    main: str
    servers: str = ""
    config: str = ""
    after: bool = False


def _kafka_tools() -> list[Tool]:
    servers, command, kafka = "--bootstrap-server", "--command-config", "org.apache.kafka.tools"
    return [
        Tool("topics", "create, describe, alter and delete topics",
             f"{kafka}.TopicCommand", servers, command),
        Tool("configs", "settings of topics, brokers, users and clients at run time",
             "kafka.admin.ConfigCommand", servers, command),
        Tool("acls", "who may do what", "kafka.admin.AclCommand", servers, command),
        Tool("consumer-groups", "list groups, show their lag, reset offsets",
             f"{kafka}.consumer.group.ConsumerGroupCommand", servers, command),
        Tool("console-producer", "send lines of standard input to a topic",
             "kafka.tools.ConsoleProducer", servers, "--producer.config"),
        Tool("console-consumer", "print a topic's records",
             f"{kafka}.consumer.ConsoleConsumer", servers, "--consumer.config"),
        Tool("get-offsets", "first and last offsets of partitions",
             f"{kafka}.GetOffsetShell", servers, command),
        Tool("delete-records", "delete records up to an offset",
             f"{kafka}.DeleteRecordsCommand", servers, command),
        Tool("reassign-partitions", "move replicas between brokers, change replication factors",
             f"{kafka}.reassign.ReassignPartitionsCommand", servers, command),
        Tool("leader-election", "make the preferred replicas leaders again",
             f"{kafka}.LeaderElectionCommand", servers, "--admin.config"),
        Tool("log-dirs", "size of each replica on each broker",
             f"{kafka}.LogDirsCommand", servers, command),
        Tool("transactions", "list, describe and abort transactions",
             f"{kafka}.TransactionsCommand", servers, command),
        Tool("broker-api-versions", "which brokers answer, and what they understand",
             "kafka.admin.BrokerApiVersionsCommand", servers, command),
        Tool("cluster", "the cluster's id: kafka-cli cluster cluster-id",
             f"{kafka}.ClusterTool", servers, "--config", after=True),
        Tool("producer-perf-test", "load of one producer",
             f"{kafka}.ProducerPerformance", config="--producer.config"),
        Tool("consumer-perf-test", "load of one consumer",
             f"{kafka}.ConsumerPerformance", servers, "--consumer.config"),
        Tool("dump-log", "look into segment files of this broker",
             "kafka.tools.DumpLogSegments"),
        Tool("zookeeper-shell", "look into ZooKeeper, in the brokers' folder",
             "org.apache.zookeeper.ZooKeeperMain", "-server"),
        Tool("zookeeper-security-migration", "set ACLs on all of Kafka's nodes in ZooKeeper",
             "kafka.admin.ZkSecurityMigrator", "--zookeeper.connect"),
    ]  # fmt: skip


TOOLS = _kafka_tools()


@dataclass(frozen=True)
class Listener:
    name: str
    comment: str
    client_auth: str
    protocols: Sequence[str]
    store: Store
    rules: Sequence[str]

    @property
    def cipher_suites(self) -> tuple[str, ...]:
        return (*(_TLS13 if "TLSv1.3" in self.protocols else ()),
                *(_TLS12 if "TLSv1.2" in self.protocols else ()))  # fmt: skip


def directories(base_dir: str, data_volumes: Sequence[str] = ()) -> list[ManagedDirectory]:
    """The folders that must be there before the stores are written."""
    layout = Layout(base_dir)
    # What the service could exchange under root's hands is its own alone. It reads its stores and
    # cannot write them, so whoever takes it over can't make it trust others.
    return [
        ManagedDirectory(base_dir, "root", USER, "750"),
        *(ManagedDirectory(path, "root", USER, "750") for path in (layout.root, layout.tls)),
        *(ManagedDirectory(path, USER, USER) for path in (layout.data, layout.logs, layout.tmp)),
        *(ManagedDirectory(mount, "root", USER, "750") for mount in data_volumes),
        *(ManagedDirectory(f"{mount}/kafka", USER, USER) for mount in data_volumes),
        ManagedDirectory("/etc/strongbox", "root", "root", "755"),
        ManagedDirectory(layout.config, "root", USER, "750"),
    ]


def wanted(host: BrokerHost) -> list[ManagedDirectory | ManagedFile]:
    """Folders and files in the order in which they must be written.

    The unit is the last: what it records at a start must not be newer than what the process reads.
    """
    return [
        *directories(host.common.base_dir, host.data_volumes),
        *_tools(host),
        *_configuration(host),
        _unit(host),
    ]


def started_with(host: BrokerHost) -> dict[str, str]:
    """What the running process has to have recorded at its start; otherwise it must restart.

    Beside this the process records ``stores``, to compare with `stores_digest_command`.
    """
    files = [*_configuration(host), _unit(host)]
    text = _record_head(host) + "".join(f"{file.sha256}  {file.path}\n" for file in files)
    return {"config": hashlib.sha256(text.encode()).hexdigest()}


def stores_digest_command(host: BrokerHost) -> str:
    """Shell command that prints one SHA-256 over the store files whose change needs a restart."""
    return f"sha256sum {' '.join(_restart_stores(host))} 2>/dev/null | sha256sum | cut -c1-64"


def stores_digest(host: BrokerHost, sha256: Mapping[str, str]) -> str:
    """The same from the digests of files by path, such as of the ones about to be written."""
    text = "".join(f"{sha256[path]}  {path}\n" for path in _restart_stores(host))
    return hashlib.sha256(text.encode()).hexdigest()


def ready_command(host: BrokerHost) -> str:
    """Shell command, for root, that succeeds once the broker serves on both listeners.

    It shakes hands over TLS and verifies the broker's name; it ends within 5 seconds for each
    listener.
    """
    internal, client = host.stores.internal, host.stores.client
    # The broker has no certificate of a client, so the second handshake is one that the broker
    # ends and logs; it comes once, as the listeners open together.
    return (
        f"{_handshake(host, internal, host.settings.internal_port, _own(internal))} && "
        f"{_handshake(host, client, host.settings.client_port)}"
    )


def answers_command(host: BrokerHost) -> str:
    """Shell command, for root, that succeeds when the broker answers on its INTERNAL listener.

    It ends within 5 seconds, and shows the broker's own certificate, as a handshake that is not
    completed is logged. It verifies nothing: what runs may well have another certificate than the
    one on disk. It succeeds too when the keystore that it needs is not there.
    """
    store, name = host.stores.internal, host.common.hostname
    return (
        f"{{ ! test -s {store.keystore} || timeout {_ANSWER_S} openssl s_client "
        f"-connect {name}:{host.settings.internal_port} -servername {name}{_own(store)} "
        "-no-CAfile -no-CApath -no-CAstore </dev/null >/dev/null 2>&1; }"
    )


def _own(store: Store) -> str:
    own = f" -cert {store.keystore} -key {store.keystore}"
    return f"{own} -pass file:{store.password}" if store.password else own


def _handshake(host: BrokerHost, store: Store, port: int, own: str = "") -> str:
    name = host.common.hostname
    ask = (
        f"timeout {_ANSWER_S} openssl s_client -connect {name}:{port} -servername {name} "
        f"-verify_return_error -verify_hostname {name}{own}"
    )
    if not store.password:
        return f"{ask} -CAfile {store.truststore} </dev/null >/dev/null 2>&1"
    # s_client reads no PKCS#12 truststore, so the authorities come through a pipe, never a file.
    secret = f"file:{store.password}"
    trusted = f"openssl pkcs12 -in {store.truststore} -nokeys -passin {secret} 2>/dev/null"
    return f"{trusted} | {ask} -CAfile /dev/fd/3 3<&0 </dev/null >/dev/null 2>&1"


def _restart_stores(host: BrokerHost) -> list[str]:
    # Not the one for ZooKeeper: that connection reads its stores anew each time it is made.
    return [
        path
        for store in (host.stores.internal, host.stores.client)
        for path in (store.keystore, store.truststore, store.password)
        if path
    ]


def _listeners(host: BrokerHost) -> list[Listener]:
    cluster, settings = host.common.cluster, host.settings
    # A certificate's name as Java prints it (RFC 2253), matched as a whole. No special character
    # is let through, so no name can hold a second part or the '@' of a super user.
    name = "[A-Za-z0-9._-]+"
    return [
        Listener(
            "internal",
            "Brokers and operators: certificates of the cluster's own authority.",
            "required",
            ("TLSv1.3",),
            host.stores.internal,
            (
                f"RULE:^CN={name},OU=brokers,O={cluster}$/{BROKER_PRINCIPAL}/",
                f"RULE:^CN=({name}),OU=operators,O={cluster}$/$1@operators/",
            ),
        ),
        Listener(
            "client",
            "Applications: certificates of the clients' authority.",
            settings.client_auth,
            settings.client_tls_protocols,
            host.stores.client,
            (f"RULE:^CN=({name}),OU=clients,O={cluster}$/$1/",),
        ),
    ]


def _configuration(host: BrokerHost) -> list[ManagedFile]:
    """Files whose change needs a restart, without the unit."""
    config = host.layout.config
    return [
        ManagedFile(f"{config}/{name}", _render(f"{name}.j2", host), "root", USER)
        for name in ("log4j.properties", "server.properties")
    ]


def _tools(host: BrokerHost) -> list[ManagedFile]:
    config = host.layout.config
    return [
        *(
            ManagedFile(f"{config}/{name}", _render(f"{name}.j2", host), "root", USER)
            for name in ("cli-log4j.properties", "cli.properties")
        ),
        ManagedFile(CLI, _render("kafka-cli.j2", host, tools=TOOLS), "root", "root", "755"),
    ]


def _bootstrap(host: BrokerHost) -> list[str]:
    """This broker first; the others, so that the tools work while this one is down."""
    own = f"{host.common.hostname}:{host.settings.internal_port}"
    return [own, *sorted(set(host.brokers) - {own})]


def _zookeeper_connect(host: BrokerHost) -> str:
    return ",".join(sorted(host.zookeepers)) + CHROOT


def _zookeeper_client(host: BrokerHost) -> dict[str, str]:
    """ZooKeeper's own properties for tools; Kafka's file for it would hold a password."""
    store = host.stores.zookeeper
    return {
        "client.secure": "true",
        "clientCnxnSocket": "org.apache.zookeeper.ClientCnxnSocketNetty",
        "ssl.protocol": "TLSv1.3",
        "ssl.keyStore.type": _store_type(store),
        "ssl.keyStore.location": store.keystore,
        "ssl.trustStore.type": _store_type(store),
        "ssl.trustStore.location": store.truststore,
        **_zookeeper_passwords(host),
    }


def _zookeeper_passwords(host: BrokerHost) -> dict[str, str]:
    """Paths from which ZooKeeper's client reads passwords each time it connects.

    Kafka's own setting for it is read once, so a new store with a new password would cut every
    broker off at its next reconnection.
    """
    path = host.stores.zookeeper.password
    return {f"ssl.{kind}.passwordPath": path for kind in ("keyStore", "trustStore") if path}


def _store_type(store: Store) -> str:
    return "PKCS12" if store.password else "PEM"


def _unit(host: BrokerHost) -> ManagedFile:
    files = " ".join([*(file.path for file in _configuration(host)), UNIT])
    record = (
        f"/bin/sh -c 'umask 077; {{ echo {_record_head(host).strip()}; sha256sum {files}; }} "
        '| sha256sum | sed "s/ .*//; s/^/config /" >/run/strongbox-kafka/started-with; '
        f'echo "stores $({stores_digest_command(host)})" >>/run/strongbox-kafka/started-with\''
    )
    # systemd would take $( for one of its own variables.
    record = record.replace("$", "$$")
    return ManagedFile(
        UNIT, _render("kafka.service.j2", host, record=record), "root", "root", "644"
    )


def _record_head(host: BrokerHost) -> str:
    # The unit is hashed twice: as a file, and as what systemd has loaded, which is another while
    # daemon-reload is due. A digest can't contain itself, so this one is of the unit without it.
    loaded = _render("kafka.service.j2", host, record="")
    return f"unit {hashlib.sha256(loaded).hexdigest()}\n"


def _property_value(value: str) -> str:
    """Escaped for a Java properties file."""
    escaped = value.replace("\\", "\\\\")
    return f"\\{escaped}" if escaped.startswith(" ") else escaped


def _reference(store: Store) -> str:
    path = PurePosixPath(store.password)
    return f"${{dir:{path.parent}:{path.name}}}"


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters["property_value"] = _property_value


def _render(template: str, host: BrokerHost, **more: Any) -> bytes:
    text = _TEMPLATES.get_template(template).render(
        settings=host.settings,
        cluster=host.common.cluster,
        hostname=host.common.hostname,
        java=host.common.java,
        layout=host.layout,
        log_dirs=host.log_dirs,
        writable=[host.layout.root, *host.data_volumes],
        guard=host.guard,
        listeners=_listeners(host),
        stores=host.stores,
        store_type=_store_type(host.stores.internal),
        reference=_reference,
        super_users=host.settings.super_user_principals,
        bootstrap=_bootstrap(host),
        zookeeper_connect=_zookeeper_connect(host),
        zookeeper_client=_zookeeper_client(host),
        zookeeper_passwords=_zookeeper_passwords(host),
        providers=_PROVIDER,
        stop_timeout_s=300,
        software=host.software,
        user=USER,
        **more,
    )
    return text.encode()
