"""What each role is told of a host: the declared cluster, put into the roles' own words.

This is the only place where one role's facts become another's arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

from roles.common import archive
from roles.common.archive import Archive, ArchiveError
from roles.common.deploy import HostBase
from roles.common.guard import UnitGuard
from roles.common.settings import SettingsError
from roles.custody.build import custody
from roles.custody.protocol import Custody
from roles.custody.settings import CustodySettings
from roles.ebs.host import EbsHost, Mount
from roles.kafka import files as kafka_files
from roles.kafka.files import BrokerHost
from roles.tls import leaf, stores
from roles.tls.deploy import stores_due, stores_usable
from roles.tls.plan import HostCertificates
from roles.volumes import files as volumes_files
from roles.volumes.boot import files as boot_files
from roles.volumes.boot.files import KeyService
from roles.volumes.files import VolumesHost
from roles.volumes.keys.host import HostKeys, host_keys
from roles.volumes.operations import was_closed
from roles.zookeeper import files as zookeeper_files
from roles.zookeeper.files import ZookeeperHost
from strongbox.cluster import Cluster, Node


@dataclass(frozen=True)
class HostSite:
    """Everything `deploys/site.py` hands to the roles for one host."""

    base: HostBase
    key_service: KeyService | None
    certificates: HostCertificates
    archive: Archive
    zookeeper: ZookeeperHost | None
    broker: BrokerHost | None
    ensemble: Mapping[str, ZookeeperHost]
    brokers: Mapping[str, BrokerHost]
    volumes: VolumesHost
    all_volumes: Mapping[str, VolumesHost]
    keys: HostKeys
    was_closed: Callable[[str], bool]
    stores_due: Callable[[str], bool]
    stores_usable: Callable[[str], bool]


def site(cluster: Cluster, name: str) -> HostSite:
    """
    :raises SettingsError: when an archive or its digest cannot be found.
    """
    node = cluster.nodes[name]
    ensemble = {item: _zookeeper(cluster, cluster.nodes[item]) for item in cluster.zookeepers}
    brokers = {item: _broker(cluster, cluster.nodes[item]) for item in cluster.brokers}
    all_volumes = {other: _volumes(cluster, item) for other, item in cluster.nodes.items()}
    return HostSite(
        base=_base(cluster, node, ensemble.get(name), brokers.get(name)),
        key_service=_key_service(node),
        certificates=_certificates(cluster, node),
        archive=_archive(node),
        zookeeper=ensemble.get(name),
        broker=brokers.get(name),
        ensemble=ensemble,
        brokers=brokers,
        volumes=_volumes(cluster, node),
        all_volumes=all_volumes,
        keys=_keys(cluster, node),
        was_closed=lambda other: was_closed(other, all_volumes),
        stores_due=partial(_ask, stores_due, cluster),
        stores_usable=partial(_ask, stores_usable, cluster),
    )


def volume_keys(cluster: Cluster) -> dict[str, HostKeys]:
    """The keys of every host's LUKS volumes, by host name."""
    return {name: _keys(cluster, node) for name, node in cluster.nodes.items()}


def _keys(cluster: Cluster, node: Node) -> HostKeys:
    return host_keys(
        cluster.name,
        node.common.hostname,
        node.volumes,
        partial(_custody, node.custody),
        node.custody.records_dir,
    )


def _ask(question: Callable[[str, HostCertificates], bool], cluster: Cluster, name: str) -> bool:
    return question(name, _certificates(cluster, cluster.nodes[name]))


def _archive(node: Node) -> Archive:
    role = node.zookeeper or node.kafka
    if role is None:
        raise SettingsError(f"{node.name}: has no role")
    try:
        return archive.resolve(role.archive, role.archive_sha512)
    except ArchiveError as error:
        raise SettingsError(f"{node.name}: {error}") from None


def archive_problems(cluster: Cluster) -> list[str]:
    """Archives and digests that cannot be found on the controller, one line each."""
    hosts: dict[str, list[str]] = {}
    for name, node in cluster.nodes.items():
        try:
            _archive(node)
        except SettingsError as error:
            role = "zookeeper" if node.zookeeper else "kafka"
            problem = f"{role}_archive: {str(error).removeprefix(f'{name}: ')}"
            hosts.setdefault(problem, []).append(name)
    return [f"{', '.join(names)}: {problem}" for problem, names in hosts.items()]


def _base(
    cluster: Cluster, node: Node, zookeeper: ZookeeperHost | None, broker: BrokerHost | None
) -> HostBase:
    role = zookeeper_files if node.zookeeper else kafka_files
    directories = (
        kafka_files.directories(node.common.base_dir, _data_volumes(node))
        if node.kafka
        else zookeeper_files.directories(node.common.base_dir)
    )
    wanted = [
        *directories,
        *(zookeeper_files.wanted(zookeeper) if zookeeper else ()),
        *(kafka_files.wanted(broker) if broker else ()),
        *(() if node.volumes.unencrypted else volumes_files.wanted(_volumes(cluster, node))),
    ]
    service = _key_service(node)
    if service:
        wanted += boot_files.wanted(service)
    paths = dict.fromkeys([*(item.path for item in wanted), *boot_files.STATE_PATHS])
    packages = [
        *node.common.packages,
        *volumes_files.packages(node.volumes),
        *(boot_files.PACKAGES if service else ()),
    ]
    return HostBase(
        packages=list(dict.fromkeys(packages)),
        accounts=(role.USER,),
        directories=directories,
        paths=[*paths, _archive(node).libs],
    )


def _key_service(node: Node) -> KeyService | None:
    """None on a host that does not open its volumes by itself."""
    volumes = [name for name, volume in node.volumes.layout.items() if volume.encryption == "luks"]
    if node.volumes.unlock != "boot" or not volumes:
        return None
    return KeyService(
        cluster=node.common.cluster,
        host=node.common.hostname,
        volumes=volumes,
        kms_key=node.custody.kms_key,
        kms_old_keys=node.custody.kms_old_keys,
        kms_endpoint=node.custody.kms_endpoint,
        imds_endpoint=node.volumes.unlock_imds,
    )


def _paths(node: Node, folder: str, store: str) -> stores.StorePaths:
    return stores.paths(f"{folder}/{store}", node.tls.store_type)


def _zookeeper(cluster: Cluster, node: Node) -> ZookeeperHost:
    assert node.zookeeper is not None
    layout = zookeeper_files.Layout(node.common.base_dir)
    return ZookeeperHost(
        settings=node.zookeeper,
        common=node.common,
        members={
            item.zookeeper.id: item.common.hostname
            for item in cluster.zookeepers.values()
            if item.zookeeper
        },
        store=_paths(node, layout.tls, zookeeper_files.STORE),
        software=_archive(node).directory,
        guard=_guard(cluster, node, layout.root, layout.data, layout.logs, layout.tmp, layout.tls),
    )


@cache
def _custody(settings: CustodySettings) -> Custody:
    """One for all hosts, as it reads an operator's identity once."""
    return custody(settings)


def _volumes(cluster: Cluster, node: Node) -> VolumesHost:
    return VolumesHost(
        cluster=cluster.name,
        hostname=node.common.hostname,
        base_dir=node.common.base_dir,
        settings=node.volumes,
        custody=partial(_custody, node.custody),
        ours=cluster.known_volumes,
        unit="zookeeper" if node.zookeeper else "kafka",
    )


def _guard(cluster: Cluster, node: Node, *folders: str) -> UnitGuard | None:
    if node.volumes.unencrypted:
        return None
    return UnitGuard(*volumes_files.guard(_volumes(cluster, node), folders))


def _data_volumes(node: Node) -> list[str]:
    base_dir = node.common.base_dir
    return [node.volumes.mount_point(name, base_dir) for name in node.volumes.data_volumes]


def _broker(cluster: Cluster, node: Node) -> BrokerHost:
    assert node.kafka is not None
    layout = kafka_files.Layout(node.common.base_dir)
    tls = layout.tls
    return BrokerHost(
        settings=node.kafka,
        common=node.common,
        zookeepers=[
            f"{item.common.hostname}:{item.zookeeper.client_port}"
            for item in cluster.zookeepers.values()
            if item.zookeeper
        ],
        brokers=[
            f"{item.common.hostname}:{item.kafka.internal_port}"
            for item in cluster.brokers.values()
            if item.kafka
        ],
        stores=kafka_files.Stores(
            internal=_paths(node, tls, "internal"),
            client=_paths(node, tls, "client"),
            zookeeper=_paths(node, tls, "zookeeper"),
        ),
        software=_archive(node).directory,
        guard=_guard(cluster, node, layout.root, layout.data, layout.logs, layout.tmp, layout.tls,
                     *(f"{mount}/kafka" for mount in _data_volumes(node))),
        data_volumes=_data_volumes(node),
    )  # fmt: skip


def _certificates(cluster: Cluster, node: Node) -> HostCertificates:
    common, key_type = node.common, node.tls.key_type
    name, addresses = common.hostname, common.addresses
    if node.zookeeper:
        tls = zookeeper_files.Layout(common.base_dir).tls
        specs = {
            f"{tls}/{zookeeper_files.STORE}": leaf.zookeeper_server(
                cluster.name, name, addresses, key_type
            )
        }
        return HostCertificates(cluster.name, node.tls, zookeeper_files.USER, specs)
    tls = kafka_files.Layout(common.base_dir).tls
    advertised = node.kafka.client_advertised_name if node.kafka else None
    extra = (*([advertised] if advertised else []), *node.tls.extra_names)
    specs = {
        f"{tls}/internal": leaf.broker_internal(cluster.name, name, addresses, key_type),
        f"{tls}/client": leaf.broker_client_listener(
            cluster.name, name, addresses, extra, key_type
        ),
        f"{tls}/zookeeper": leaf.broker_zookeeper_client(cluster.name, key_type),
    }
    return HostCertificates(cluster.name, node.tls, kafka_files.USER, specs)


def ebs_hosts(cluster: Cluster) -> dict[str, EbsHost]:
    """The hosts with EBS volumes, by the inventory's names."""
    return {
        name: EbsHost(
            cluster=cluster.name,
            hostname=node.common.hostname,
            settings=node.ebs,
            mounts={
                volume: Mount(
                    device=item.device,
                    target=node.volumes.mount_point(volume, node.common.base_dir),
                    filesystem=item.filesystem,
                    luks=item.encryption == "luks",
                )
                for volume, item in node.volumes.layout.items()
            },
            unit="zookeeper" if node.zookeeper else "kafka",
        )
        for name, node in cluster.nodes.items()
        if node.ebs.instance
    }
