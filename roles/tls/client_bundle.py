"""The folder that a client or an operator gets: identity, trust and ready client properties.

Paths in the properties are absolute, because Java and librdkafka resolve relative ones against
the directory that the program was started in. A folder that will be used elsewhere is written for
that place (``location``).
"""

from __future__ import annotations

import datetime
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from roles.tls import leaf as leaves
from roles.tls import stores
from roles.tls.authority import Authorities, Keyring
from roles.tls.keys import KeyType
from roles.tls.leaf import Leaf
from roles.tls.stores import StoreError

KEYSTORE, TRUSTSTORE = "keystore.pem", "truststore.pem"
KEYSTORE_12, TRUSTSTORE_12, PASSWORD = "keystore.p12", "truststore.p12", "password"
JAVA, JAVA_12 = "client.properties", "client-pkcs12.properties"
LIBRDKAFKA = "librdkafka.properties"
# git leaves the whole folder out, wherever it lies.
IGNORE = ".gitignore"
FILES = frozenset(
    (IGNORE, KEYSTORE, TRUSTSTORE, KEYSTORE_12, TRUSTSTORE_12, PASSWORD, JAVA, JAVA_12, LIBRDKAFKA)
)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
# Kafka's principal of whoever has no certificate.
_RESERVED = {"anonymous"}
_BOOTSTRAP = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}")


class BundleError(Exception):
    """A bundle that was not written; one line with the reason. What was there stays."""


@dataclass(frozen=True)
class Bundle:
    """A bundle as written."""

    folder: Path
    principal: str
    certificate: x509.Certificate


def check_name(name: str) -> None:
    """:raises BundleError: for a name that Kafka, a shell or a file system would trip over."""
    if not _NAME.fullmatch(name):
        raise BundleError(
            f"{name!r} cannot be a client's name: 1 to 64 letters, digits, '.', '_' and '-', "
            "not starting with '.' or '-'"
        )
    if name.lower() in _RESERVED:
        raise BundleError(
            f"{name!r} is Kafka's name for whoever shows no certificate: choose another"
        )


def create(
    parent: Path,
    name: str,
    authorities: Authorities,
    keyring: Keyring,
    lifetime: datetime.timedelta,
    now: datetime.datetime,
    *,
    operator: bool = False,
    bootstrap: Sequence[str] = (),
    location: str = "",
    renew: bool = False,
    key_type: KeyType = KeyType.EC_P256,
) -> Bundle:
    """Issues an identity and writes ``<parent>/<name>/`` complete or not at all.

    + operator: for the INTERNAL listener, signed by ``cluster``; otherwise CLIENT and ``clients``
    + bootstrap: ``host:port`` of the listener that it connects to
    + location: absolute folder in which it will be used, if not the one it is written to
    + renew: replaces a bundle that is there

    :raises BundleError:
    :raises AuthorityError: when the authority cannot issue.
    :raises PassphraseError:
    """
    check_name(name)
    _check_bootstrap(bootstrap)
    target = (parent / name).absolute()
    place = _check_location(location or str(target))
    make = leaves.operator if operator else leaves.client
    spec = make(authorities.cluster, name, key_type)
    authority = authorities.current(spec.authority, now)
    trusted = authorities.trusted(spec.authority, now)
    principal = f"User:{name}@operators" if operator else f"User:{name}"
    try:
        with _locked(target.parent):
            _recover(target)
            _check_free(target, renew)
            leaf = keyring.issue(spec, authority, lifetime, now)
            contents = render(leaf, trusted, place, bootstrap, principal, authorities.cluster)
            _write(target, contents)
    except OSError as error:
        raise BundleError(f"{error.filename or target}: {error.strerror}") from None
    return Bundle(target, principal, leaf.certificate)


def render(
    leaf: Leaf,
    trusted: Sequence[x509.Certificate],
    place: str,
    bootstrap: Sequence[str],
    principal: str,
    cluster: str,
) -> dict[str, bytes]:
    """The bundle's files, with *place* as the folder in their paths."""
    password = stores.new_password()
    title = (
        f"{principal} of cluster {cluster}, until {leaf.certificate.not_valid_after_utc:%Y-%m-%d}."
    )
    moved = f"# The paths must be absolute: change {place} in all of them when the folder moves."
    servers = {"bootstrap.servers": ",".join(bootstrap)} if bootstrap else {}
    pem = {
        **servers,
        "security.protocol": "SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": f"{place}/{KEYSTORE}",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": f"{place}/{TRUSTSTORE}",
        "ssl.endpoint.identification.algorithm": "https",
    }
    # The password stands in the file itself: clients that cannot read PEM stores (before Kafka
    # 2.7) mostly cannot resolve references to another file either.
    pkcs12 = {
        **servers,
        "security.protocol": "SSL",
        "ssl.keystore.type": "PKCS12",
        "ssl.keystore.location": f"{place}/{KEYSTORE_12}",
        "ssl.keystore.password": password,
        "ssl.key.password": password,
        "ssl.truststore.type": "PKCS12",
        "ssl.truststore.location": f"{place}/{TRUSTSTORE_12}",
        "ssl.truststore.password": password,
        "ssl.endpoint.identification.algorithm": "https",
    }
    librdkafka = {
        **servers,
        "security.protocol": "ssl",
        "ssl.ca.location": f"{place}/{TRUSTSTORE}",
        # librdkafka takes the certificate and the key from the same file.
        "ssl.certificate.location": f"{place}/{KEYSTORE}",
        "ssl.key.location": f"{place}/{KEYSTORE}",
        "ssl.endpoint.identification.algorithm": "https",
    }
    java = [f"# Java clients from Kafka 2.7 on: {title}", moved]
    java_12 = [
        f"# Java clients that cannot read PEM stores: {title}",
        moved,
        "# This file holds the password of the stores: keep it as private as they are.",
    ]
    return {
        IGNORE: b"*\n",
        KEYSTORE: stores.pem_keystore(leaf),
        TRUSTSTORE: stores.pem_truststore(trusted),
        KEYSTORE_12: stores.pkcs12_keystore(leaf, password),
        TRUSTSTORE_12: stores.pkcs12_truststore(trusted, password),
        PASSWORD: password.encode(),
        JAVA: _java_properties(java, pem),
        JAVA_12: _java_properties(java_12, pkcs12),
        LIBRDKAFKA: _lines(
            [f"# librdkafka (Python, Go, .NET, C): {title}", moved],
            [f"{key}={value}" for key, value in librdkafka.items()],
        ),
    }


def _lines(comments: Sequence[str], lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in (*comments, *lines)).encode()


def _java_properties(comments: Sequence[str], values: Mapping[str, str]) -> bytes:
    # java.util.Properties reads Latin-1, takes '\' as an escape and drops leading blanks.
    return _lines(
        [_ascii(comment) for comment in comments],
        [f"{key}={_ascii(value.replace(chr(92), chr(92) * 2))}" for key, value in values.items()],
    )


def _ascii(text: str) -> str:
    units = text.encode("utf-16-be")
    codes = (int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2))
    return "".join(chr(code) if 32 <= code < 127 else f"\\u{code:04x}" for code in codes)


def _check_bootstrap(bootstrap: Sequence[str]) -> None:
    for server in bootstrap:
        if not _BOOTSTRAP.fullmatch(server):
            raise BundleError(f"{server!r} is not host:port")


def _check_location(location: str) -> str:
    if not location.startswith("/"):
        raise BundleError(f"location {location!r} is not an absolute path")
    if any(ord(character) < 32 for character in location):
        raise BundleError(f"location {location!r} holds control characters")
    return location.rstrip("/") or "/"


def _scratch(target: Path, what: str) -> Path:
    return target.with_name(f".{target.name}.{what}")


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise BundleError(f"another `strongbox client` is writing to {parent}") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _recover(target: Path) -> None:
    """Undoes what a killed run left: half a new bundle, or the old one moved aside."""
    new, old = _scratch(target, "new"), _scratch(target, "old")
    if new.exists():
        shutil.rmtree(new)
    if old.exists():
        if target.exists():
            shutil.rmtree(old)
        else:
            old.rename(target)


def _check_free(target: Path, renew: bool) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise BundleError(f"{target} is there and is not a folder")
    if not target.exists():
        return
    strangers = sorted({path.name for path in target.iterdir()} - FILES)
    if strangers:
        raise BundleError(
            f"{target} holds files that are no part of a bundle ({', '.join(strangers[:3])}): "
            "move them away first"
        )
    if not renew:
        raise BundleError(f"{target} is there already{_until(target)}: --renew replaces it")


def _until(target: Path) -> str:
    try:
        certificate = stores.read_pem((target / KEYSTORE).read_bytes())[0]
    except (OSError, StoreError):
        return ""
    return f", valid until {certificate.not_valid_after_utc:%Y-%m-%d}"


def _write(target: Path, contents: Mapping[str, bytes]) -> None:
    new, old = _scratch(target, "new"), _scratch(target, "old")
    try:
        new.mkdir(mode=0o700)
        new.chmod(0o700)
        for name, data in contents.items():
            _write_file(new / name, data)
        _sync(new)
        if target.exists():
            target.rename(old)
        new.rename(target)
        _sync(target.parent)
    except BaseException:
        _recover(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_file(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
