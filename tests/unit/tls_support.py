"""Authorities, hosts and clocks for the tests of the tls role, without scrypt's seconds."""

from __future__ import annotations

import datetime
import hashlib
import secrets
from pathlib import Path

import pyrage
from cryptography import x509

from roles.tls import authority, keys
from roles.tls.authority import Authorities, Authority, Keyring
from roles.tls.keys import KeyType, PrivateKey
from roles.tls.names import AuthorityName
from roles.tls.passphrase import Passphrase

CLUSTER = "payments"
NOW = datetime.datetime(2030, 5, 1, 12, 0, tzinfo=datetime.UTC)
YEAR = datetime.timedelta(days=365)


def canary() -> str:
    """A secret that occurs nowhere else, so finding it anywhere proves a leak."""
    return f"canary-{secrets.token_hex(12)}"


def make_authority(
    name: AuthorityName,
    generation: int = 1,
    days: int = 3650,
    now: datetime.datetime = NOW,
    key_type: KeyType = KeyType.EC_P256,
) -> tuple[Authority, PrivateKey]:
    key = keys.generate(key_type)
    certificate = authority.self_signed(CLUSTER, name, generation, key, days, now)
    path = Path(f"{name}-g{generation}.key.age")
    return Authority(name, generation, certificate, path), key


class OpenKeyring(Keyring):
    """A keyring whose keys are open already."""

    def __init__(self, opened: dict[Path, PrivateKey]) -> None:
        super().__init__(lambda: Passphrase("never read"))
        self._keys.update(opened)


def make_cluster(now: datetime.datetime = NOW) -> tuple[Authorities, OpenKeyring]:
    made = {name: make_authority(name, now=now) for name in AuthorityName}
    authorities = Authorities(
        CLUSTER, Path("ca"), {name: (item,) for name, (item, _) in made.items()}
    )
    return authorities, OpenKeyring({item.key_path: key for item, key in made.values()})


def pem(*certificates: x509.Certificate) -> bytes:
    from roles.tls.stores import pem_truststore

    return pem_truststore(certificates)


class FastAge:
    """Stands in for age's passphrase encryption where a test needs many keys."""

    @staticmethod
    def encrypt(data: bytes, passphrase: str, armored: bool = False) -> bytes:
        return hashlib.sha256(passphrase.encode()).digest() + data

    @staticmethod
    def decrypt(data: bytes, passphrase: str) -> bytes:
        if len(data) < 40:
            raise pyrage.DecryptError("failed to fill whole buffer")
        if data[:32] != hashlib.sha256(passphrase.encode()).digest():
            raise pyrage.DecryptError("Decryption failed")
        return data[32:]
