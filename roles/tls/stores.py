"""Key and trust stores in the two formats that Java, OpenSSL and librdkafka read.

PEM stores have no password. PKCS#12 stores use PBES2 with AES-256, and their key has the store's
password, as ZooKeeper can't be given two. A PKCS#12 file of plain certificates is an empty
truststore to Java; these carry the attribute that makes each one a trusted entry.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from roles.tls.leaf import Leaf

ALIAS = "strongbox"
# Passwords are 192 random bits, so guessing is hopeless without many rounds; Java reads a store
# each time a certificate is renewed.
_ROUNDS = 10_000


class StoreType(StrEnum):
    PEM = "pem"
    PKCS12 = "pkcs12"


class StoreError(Exception):
    """A store that cannot be read; one line without its content."""


@dataclass(frozen=True)
class Stores:
    """The files of one store; ``password`` is empty for PEM."""

    store_type: StoreType
    keystore: bytes = field(repr=False)
    truststore: bytes = field(repr=False)
    password: str = field(repr=False, default="")


def new_password() -> str:
    """32 characters of base64url: 192 random bits, safe in properties files and on any stdin."""
    return secrets.token_urlsafe(24)


def build(
    store_type: StoreType, leaf: Leaf, trusted: Sequence[x509.Certificate], password: str = ""
) -> Stores:
    """Both stores; for PKCS#12 with a new password unless one is given."""
    if store_type is StoreType.PEM:
        return Stores(store_type, pem_keystore(leaf), pem_truststore(trusted))
    password = password or new_password()
    return Stores(
        store_type, pkcs12_keystore(leaf, password), pkcs12_truststore(trusted, password), password
    )


def pem_keystore(leaf: Leaf) -> bytes:
    """The key (PKCS#8), the leaf and its intermediates, in one file."""
    return leaf.key_pem + pem_truststore((leaf.certificate, *leaf.chain))


def pem_truststore(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _encryption(password: str) -> KeySerializationEncryption:
    return (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(_ROUNDS)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password.encode())
    )


def pkcs12_keystore(leaf: Leaf, password: str) -> bytes:
    return pkcs12.serialize_key_and_certificates(
        ALIAS.encode(), leaf.key, leaf.certificate, leaf.chain or None, _encryption(password)
    )


def pkcs12_truststore(certificates: Iterable[x509.Certificate], password: str) -> bytes:
    entries = [
        pkcs12.PKCS12Certificate(certificate, _alias(certificate).encode())
        for certificate in certificates
    ]
    return pkcs12.serialize_java_truststore(entries, _encryption(password))


def _alias(certificate: x509.Certificate) -> str:
    # Java compares aliases in lower case, and two entries with one alias become one.
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value).lower().replace(" ", "-") if names else "authority"
    return f"{name}-{fingerprint(certificate)[:8]}"


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER, lower-case hex."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def fingerprints(certificates: Iterable[x509.Certificate]) -> frozenset[str]:
    return frozenset(fingerprint(certificate) for certificate in certificates)


def read_pem(data: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a PEM file in order; a private key among them is not looked at.

    :raises StoreError: when there is none or one is damaged.
    """
    begin = data.find(b"-----BEGIN CERTIFICATE-----")
    if begin < 0:
        raise StoreError("holds no certificate")
    try:
        return tuple(x509.load_pem_x509_certificates(data[begin:]))
    except ValueError:
        raise StoreError("holds a damaged certificate") from None


def read_pkcs12(data: bytes, password: str) -> tuple[x509.Certificate, ...]:
    """The certificates of a PKCS#12 store, the key's own first.

    :raises StoreError: when the password is wrong or the file damaged.
    """
    if "\0" in password:  # cryptography panics on it
        raise StoreError("cannot have a password with a NUL character")
    try:
        store = pkcs12.load_pkcs12(data, password.encode())
    except ValueError:
        raise StoreError("is damaged, or its password is another") from None
    own = [store.cert.certificate] if store.cert else []
    return tuple(own + [entry.certificate for entry in store.additional_certs])


@dataclass(frozen=True)
class StorePaths:
    """Where the files of a store lie; ``password`` only for PKCS#12."""

    keystore: str
    truststore: str
    password: str = ""

    def all(self) -> list[str]:
        return [path for path in (self.keystore, self.truststore, self.password) if path]


def paths(base: str, store_type: StoreType) -> StorePaths:
    """For *base* ``…/tls/internal``: ``internal.pem``, ``internal-trust.pem`` and so on."""
    if store_type is StoreType.PEM:
        return StorePaths(f"{base}.pem", f"{base}-trust.pem")
    return StorePaths(f"{base}.p12", f"{base}-trust.p12", f"{base}.password")
