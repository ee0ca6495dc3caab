"""Settings of a ZooKeeper server, and what cannot work across the ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from roles.common import jvm
from roles.common.archive import check_digest, check_source
from roles.common.settings import Port, RoleSettings

_LEAST_HEAP_MIB = 128
# The fewest snapshots that ZooKeeper itself keeps; it corrects smaller numbers with a warning.
_LEAST_SNAPSHOTS = 3


def _purge_interval(value: int) -> int:
    if value < 1:
        raise ValueError(
            "must be at least 1: with 0 old snapshots are never removed, and secrets that were "
            "deleted from ZooKeeper stay readable in them"
        )
    return value


def _snapshots(value: int) -> int:
    if value < _LEAST_SNAPSHOTS:
        raise ValueError(f"must be at least {_LEAST_SNAPSHOTS}, as ZooKeeper keeps no fewer")
    return value


class ZookeeperSettings(RoleSettings):
    prefix: ClassVar[str] = "zookeeper"

    id: Annotated[int, Field(ge=1, le=255)] = Field(
        description="Number of this server in the ensemble, 1 to 255, different on each. It is "
        "part of the ensemble's memory: keep it. Only a host that replaces a lost server gets its "
        "id."
    )
    client_port: Port = Field(default=2182, description="Port for brokers; mutual TLS 1.3 only.")
    quorum_port: Port = Field(
        default=2888, description="Port on which the leader serves the others; mutual TLS 1.3."
    )
    election_port: Port = Field(
        default=3888, description="Port for the election of the leader; mutual TLS 1.3."
    )
    heap: Annotated[str, AfterValidator(jvm.heap(_LEAST_HEAP_MIB))] = Field(
        default="512m", description="Java heap, such as 512m or 2g."
    )
    tick_time_ms: Annotated[int, Field(ge=500, le=10_000)] = Field(
        default=2000, description="ZooKeeper's unit of time, in milliseconds; the same everywhere."
    )
    init_limit: Annotated[int, Field(ge=2, le=600)] = Field(
        default=10, description="Ticks that a follower has to load the leader's state at its start."
    )
    sync_limit: Annotated[int, Field(ge=2, le=600)] = Field(
        default=5, description="Ticks that a follower may lag before the leader drops it."
    )
    snap_retain_count: Annotated[int, AfterValidator(_snapshots)] = Field(
        default=3, description="Snapshots to keep, at least 3."
    )
    purge_interval_hours: Annotated[int, AfterValidator(_purge_interval)] = Field(
        default=1,
        description="Hours between removals of older snapshots, at least 1. What was deleted from "
        "ZooKeeper stays readable in snapshots until then.",
    )
    max_client_connections: Annotated[int, Field(ge=1)] = Field(
        default=60, description="Connections that one client address may hold."
    )
    audit: bool = Field(
        default=False,
        description="Write an audit log: who changed or was refused which node, without data.",
    )
    quorum_reverse_dns: bool = Field(
        default=False,
        description="Weaker: a member that connects may be known by the name that reverse DNS "
        "gives for its address, instead of by common_addresses in its certificate.",
    )
    archive: Annotated[str, AfterValidator(check_source)] = Field(
        description="Archive with libs/ of Kafka and ZooKeeper: a path on the controller, or an "
        "https URL that each host fetches."
    )
    archive_sha512: Annotated[str, AfterValidator(check_digest)] | None = Field(
        default=None,
        description="SHA-512 of the archive: 128 hex digits, or a file in the format of sha512sum "
        "or of Apache's .sha512. When not set, the file beside the archive.",
    )
    start_timeout_s: Annotated[int, Field(ge=10, le=3600)] = Field(
        default=120,
        description="Seconds after which a server that was started counts as not coming back.",
    )
    jvm_options: Annotated[tuple[str, ...], AfterValidator(jvm.options)] = Field(
        default=(),
        strict=False,
        description="More options for Java. Those that open a port, write memory to disk or change "
        "TLS are refused, and so are agents.",
    )

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        ports = (self.client_port, self.quorum_port, self.election_port)
        if len(set(ports)) < len(ports):
            raise ValueError(
                "zookeeper_client_port, zookeeper_quorum_port and zookeeper_election_port must "
                "differ"
            )
        return self


# A member that disagrees on one of these can't join, or measures time by another clock.
_ENSEMBLE_WIDE = (
    "client_port",
    "quorum_port",
    "election_port",
    "tick_time_ms",
    "init_limit",
    "sync_limit",
    "quorum_reverse_dns",
)


def problems(
    hosts: Mapping[str, ZookeeperSettings],
    addresses: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """What cannot work across the ensemble's *hosts*, one line each.

    :param addresses: ``common_addresses`` of each host; when given, they are checked too. An
        ensemble of one is accepted: it suits a trial, as the loss of its host loses everything.
    """
    found = _duplicate_ids(hosts)
    if hosts and len(hosts) % 2 == 0:
        found.append(
            f"the ensemble has an even number of servers ({len(hosts)}): it survives no more "
            f"losses than {len(hosts) - 1} would, so use an odd number"
        )
    for field in _ENSEMBLE_WIDE:
        by_value: dict[object, str] = {}
        for host, settings in hosts.items():
            by_value.setdefault(getattr(settings, field), host)
        if len(by_value) > 1:
            first, second = list(by_value.values())[:2]
            found.append(
                f"zookeeper_{field} differs between {first} and {second}: set it once for the "
                "group zookeepers"
            )
    for host, settings in hosts.items():
        if addresses is None or settings.quorum_reverse_dns or len(hosts) == 1:
            continue
        if not addresses.get(host):
            found.append(
                f"{host}: common_addresses is empty: the other members see a connection's address "
                "only, so its certificate must name that; list the addresses it connects from"
            )
    return found


def _duplicate_ids(hosts: Mapping[str, ZookeeperSettings]) -> list[str]:
    owner: dict[int, str] = {}
    found = []
    for host, settings in hosts.items():
        if settings.id in owner:
            found.append(f"zookeeper_id: {owner[settings.id]} and {host} both have {settings.id}")
        owner.setdefault(settings.id, host)
    return found
