"""The three authorities of a cluster and the subjects that the certificates carry.

Names are encoded from the organisation inwards, so that RFC 2253 text, which Kafka's principals
and ZooKeeper's ACL ids are made of, reads ``CN=…,OU=…,O=…``.
"""

from __future__ import annotations

from enum import StrEnum

from cryptography import x509
from cryptography.x509.oid import NameOID

# X.520 allows no longer common name; Java and OpenSSL refuse to encode one.
COMMON_NAME_LIMIT = 64


class AuthorityName(StrEnum):
    """``cluster`` signs brokers among themselves and operators, ``zookeeper`` the ensemble and the
    brokers as its clients, ``clients`` applications and the listener that they connect to."""

    CLUSTER = "cluster"
    ZOOKEEPER = "zookeeper"
    CLIENTS = "clients"


def subject(common_name: str, organization: str, unit: str = "") -> x509.Name:
    """``CN=common_name[,OU=unit],O=organization``."""
    parts = [(NameOID.ORGANIZATION_NAME, organization)]
    if unit:
        parts.append((NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    parts.append((NameOID.COMMON_NAME, common_name))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])


def authority_subject(cluster: str, name: AuthorityName, generation: int) -> x509.Name:
    """The generation makes each one's subject distinct, so an issuer names exactly one key."""
    return subject(f"{cluster} {name} CA g{generation}", cluster)
