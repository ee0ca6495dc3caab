"""Certificates of hosts, operators and clients: what each must say, and their issue."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from roles.tls.keys import KeyType, PrivateKey, generate, to_pem
from roles.tls.names import COMMON_NAME_LIMIT, AuthorityName, subject

# A host's clock may be behind the controller's.
CLOCK_SKEW = datetime.timedelta(minutes=5)
# Below this an authority cannot issue: what it signs would end before it has been rolled out.
LEAST_LIFETIME = datetime.timedelta(days=1)

SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH


class LeafError(Exception):
    """A certificate that cannot be issued; one line with the reason."""


@dataclass(frozen=True)
class LeafSpec:
    """What a certificate must say.

    ``usages`` are the extended key usages; ``dns_names`` and ``addresses`` the subject
    alternative names, which may be empty for a certificate that is only a client's.
    """

    authority: AuthorityName
    common_name: str
    unit: str
    organization: str
    usages: tuple[x509.ObjectIdentifier, ...]
    dns_names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    key_type: KeyType = KeyType.EC_P256

    @property
    def subject(self) -> x509.Name:
        return subject(self.common_name, self.organization, self.unit)

    @property
    def general_names(self) -> list[x509.GeneralName]:
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in self.dns_names]
        names += [x509.IPAddress(ipaddress.ip_address(text)) for text in self.addresses]
        return names


@dataclass(frozen=True)
class Leaf:
    """A new certificate with its private key, which exists only here and on its way to a host."""

    key: PrivateKey = field(repr=False)
    certificate: x509.Certificate
    # Intermediate certificates between this one and the root; the root itself is in truststores.
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def key_pem(self) -> bytes:
        return to_pem(self.key)


def _unique(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def zookeeper_server(
    cluster: str, hostname: str, addresses: Iterable[str] = (), key_type: KeyType = KeyType.EC_P256
) -> LeafSpec:
    """An ensemble member: server for brokers, server and client for the other members."""
    return LeafSpec(
        AuthorityName.ZOOKEEPER, hostname, "zookeepers", cluster, (SERVER_AUTH, CLIENT_AUTH),
        (hostname,), _unique(addresses), key_type,
    )  # fmt: skip


def broker_internal(
    cluster: str, hostname: str, addresses: Iterable[str] = (), key_type: KeyType = KeyType.EC_P256
) -> LeafSpec:
    """A broker among brokers; its listener checks itself with both usages when it starts."""
    return LeafSpec(
        AuthorityName.CLUSTER, hostname, "brokers", cluster, (SERVER_AUTH, CLIENT_AUTH),
        (hostname,), _unique(addresses), key_type,
    )  # fmt: skip


def broker_client_listener(
    cluster: str,
    hostname: str,
    addresses: Iterable[str] = (),
    extra_names: Iterable[str] = (),
    key_type: KeyType = KeyType.EC_P256,
) -> LeafSpec:
    """A broker towards clients; *extra_names* are advertised names and load balancers."""
    return LeafSpec(
        AuthorityName.CLIENTS, hostname, "brokers", cluster, (SERVER_AUTH,),
        _unique((hostname, *extra_names)), _unique(addresses), key_type,
    )  # fmt: skip


def broker_zookeeper_client(cluster: str, key_type: KeyType = KeyType.EC_P256) -> LeafSpec:
    """A broker as ZooKeeper's client.

    One subject for all brokers, as it is the owner in ZooKeeper's ACLs; no alternative name, so
    that it cannot pass for a member of the quorum.
    """
    return LeafSpec(
        AuthorityName.ZOOKEEPER, "brokers", "brokers", cluster, (CLIENT_AUTH,), key_type=key_type
    )


def operator(cluster: str, name: str, key_type: KeyType = KeyType.EC_P256) -> LeafSpec:
    """A person or tool that administers the cluster through the INTERNAL listener."""
    return LeafSpec(
        AuthorityName.CLUSTER, name, "operators", cluster, (CLIENT_AUTH,), key_type=key_type
    )


def client(cluster: str, name: str, key_type: KeyType = KeyType.EC_P256) -> LeafSpec:
    """An application that uses the CLIENT listener as ``User:<name>``."""
    return LeafSpec(
        AuthorityName.CLIENTS, name, "clients", cluster, (CLIENT_AUTH,), key_type=key_type
    )


def expiry(
    issuer: x509.Certificate, lifetime: datetime.timedelta, now: datetime.datetime
) -> datetime.datetime:
    """When a certificate issued now would end: never after its issuer."""
    end = min(now + lifetime, issuer.not_valid_after_utc)
    return end.replace(microsecond=0)


def issue(
    spec: LeafSpec,
    issuer: x509.Certificate,
    issuer_key: PrivateKey,
    lifetime: datetime.timedelta,
    now: datetime.datetime,
) -> Leaf:
    """A new key and its certificate, signed by *issuer*.

    :raises LeafError: for a name that no certificate can hold, or an issuer about to end.
    """
    if len(spec.common_name) > COMMON_NAME_LIMIT:
        raise LeafError(
            f"{spec.common_name!r} is longer than {COMMON_NAME_LIMIT} characters, the most that a "
            "certificate's subject can hold"
        )
    left = issuer.not_valid_after_utc - now
    if left < min(LEAST_LIFETIME, lifetime):
        raise LeafError(
            f"{issuer.subject.rfc4514_string()} ends on {issuer.not_valid_after_utc:%Y-%m-%d %H:%M}"
            " UTC, too soon to issue anything: replace the authority first"
        )
    key = generate(spec.key_type)
    start = max(now - CLOCK_SKEW, issuer.not_valid_before_utc).replace(microsecond=0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(spec.subject)
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(expiry(issuer, lifetime, now))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(spec.key_type), critical=True)
        .add_extension(x509.ExtendedKeyUsage(spec.usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority_key_identifier(issuer), critical=False)
    )
    if spec.general_names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName(spec.general_names), critical=False
        )
    return Leaf(key, builder.sign(issuer_key, hashes.SHA256()))


def key_usage(key_type: KeyType) -> x509.KeyUsage:
    """Signatures; with RSA also key encipherment, which some verifiers ask for in servers."""
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=key_type is KeyType.RSA_3072,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
