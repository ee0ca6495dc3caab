"""The declared cluster: every host's settings, typed and checked together.

Pure: works on plain mappings, so the whole declaration is checked before any host is contacted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from roles.common.host_settings import CommonSettings
from roles.common.settings import RoleSettings, SettingsError, unknown_keys
from roles.custody.settings import CustodySettings
from roles.ebs import settings as ebs_settings
from roles.ebs.settings import EbsSettings
from roles.kafka import settings as kafka_settings
from roles.kafka.settings import KafkaSettings
from roles.tls import settings as tls_settings
from roles.tls.settings import TlsSettings
from roles.volumes.files import known_volumes
from roles.volumes.names import MAIN
from roles.volumes.settings import VolumesSettings
from roles.zookeeper import settings as zookeeper_settings
from roles.zookeeper.settings import ZookeeperSettings

ZOOKEEPERS = "zookeepers"
BROKERS = "brokers"
ROLES: tuple[type[RoleSettings], ...] = (
    CommonSettings,
    CustodySettings,
    VolumesSettings,
    EbsSettings,
    TlsSettings,
    ZookeeperSettings,
    KafkaSettings,
)


@dataclass(frozen=True)
class Node:
    """One host: what it is called, where it is reached, and the settings of each of its roles."""

    name: str
    common: CommonSettings
    custody: CustodySettings
    volumes: VolumesSettings
    ebs: EbsSettings
    tls: TlsSettings
    zookeeper: ZookeeperSettings | None
    kafka: KafkaSettings | None


@dataclass(frozen=True)
class Cluster:
    nodes: Mapping[str, Node]

    @property
    def name(self) -> str:
        return next(iter(self.nodes.values())).common.cluster

    @property
    def zookeepers(self) -> dict[str, Node]:
        return {name: node for name, node in self.nodes.items() if node.zookeeper is not None}

    @cached_property
    def known_volumes(self) -> dict[str, str]:
        """See `roles.volumes.files.known_volumes`. Made once, as every host's volumes need it."""
        return known_volumes(
            self.name, {node.common.hostname: node.volumes for node in self.nodes.values()}
        )

    @property
    def brokers(self) -> dict[str, Node]:
        return {name: node for name, node in self.nodes.items() if node.kafka is not None}


@dataclass(frozen=True)
class Declared:
    """A host as the inventory has it."""

    groups: Collection[str]
    data: Mapping[str, Any]


def load(hosts: Mapping[str, Declared], connector_keys: Collection[str] = ()) -> Cluster:
    """Checks all settings of all hosts and how they fit together.

    :param connector_keys: keys that belong to pyinfra's connectors, such as ``ssh_user``.
    :raises SettingsError: with one line for each problem.
    """
    problems: list[str] = []
    nodes: dict[str, Node] = {}
    for name, declared in sorted(hosts.items()):
        in_zookeepers, in_brokers = ZOOKEEPERS in declared.groups, BROKERS in declared.groups
        if not (in_zookeepers or in_brokers):
            problems.append(f"{name}: is in neither group {ZOOKEEPERS!r} nor {BROKERS!r}")
            continue
        if in_zookeepers and in_brokers:
            problems.append(
                f"{name}: is in both groups, {ZOOKEEPERS!r} and {BROKERS!r}: a broker's load would "
                "stall the ensemble, so give each its own host"
            )
            continue
        problems += unknown_keys(declared.data, ROLES, connector_keys, name)
        try:
            nodes[name] = _node(name, declared.data, in_zookeepers)
        except SettingsError as error:
            problems += str(error).splitlines()
    if not problems:
        problems = _across(Cluster(nodes))
    if problems:
        raise SettingsError("\n".join(dict.fromkeys(problems)))
    return Cluster(nodes)


def _node(name: str, data: Mapping[str, Any], is_zookeeper: bool) -> Node:
    problems: list[str] = []
    loaded: dict[type[RoleSettings], Any] = {}
    role = ZookeeperSettings if is_zookeeper else KafkaSettings
    for settings in (
        CommonSettings,
        CustodySettings,
        VolumesSettings,
        EbsSettings,
        TlsSettings,
        role,
    ):
        try:
            loaded[settings] = settings.load(data, name)
        except SettingsError as error:
            problems += str(error).splitlines()
    if problems:
        raise SettingsError("\n".join(problems))
    return Node(
        name,
        loaded[CommonSettings],
        loaded[CustodySettings],
        loaded[VolumesSettings],
        loaded[EbsSettings],
        loaded[TlsSettings],
        loaded.get(ZookeeperSettings),
        loaded.get(KafkaSettings),
    )


def _across(cluster: Cluster) -> list[str]:
    problems = []
    if len({node.common.cluster for node in cluster.nodes.values()}) > 1:
        names = sorted({node.common.cluster for node in cluster.nodes.values()})
        problems.append(f"common_cluster differs between hosts ({', '.join(names)})")
    for field in ("store_type", "key_type"):
        if len({str(getattr(node.tls, field)) for node in cluster.nodes.values()}) > 1:
            problems.append(f"tls_{field} differs between hosts: set it for all of them")
    problems += _custody(cluster)
    problems += ebs_settings.problems(
        {name: node.ebs for name, node in cluster.nodes.items()},
        next(iter(cluster.nodes.values())).custody.kms_key,
    )
    problems += _duplicates(
        "common_hostname", {name: [node.common.hostname] for name, node in cluster.nodes.items()}
    )
    problems += _duplicates(
        "common_addresses",
        {name: list(node.common.addresses) for name, node in cluster.nodes.items()},
    )
    problems += tls_settings.problems(
        {name: node.tls for name, node in cluster.nodes.items()},
        {name: node.common.hostname for name, node in cluster.nodes.items()},
    )
    if not cluster.zookeepers:
        problems.append(f"group {ZOOKEEPERS!r} has no host")
    problems += zookeeper_settings.problems(
        {name: node.zookeeper for name, node in cluster.nodes.items() if node.zookeeper},
        {name: node.common.addresses for name, node in cluster.zookeepers.items()},
    )
    problems += kafka_settings.problems(
        {name: node.kafka for name, node in cluster.nodes.items() if node.kafka}
    )
    return problems


def _custody(cluster: Cluster) -> list[str]:
    """One custody for the whole cluster, what the volumes need of it, and their mount points."""
    problems = []
    if len({node.custody for node in cluster.nodes.values()}) > 1:
        problems.append("custody_… settings differ between hosts: set them for all of them")
    for name, node in cluster.nodes.items():
        luks = any(item.encryption == "luks" for item in node.volumes.layout.values())
        custody = node.custody
        mounts = node.volumes.mount_problems(node.common.base_dir)
        problems += [f"{name}: {problem}" for problem in mounts]
        if luks and custody.kind == "local" and not custody.recipients:
            problems.append(
                f"{name}: custody_recipients: nobody could unlock {MAIN!r}: name the age "
                "recipients (`strongbox custody init` makes one)"
            )
        if luks and node.volumes.unlock == "boot" and custody.kind == "local":
            problems.append(
                f"{name}: volumes_unlock = 'boot' needs a key service that the host can ask: set "
                "custody_kind = 'aws-kms'"
            )
    return problems


def _duplicates(key: str, values: Mapping[str, list[str]]) -> list[str]:
    owner: dict[str, str] = {}
    problems = []
    for name, items in values.items():
        for item in items:
            if item in owner:
                problems.append(f"{key}: {owner[item]} and {name} both have {item}")
            owner.setdefault(item, name)
    return problems
