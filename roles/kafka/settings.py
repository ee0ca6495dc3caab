"""Settings of a broker, and what cannot work across the cluster."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from roles.common import jvm
from roles.common.archive import check_digest, check_source
from roles.common.settings import Hostname, Port, RoleSettings

BROKER_PRINCIPAL = "broker@cluster"
ADMIN_PRINCIPAL = "admin@operators"
PROTOCOLS = ("TLSv1.3", "TLSv1.2")

_LEAST_HEAP_MIB = 256

# Names of all broker settings of this Kafka release, to catch a misspelt one: Kafka ignores it.
_BROKER_CONFIGS = frozenset(
    (Path(__file__).parent / "templates" / "broker-configs.txt").read_text().split()
)
# Checked in this order; a key that the role renders itself is refused even if it would agree.
_CONFIG_REFUSED = (
    (r"default\.replication\.factor", "set kafka_default_replication_factor"),
    (r"(offsets\.topic|transaction\.state\.log)\.replication\.factor",
     "it follows kafka_default_replication_factor"),
    (r"min\.insync\.replicas", "set kafka_min_insync_replicas"),
    (r"transaction\.state\.log\.min\.isr", "it follows kafka_min_insync_replicas"),
    (r"broker\.id.*|node\.id|reserved\.broker\.max\.id", "set kafka_broker_id"),
    (r"super\.users", "set kafka_super_users"),
    (r"(advertised\.)?listeners|listener\.security\.protocol\.map|inter\.broker\.listener\.name"
     r"|security\.inter\.broker\.protocol|control\.plane\.listener\.name|early\.start\.listeners",
     "the listeners are fixed, so that none without TLS can be added"),
    (r"(.*\.)?ssl\..*", "TLS is the role's: see kafka_client_auth and kafka_client_tls_protocols"),
    (r"listener\.name\..*", "the listeners are the role's"),
    (r"(.*\.)?sasl\..*|security\..*|principal\.builder\.class|connections\.max\.reauth\.ms",
     "who is who follows from certificates only"),
    (r"authorizer\..*|allow\.everyone\.if\.no\.acl\.found|early\.start.*",
     "nothing may be allowed by default"),
    (r"zookeeper\.(?!session\.timeout\.ms|connection\.timeout\.ms|max\.in\.flight\.requests).*",
     "the connection to ZooKeeper is the role's"),
    (r"log\.dirs?|metadata\.log\.dir", "data lies in common_base_dir, on the encrypted volume"),
    (r"password\.encoder\..*|delegation\.token\..*", "a secret must not stand in a setting"),
    (r"config\.providers.*", "they read the passwords of key stores"),
    (r"remote\.log\..*", "tiered storage takes data off the encrypted volume, and Kafka 3.9.2 "
     "logs the passwords of its clients"),
    (r"process\.roles|controller\.(quorum|listener)\..*", "this cluster is ZooKeeper's"),
    (r"controlled\.shutdown\..*", "a rolling restart needs it as it is"),
    (r"unclean\.leader\.election\.enable", "an unclean leader loses acknowledged data; a topic can "
     "still set it for itself"),
    (r"auto\.create\.topics\.enable", "a misspelt topic would be created with default settings"),
    (r".*(password|secret|credential|jaas).*", "a secret must not stand in a setting"),
)  # fmt: skip


def _protocols(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if re.fullmatch(r"SSL.*|TLS|TLSv1(\.1)?", value):
            raise ValueError(f"{value} is refused: its weaknesses are known; use TLSv1.3, TLSv1.2")
        if value not in PROTOCOLS:
            raise ValueError("must be TLSv1.3 or TLSv1.2, or both")
    if not values:
        raise ValueError("is empty: there would be no way to connect")
    # The strongest first, however it was written.
    return tuple(protocol for protocol in PROTOCOLS if protocol in values)


def _config_values(value: object) -> object:
    """Numbers and yes/no as Kafka writes them; everything else is left to the type check."""
    if not isinstance(value, dict):
        return value
    return {
        key: str(item).lower() if isinstance(item, bool) else str(item) if isinstance(item, int)
        else item for key, item in value.items()
    }  # fmt: skip


def _config(values: dict[str, str]) -> dict[str, str]:
    for key, value in values.items():
        for pattern, reason in _CONFIG_REFUSED:
            if re.fullmatch(pattern, key):
                raise ValueError(f"{key} is refused: {reason}")
        if key not in _BROKER_CONFIGS:
            close = difflib.get_close_matches(key, _BROKER_CONFIGS, n=1, cutoff=0.6)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{key[:60]!r} is not a setting of a broker{hint}")
        if not value.isprintable() or not value.isascii() or value != value.strip():
            raise ValueError(f"the value of {key} has line breaks, outer blanks or odd characters")
        if "${" in value:
            raise ValueError(f"the value of {key} refers to a secret, which is not supported here")
    return values


def _super_users(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not re.fullmatch(r"[A-Za-z0-9._-]+@operators", value):
            raise ValueError(
                f"{value[:60]!r} is not NAME@operators: only holders of an operator's certificate "
                "can be super users, and such names cannot be had by clients"
            )
    return values


class KafkaSettings(RoleSettings):
    prefix: ClassVar[str] = "kafka"

    broker_id: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(
        description="Number of this broker, different on each. Its data carries it, so it cannot "
        "change later."
    )
    internal_port: Port = Field(
        default=9093,
        description="Port of the INTERNAL listener: brokers and operators, mutual TLS 1.3.",
    )
    client_port: Port = Field(
        default=9094, description="Port of the CLIENT listener: applications, TLS."
    )
    client_auth: Literal["required", "none"] = Field(
        default="required",
        description="Whether applications must show a certificate. With none, weaker, they are "
        "encrypted but all the same user, ANONYMOUS.",
    )
    client_advertised_name: Hostname | None = Field(
        default=None,
        description="Name under which applications reach this broker, when it is not "
        "common_hostname. The certificate of the CLIENT listener names it too.",
    )
    client_advertised_port: Port | None = Field(
        default=None,
        description="Port under which applications reach this broker, when it is not "
        "kafka_client_port.",
    )
    client_tls_protocols: Annotated[tuple[str, ...], AfterValidator(_protocols)] = Field(
        default=PROTOCOLS,
        strict=False,
        description="TLS versions of the CLIENT listener; all other connections are TLS 1.3.",
    )
    super_users: Annotated[tuple[str, ...], AfterValidator(_super_users)] = Field(
        default=(),
        strict=False,
        description=f"More super users beside the brokers and {ADMIN_PRINCIPAL}, as "
        "NAME@operators for the holder of the operator's certificate NAME.",
    )
    heap: Annotated[str, AfterValidator(jvm.heap(_LEAST_HEAP_MIB))] = Field(
        default="1g", description="Java heap, such as 1g or 6g."
    )
    default_replication_factor: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3,
        description="Copies of a new topic's partitions, and of Kafka's internal topics.",
    )
    min_insync_replicas: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2,
        description="Copies that must have a record before acks=all is answered. Less than "
        "kafka_default_replication_factor, or no broker could restart without refusing writes.",
    )
    allow_acks_from_one_copy: bool = Field(
        default=False,
        description="Weaker: permits kafka_min_insync_replicas = 1, so that a record may be "
        "acknowledged while only one broker has it.",
    )
    allow_unsafe_restart: bool = Field(
        default=False,
        description="Weaker: restarts brokers even if partitions then have fewer in-sync replicas "
        "than min.insync.replicas or none at all. For one run: "
        "--data kafka_allow_unsafe_restart=True",
    )
    start_timeout_s: Annotated[int, Field(ge=10, le=86_400)] = Field(
        default=300,
        description="Seconds after which a broker that was started counts as not coming back. "
        "After a crash it checks its log segments first.",
    )
    archive: Annotated[str, AfterValidator(check_source)] = Field(
        description="Archive with libs/ of Kafka, laid out like Apache's: a path on the "
        "controller, or an https URL that each host fetches."
    )
    archive_sha512: Annotated[str, AfterValidator(check_digest)] | None = Field(
        default=None,
        description="SHA-512 of the archive: 128 hex digits, or a file in the format of sha512sum "
        "or of Apache's .sha512. When not set, the file beside the archive.",
    )
    jvm_options: Annotated[tuple[str, ...], AfterValidator(jvm.options)] = Field(
        default=(),
        strict=False,
        description="More options for Java. Those that open a port, write memory to disk or change "
        "TLS are refused, and so are agents.",
    )
    config: Annotated[dict[str, str], BeforeValidator(_config_values), AfterValidator(_config)] = (
        Field(
            default={},
            description="More broker settings by their Kafka names, such as "
            '{"log.retention.hours": 72}. Unknown ones and those that the role owns are refused.',
        )
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.internal_port == self.client_port:
            raise ValueError("kafka_internal_port and kafka_client_port must differ")
        factor, least = self.default_replication_factor, self.min_insync_replicas
        if least >= factor and not self.allow_unsafe_restart:
            raise ValueError(
                f"kafka_min_insync_replicas ({least}) must be less than "
                f"kafka_default_replication_factor ({factor}): otherwise no broker could ever "
                "restart without refusing writes"
            )
        if least == 1 and not self.allow_acks_from_one_copy:
            raise ValueError(
                "kafka_min_insync_replicas = 1 is refused: acknowledged records could be lost with "
                "one broker; use 2, or set kafka_allow_acks_from_one_copy = True"
            )
        return self

    @property
    def super_user_principals(self) -> list[str]:
        """Principals of all super users, brokers first, as in ``super.users``."""
        names = dict.fromkeys((BROKER_PRINCIPAL, ADMIN_PRINCIPAL, *self.super_users))
        return [f"User:{name}" for name in names]


# Brokers that disagree on one of these would treat the same topic or the same user differently.
_CLUSTER_WIDE = (
    "internal_port",
    "client_auth",
    "client_tls_protocols",
    "super_users",
    "default_replication_factor",
    "min_insync_replicas",
)


def problems(hosts: Mapping[str, KafkaSettings]) -> list[str]:
    """What cannot work across the cluster's *hosts*, one line each."""
    found = _duplicate_ids(hosts)
    for field in _CLUSTER_WIDE:
        by_value: dict[object, str] = {}
        for host, settings in hosts.items():
            by_value.setdefault(getattr(settings, field), host)
        if len(by_value) > 1:
            first, second = list(by_value.values())[:2]
            found.append(
                f"kafka_{field} differs between {first} and {second}: set it once for the group "
                "brokers"
            )
    factor = max((item.default_replication_factor for item in hosts.values()), default=0)
    if hosts and factor > len(hosts):
        found.append(
            f"kafka_default_replication_factor is {factor}, but there are only {len(hosts)} "
            "brokers: Kafka's internal topics could not be created"
        )
    return found


def _duplicate_ids(hosts: Mapping[str, KafkaSettings]) -> list[str]:
    owner: dict[int, str] = {}
    found = []
    for host, settings in hosts.items():
        if settings.broker_id in owner:
            found.append(
                f"kafka_broker_id: {owner[settings.broker_id]} and {host} both have "
                f"{settings.broker_id}"
            )
        owner.setdefault(settings.broker_id, host)
    return found
