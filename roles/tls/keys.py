"""Private keys, and the public-key fingerprint that tells whether a key fits a certificate."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class KeyType(StrEnum):
    EC_P256 = "ec-p256"
    RSA_3072 = "rsa-3072"


def generate(key_type: KeyType) -> PrivateKey:
    """A new key; RSA takes about 0.2 s, EC far less than a millisecond."""
    if key_type is KeyType.RSA_3072:
        return rsa.generate_private_key(public_exponent=65537, key_size=3072)
    return ec.generate_private_key(ec.SECP256R1())


def type_of(public_key: PublicKeyTypes) -> KeyType | None:
    """The key type, or None for one that is never issued here."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return KeyType.EC_P256 if isinstance(public_key.curve, ec.SECP256R1) else None
    if isinstance(public_key, rsa.RSAPublicKey):
        return KeyType.RSA_3072 if public_key.key_size == 3072 else None
    return None


def to_pem(key: PrivateKey) -> bytes:
    """PKCS#8 PEM, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def from_pem(data: bytes) -> PrivateKey:
    """:raises ValueError: for anything but an EC or RSA key in plain PEM."""
    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        raise ValueError("the key is encrypted") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("neither an EC nor an RSA key")
    return key


def spki_sha256(owner: x509.Certificate | PrivateKey) -> str:
    """SHA-256 (hex) of the public key as SubjectPublicKeyInfo DER.

    On a host: ``openssl pkey -in KEY -pubout -outform DER | sha256sum``.
    """
    der = owner.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()
