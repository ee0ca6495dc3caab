from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.tls import keys, leaf
from roles.tls.keys import KeyType
from roles.tls.leaf import CLIENT_AUTH, SERVER_AUTH, LeafError, LeafSpec
from roles.tls.names import AuthorityName

from .tls_support import CLUSTER, NOW, YEAR, make_authority

ISSUERS = {name: make_authority(name) for name in AuthorityName}
MINUTE = datetime.timedelta(minutes=1)


def issue(
    spec: LeafSpec, now: datetime.datetime = NOW, lifetime: datetime.timedelta = YEAR
) -> leaf.Leaf:
    item, key = ISSUERS[spec.authority]
    return leaf.issue(spec, item.certificate, key, lifetime, now)


# The contract with ZooKeeper, Kafka and their principals: who issues, subject, usages, names.
SPECS = [
    (
        leaf.zookeeper_server(CLUSTER, "zk1", ["10.0.0.1", "fd00::1"]),
        ("zookeeper", "CN=zk1,OU=zookeepers,O=payments"),
        {SERVER_AUTH, CLIENT_AUTH},
        (["zk1"], ["10.0.0.1", "fd00::1"]),
    ),
    (
        leaf.broker_internal(CLUSTER, "kafka1", ["10.0.0.2"]),
        ("cluster", "CN=kafka1,OU=brokers,O=payments"),
        {SERVER_AUTH, CLIENT_AUTH},
        (["kafka1"], ["10.0.0.2"]),
    ),
    (
        leaf.broker_client_listener(CLUSTER, "kafka1", ["10.0.0.2"], ["lb.example", "kafka1"]),
        ("clients", "CN=kafka1,OU=brokers,O=payments"),
        {SERVER_AUTH},
        (["kafka1", "lb.example"], ["10.0.0.2"]),
    ),
    (
        leaf.broker_zookeeper_client(CLUSTER),
        ("zookeeper", "CN=brokers,OU=brokers,O=payments"),
        {CLIENT_AUTH},
        ([], []),
    ),
    (
        leaf.operator(CLUSTER, "admin"),
        ("cluster", "CN=admin,OU=operators,O=payments"),
        {CLIENT_AUTH},
        ([], []),
    ),
    (
        leaf.client(CLUSTER, "orders"),
        ("clients", "CN=orders,OU=clients,O=payments"),
        {CLIENT_AUTH},
        ([], []),
    ),
]


@pytest.mark.parametrize(("spec", "identity", "usages", "names"), SPECS)
def test_each_certificate_says_exactly_what_was_agreed(
    spec: LeafSpec,
    identity: tuple[str, str],
    usages: set[x509.ObjectIdentifier],
    names: tuple[list[str], list[str]],
) -> None:
    authority, subject = identity
    certificate = issue(spec).certificate
    assert spec.authority == authority
    certificate.verify_directly_issued_by(ISSUERS[spec.authority][0].certificate)
    assert certificate.subject.rfc4514_string() == subject
    extensions = certificate.extensions
    assert set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == usages
    dns, addresses = names
    if dns:
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert found.get_values_for_type(x509.DNSName) == dns
        assert [str(item) for item in found.get_values_for_type(x509.IPAddress)] == addresses
    else:
        with pytest.raises(x509.ExtensionNotFound):
            extensions.get_extension_for_class(x509.SubjectAlternativeName)


@pytest.mark.parametrize("key_type", KeyType)
def test_extensions(key_type: KeyType) -> None:
    made = issue(leaf.broker_internal(CLUSTER, "kafka1", key_type=key_type))
    certificate = made.certificate
    assert keys.type_of(certificate.public_key()) is key_type
    assert keys.spki_sha256(made.key) == keys.spki_sha256(certificate)
    extensions = certificate.extensions
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical and not basic.value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical and usage.value.digital_signature
    assert usage.value.key_encipherment is (key_type is KeyType.RSA_3072)
    assert not usage.value.key_cert_sign
    issuer = ISSUERS[AuthorityName.CLUSTER][0].certificate
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == identifier.digest
    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value == (
        x509.SubjectKeyIdentifier.from_public_key(made.key.public_key())
    )


def test_key_pem_is_plain_pkcs8() -> None:
    made = issue(leaf.client(CLUSTER, "orders"))
    assert made.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert keys.spki_sha256(keys.from_pem(made.key_pem)) == keys.spki_sha256(made.certificate)


def test_two_certificates_share_neither_key_nor_serial() -> None:
    spec = leaf.client(CLUSTER, "orders")
    first, second = issue(spec).certificate, issue(spec).certificate
    assert first.serial_number != second.serial_number
    assert keys.spki_sha256(first) != keys.spki_sha256(second)


@settings(max_examples=60, deadline=None)
@given(
    age=st.integers(min_value=-5, max_value=3649 * 24 * 60 - 60 * 24),
    days=st.integers(min_value=1, max_value=825),
)
def test_a_leaf_lies_within_its_authority(age: int, days: int) -> None:
    now = NOW + age * MINUTE
    issuer = ISSUERS[AuthorityName.CLIENTS][0].certificate
    lifetime = datetime.timedelta(days=days)
    made = issue(leaf.client(CLUSTER, "orders"), now, lifetime).certificate
    assert issuer.not_valid_before_utc <= made.not_valid_before_utc <= now
    assert now - made.not_valid_before_utc <= 5 * MINUTE
    assert made.not_valid_after_utc == min(now + lifetime, issuer.not_valid_after_utc)
    assert 0 < made.serial_number.bit_length() <= 159


def test_an_authority_about_to_end_issues_nothing() -> None:
    end = ISSUERS[AuthorityName.CLIENTS][0].certificate.not_valid_after_utc
    spec = leaf.client(CLUSTER, "orders")
    issue(spec, end - datetime.timedelta(hours=25))
    with pytest.raises(LeafError, match=r"CN=payments clients CA g1.*replace the authority first"):
        issue(spec, end - datetime.timedelta(hours=23))


def test_a_name_longer_than_a_subject_holds() -> None:
    issue(leaf.broker_internal(CLUSTER, "a" * 64))
    with pytest.raises(LeafError, match="longer than 64"):
        issue(leaf.broker_internal(CLUSTER, "a" * 65))


def test_names_keep_their_order_without_repetition() -> None:
    spec = leaf.broker_client_listener(CLUSTER, "k1", ["10.0.0.1", "10.0.0.1"], ["b", "a", "b"])
    assert spec.dns_names == ("k1", "b", "a")
    assert spec.general_names[-1] == x509.IPAddress(ipaddress.ip_address("10.0.0.1"))
    assert len(spec.general_names) == 4


def test_repr_shows_no_key() -> None:
    made = issue(leaf.client(CLUSTER, "orders"))
    assert "key" not in repr(made).lower().replace("keytype", "")
