"""The cluster's certificate authorities, kept on the controller.

``<folder>/<authority>-g<generation>.crt`` is the certificate in PEM, and ``….key.age`` its
PKCS#8 key, encrypted to a passphrase with age (scrypt), in ASCII armour. Both may be committed.
Certificates are read without the passphrase; a key is opened only when something is issued.
"""

from __future__ import annotations

import datetime
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

import pyrage
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from roles.tls import keys
from roles.tls.keys import KeyType, PrivateKey
from roles.tls.leaf import CLOCK_SKEW, Leaf, LeafError, LeafSpec, issue
from roles.tls.names import AuthorityName, authority_subject
from roles.tls.passphrase import Passphrase, require_strong

_CERTIFICATE = re.compile(r"(cluster|zookeeper|clients)-g([1-9][0-9]*)\.crt")
_KEY_SUFFIX = ".key.age"


class AuthorityError(Exception):
    """An authority that cannot be used; the message is one line with what to do."""


class AuthorityMissing(AuthorityError):
    """A certificate or key file is not there."""


class AuthorityDamaged(AuthorityError):
    """A file is there but is not what it should be."""


class AuthorityExpired(AuthorityError):
    """The authority's certificate has ended."""


class AuthorityNotYetValid(AuthorityError):
    """The authority's certificate has not begun: a wrong clock."""


class WrongPassphrase(AuthorityError):
    """The passphrase does not open the key."""


class KeyDoesNotMatch(AuthorityError):
    """The key file holds a key, but not this certificate's."""


class AlreadyThere(AuthorityError):
    """Nothing to make: authorities are never overwritten."""


@dataclass(frozen=True)
class Authority:
    """One generation of one authority."""

    name: AuthorityName
    generation: int
    certificate: x509.Certificate
    key_path: Path

    def check_valid(self, now: datetime.datetime) -> None:
        """
        :raises AuthorityExpired:
        :raises AuthorityNotYetValid:
        """
        end, start = self.certificate.not_valid_after_utc, self.certificate.not_valid_before_utc
        if now > end:
            raise AuthorityExpired(
                f"authority {self.name} g{self.generation} expired on {end:%Y-%m-%d %H:%M} UTC: "
                "nothing it signed is accepted any more; a new generation has to replace it"
            )
        if now < start:
            raise AuthorityNotYetValid(
                f"authority {self.name} g{self.generation} is valid only from "
                f"{start:%Y-%m-%d %H:%M} UTC on: check this machine's clock"
            )


@dataclass(frozen=True)
class Authorities:
    """All generations of the three authorities of a cluster, oldest first."""

    cluster: str
    folder: Path
    generations: Mapping[AuthorityName, tuple[Authority, ...]]

    def current(self, name: AuthorityName, now: datetime.datetime) -> Authority:
        """The generation that issues: the highest.

        :raises AuthorityExpired:
        :raises AuthorityNotYetValid:
        """
        authority = self.generations[name][-1]
        authority.check_valid(now)
        return authority

    def known(self) -> tuple[x509.Certificate, ...]:
        """Every generation of all three, expired ones too."""
        return tuple(item.certificate for known in self.generations.values() for item in known)

    def trusted(self, name: AuthorityName, now: datetime.datetime) -> tuple[x509.Certificate, ...]:
        """What truststores hold: every generation that has not expired, newest first."""
        return tuple(
            authority.certificate
            for authority in reversed(self.generations[name])
            if now <= authority.certificate.not_valid_after_utc
        )


def folder_of(authority_dir: str | Path, cluster: str) -> Path:
    return Path(authority_dir) / cluster


def load(authority_dir: str | Path, cluster: str) -> Authorities:
    """Reads the certificates; needs no passphrase.

    :raises AuthorityMissing: when one of the three has no certificate or no key file.
    :raises AuthorityDamaged: when a certificate is unreadable or another authority's.
    """
    folder = folder_of(authority_dir, cluster)
    found: dict[AuthorityName, list[Authority]] = {name: [] for name in AuthorityName}
    for name, generation, path in _certificate_files(folder):
        certificate = _read_certificate(path, cluster, name, generation)
        found[name].append(Authority(name, generation, certificate, _key_path(path)))
    missing = [name for name, authorities in found.items() if not authorities]
    if missing:
        which = "no authorities" if len(missing) == len(found) else f"no {missing[0]} authority"
        raise AuthorityMissing(
            f"{which} in {folder}: restore them from a backup, or, for a new cluster only, make "
            "them with `strongbox ca init`"
        )
    for authorities in found.values():
        authorities.sort(key=lambda authority: authority.generation)
        newest = authorities[-1]
        if not newest.key_path.exists():
            raise AuthorityMissing(f"{newest.key_path} is missing: restore it from a backup")
    return Authorities(cluster, folder, {name: tuple(items) for name, items in found.items()})


def _certificate_files(folder: Path) -> Iterator[tuple[AuthorityName, int, Path]]:
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise AuthorityDamaged(f"{folder}: {error.strerror}") from None
    for path in paths:
        match = _CERTIFICATE.fullmatch(path.name)
        if match:
            yield AuthorityName(match[1]), int(match[2]), path


def _key_path(certificate_path: Path) -> Path:
    return certificate_path.with_name(certificate_path.stem + _KEY_SUFFIX)


def _read_certificate(
    path: Path, cluster: str, name: AuthorityName, generation: int
) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(certificate)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except OSError as error:
        raise AuthorityDamaged(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        raise AuthorityDamaged(
            f"{path} is damaged or no authority's certificate: restore it from a backup"
        ) from None
    wanted = authority_subject(cluster, name, generation)
    if certificate.subject != wanted or not constraints.ca:
        raise AuthorityDamaged(
            f"{path} is the certificate of {certificate.subject.rfc4514_string()}, not of "
            f"{wanted.rfc4514_string()}: restore the right one from a backup"
        )
    return certificate


class Keyring:
    """Opens the authorities' keys on first use and keeps them for this process.

    Opening takes one to two seconds, as scrypt is meant to. Safe for threads and greenlets: the
    others wait while one opens a key.
    """

    def __init__(self, passphrase: Callable[[], Passphrase]) -> None:
        self._read = passphrase
        self._lock = RLock()
        self._passphrase: Passphrase | None = None
        self._keys: dict[Path, PrivateKey] = {}

    def __repr__(self) -> str:
        return f"Keyring({len(self._keys)} open)"

    def passphrase(self) -> Passphrase:
        """:raises PassphraseError: when it cannot be read."""
        with self._lock:
            if self._passphrase is None:
                self._passphrase = self._read()
            return self._passphrase

    def key(self, authority: Authority) -> PrivateKey:
        """The authority's private key.

        :raises PassphraseError:
        :raises WrongPassphrase:
        :raises KeyDoesNotMatch:
        :raises AuthorityDamaged:
        :raises AuthorityMissing:
        """
        with self._lock:
            key = self._keys.get(authority.key_path)
            if key is None:
                key = open_key(authority.key_path, self.passphrase())
                self._keys[authority.key_path] = key
            if keys.spki_sha256(key) != keys.spki_sha256(authority.certificate):
                raise KeyDoesNotMatch(
                    f"{authority.key_path} is not the key of its certificate: "
                    "restore both from the same backup"
                )
            return key

    def issue(
        self,
        spec: LeafSpec,
        authority: Authority,
        lifetime: datetime.timedelta,
        now: datetime.datetime,
    ) -> Leaf:
        """A new leaf from *authority*, which must be the one that *spec* names.

        :raises AuthorityError: when the authority or its key cannot be used.
        :raises LeafError: when the certificate cannot be made.
        """
        if authority.name is not spec.authority:
            raise LeafError(f"a certificate of {spec.authority} was asked of {authority.name}")
        authority.check_valid(now)
        return issue(spec, authority.certificate, self.key(authority), lifetime, now)


def open_key(path: Path, passphrase: Passphrase) -> PrivateKey:
    """Decrypts a key file.

    :raises WrongPassphrase:
    :raises AuthorityDamaged:
    :raises AuthorityMissing:
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise AuthorityMissing(f"{path} is missing: restore it from a backup") from None
    except OSError as error:
        raise AuthorityDamaged(f"{path}: {error.strerror}") from None
    try:
        return keys.from_pem(pyrage.passphrase.decrypt(data, passphrase.reveal()))
    except pyrage.DecryptError as error:
        # age tells the two apart only by this text.
        if str(error) == "Decryption failed":
            raise WrongPassphrase(f"the passphrase does not open {path}") from None
        raise AuthorityDamaged(f"{path} is damaged: restore it from a backup") from None
    except ValueError:
        raise AuthorityDamaged(f"{path} holds no usable key: restore it from a backup") from None


def create(
    authority_dir: str | Path,
    cluster: str,
    passphrase: Passphrase,
    now: datetime.datetime,
    *,
    days: int = 3650,
    key_type: KeyType = KeyType.EC_P256,
    generation: int = 1,
) -> Authorities:
    """Makes what is missing of the three authorities of a generation; never overwrites.

    A run that was killed is finished by the next one with the same passphrase. The key is written
    before its certificate, so a certificate always has its key.

    :raises AlreadyThere: when all three are complete.
    :raises WrongPassphrase: when keys are there already and the passphrase does not open them.
    :raises PassphraseError: when it is too short for new keys.
    :raises AuthorityError: when a file cannot be written or is damaged.
    """
    folder = folder_of(authority_dir, cluster)
    paths = {name: folder / f"{name}-g{generation}.crt" for name in AuthorityName}
    if all(path.exists() and _key_path(path).exists() for path in paths.values()):
        raise AlreadyThere(
            f"the authorities (generation {generation}) are in {folder} already; "
            "they are never overwritten"
        )
    for path in paths.values():
        if path.exists() and not _key_path(path).exists():
            raise AuthorityMissing(
                f"{path} is there but {_key_path(path).name} is not: restore it from a backup"
            )
    require_strong(passphrase)
    # One passphrase for all, so what is there must open with it before anything is added.
    opened = {
        name: open_key(_key_path(path), passphrase)
        for name, path in paths.items()
        if _key_path(path).exists()
    }
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, path in paths.items():
            key = opened.get(name)
            if key is None:
                key = keys.generate(key_type)
                sealed = pyrage.passphrase.encrypt(
                    keys.to_pem(key), passphrase.reveal(), armored=True
                )
                _write_new(_key_path(path), sealed, 0o600)
            if not path.exists():
                certificate = self_signed(cluster, name, generation, key, days, now)
                _write_new(path, certificate.public_bytes(Encoding.PEM), 0o644)
    except FileExistsError as error:
        raise AuthorityError(
            f"{error.filename2 or error.filename} appeared meanwhile: another `strongbox ca init` "
            "runs; look at its result first"
        ) from None
    except OSError as error:
        raise AuthorityError(
            f"{error.filename or folder}: {error.strerror}; run the same command again to finish"
        ) from None
    return load(authority_dir, cluster)


def self_signed(
    cluster: str,
    name: AuthorityName,
    generation: int,
    key: PrivateKey,
    days: int,
    now: datetime.datetime,
) -> x509.Certificate:
    """The certificate of a new authority: signs leaves only, for *days* from now."""
    own_name = authority_subject(cluster, name, generation)
    public_key = key.public_key()
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    start = now.replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(own_name)
        .issuer_name(own_name)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - CLOCK_SKEW)
        .not_valid_after(start + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256())
    )


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Creates a file that appears complete or not at all.

    :raises FileExistsError: when the path is taken.
    """
    with _temporary(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        # A link, unlike a rename, never replaces what is there.
        os.link(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
