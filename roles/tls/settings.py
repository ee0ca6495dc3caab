"""Settings of the tls role: the authorities' place and passphrase, lifetimes, kinds of stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from roles.common.secret_source import command_words
from roles.common.settings import Hostname, RoleSettings
from roles.tls.keys import KeyType
from roles.tls.names import COMMON_NAME_LIMIT
from roles.tls.passphrase import DEFAULT_VARIABLE, PassphraseSource
from roles.tls.stores import StoreType

LONGEST_LEAF = 825  # days
LONGEST_AUTHORITY = 7305  # days, twenty years

_WEAK_KEYS = {
    "rsa-1024": "1024-bit RSA can be broken",
    "rsa-2048": "2048-bit RSA has about 112 bits of strength and is being phased out after 2030",
    "rsa-4096": "4096-bit RSA makes each handshake several times slower for little gain",
    "ed25519": "not every Java client and certificate verifier accepts Ed25519",
}
_OLD_STORES = {"jks": "JKS protects keys with a weak, proprietary scheme"}


def _key_type(value: object) -> object:
    if isinstance(value, KeyType):
        return value
    choices = " or ".join(repr(str(choice)) for choice in KeyType)
    text = value.lower() if isinstance(value, str) else ""
    if text in _WEAK_KEYS:
        raise ValueError(f"{text} is refused: {_WEAK_KEYS[text]}; use {choices}")
    if value not in list(KeyType):
        raise ValueError(f"must be {choices}")
    return KeyType(str(value))


def _store_type(value: object) -> object:
    if isinstance(value, StoreType):
        return value
    choices = " or ".join(repr(str(choice)) for choice in StoreType)
    text = value.lower() if isinstance(value, str) else ""
    if text in _OLD_STORES:
        raise ValueError(f"{text} is refused: {_OLD_STORES[text]}; use {choices}")
    if value not in list(StoreType):
        raise ValueError(f"must be {choices}")
    return StoreType(str(value))


def _leaf_days(value: int) -> int:
    if value < 1:
        raise ValueError("a certificate must last at least 1 day")
    if value > LONGEST_LEAF:
        raise ValueError(
            f"{value} days is refused: a stolen key stays useful that long, as brokers do not ask "
            f"whether a certificate was revoked; at most {LONGEST_LEAF}, renewal is automatic"
        )
    return value


def _authority_days(value: int) -> int:
    if not 2 <= value <= LONGEST_AUTHORITY:
        raise ValueError(f"an authority must last between 2 and {LONGEST_AUTHORITY} days")
    return value


def _renew_fraction(value: float) -> float:
    if not 0.05 <= value <= 0.8:
        raise ValueError(
            "must be from 0.05 to 0.8: below, a late run meets expired certificates; above, "
            "certificates are replaced almost as soon as they are made"
        )
    return value


def _not_empty(value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise ValueError("is empty")
    return value


def _variable(value: str | None) -> str | None:
    if value is not None and not value.replace("_", "a").isalnum():
        raise ValueError("is not the name of an environment variable")
    return value


class TlsSettings(RoleSettings):
    prefix: ClassVar[str] = "tls"

    authority_dir: Annotated[str, AfterValidator(_not_empty)] = Field(
        default="ca",
        description="Folder on the controller that holds the authorities: one subfolder for each "
        "cluster with certificates and encrypted keys. Safe to commit.",
    )
    passphrase_file: Annotated[str | None, AfterValidator(_not_empty)] = Field(
        default=None,
        description="File on the controller with the passphrase of the authorities' keys; "
        "only its owner may read it. Exclusive with the other two sources.",
    )
    passphrase_command: Annotated[tuple[str, ...] | None, BeforeValidator(command_words)] = Field(
        default=None,
        description="Command on the controller that prints that passphrase, as a list of words or "
        "as text that is split like a shell would; no shell runs it. Example: pass show kafka/ca",
    )
    passphrase_env: Annotated[str | None, AfterValidator(_variable)] = Field(
        default=None,
        description="Environment variable with that passphrase; it is removed from the environment "
        f"once settings are read. {DEFAULT_VARIABLE} when no source is set.",
    )
    key_type: Annotated[KeyType, BeforeValidator(_key_type)] = Field(
        default=KeyType.EC_P256,
        description="Type of new keys: ec-p256 (fast handshakes) or rsa-3072.",
    )
    authority_days: Annotated[int, AfterValidator(_authority_days)] = Field(
        default=3650, description="Days that a new authority lasts."
    )
    leaf_days: Annotated[int, AfterValidator(_leaf_days)] = Field(
        default=365,
        description=f"Days that a new certificate of a host or client lasts, 1 to {LONGEST_LEAF}. "
        "A change applies from the next renewal on.",
    )
    renew_fraction: Annotated[float, AfterValidator(_renew_fraction)] = Field(
        default=1 / 3,
        description="A certificate is renewed once less than this part of its lifetime is left.",
    )
    store_type: Annotated[StoreType, BeforeValidator(_store_type)] = Field(
        default=StoreType.PEM,
        description="Kind of key and trust stores on the hosts: pem (no password that could leak) "
        "or pkcs12 (random password for each host).",
    )
    extra_names: tuple[Hostname, ...] = Field(
        default=(),
        strict=False,
        description="More DNS names for the certificate of the CLIENT listener, such as that of a "
        "load balancer.",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        sources = [
            f"tls_{field}"
            for field in ("passphrase_file", "passphrase_command", "passphrase_env")
            if getattr(self, field) is not None
        ]
        if len(sources) > 1:
            raise ValueError(
                f"{' and '.join(sources)} are both set: the passphrase has one source"
                if len(sources) == 2
                else f"{', '.join(sources)} are all set: the passphrase has one source"
            )
        if self.leaf_days > self.authority_days:
            raise ValueError(
                f"tls_leaf_days ({self.leaf_days}) is longer than tls_authority_days "
                f"({self.authority_days}): a certificate cannot outlive its authority"
            )
        return self

    @property
    def passphrase_source(self) -> PassphraseSource:
        if self.passphrase_file is not None:
            return PassphraseSource(file=self.passphrase_file)
        if self.passphrase_command is not None:
            return PassphraseSource(command=self.passphrase_command)
        return PassphraseSource(variable=self.passphrase_env or DEFAULT_VARIABLE)


# One controller signs for the whole cluster, so its hosts must agree on these.
_CLUSTER_WIDE = ("authority_dir", "passphrase_source", "authority_days")


def problems(hosts: Mapping[str, TlsSettings], hostnames: Mapping[str, str]) -> list[str]:
    """What cannot work across hosts; *hostnames* gives the name in each host's certificates."""
    found = []
    for field in _CLUSTER_WIDE:
        by_value: dict[object, str] = {}
        for host, settings in hosts.items():
            by_value.setdefault(getattr(settings, field), host)
        if len(by_value) > 1:
            key = "tls_passphrase_*" if field == "passphrase_source" else f"tls_{field}"
            found.append(
                f"{key} differs between {' and '.join(list(by_value.values())[:2])}: "
                "set it once for the whole cluster, in group_data/all.py"
            )
    found += [
        f"{host}: host name {hostnames[host]!r} is longer than {COMMON_NAME_LIMIT} characters, "
        "the most that a certificate's subject can hold"
        for host in hosts
        if len(hostnames.get(host, "")) > COMMON_NAME_LIMIT
    ]
    return found
