from __future__ import annotations

import datetime
import errno
import os
import shutil
import stat
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from roles.tls import authority, keys
from roles.tls.authority import (
    AlreadyThere,
    Authorities,
    AuthorityDamaged,
    AuthorityError,
    AuthorityExpired,
    AuthorityMissing,
    AuthorityNotYetValid,
    KeyDoesNotMatch,
    Keyring,
    WrongPassphrase,
)
from roles.tls.keys import KeyType
from roles.tls.leaf import LeafError, client
from roles.tls.names import AuthorityName
from roles.tls.passphrase import Passphrase, PassphraseError

from .tls_support import CLUSTER, NOW, YEAR, FastAge, canary, make_authority

DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Passphrase]:
    """Authorities encrypted by age itself, made once: scrypt takes seconds."""
    folder = tmp_path_factory.mktemp("ca")
    passphrase = Passphrase(canary())
    authority.create(folder, CLUSTER, passphrase, NOW)
    return folder, passphrase


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyrage, "passphrase", FastAge)


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / CLUSTER).iterdir()}


EVERYTHING = {f"{name}-g1{suffix}" for name in AuthorityName for suffix in (".crt", ".key.age")}


def test_files_are_there_private_and_armoured(real: tuple[Path, Passphrase]) -> None:
    folder, _ = real
    assert names(folder) == EVERYTHING
    for path in (folder / CLUSTER).iterdir():
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.suffix == ".age":
            assert mode == 0o600
            assert path.read_bytes().startswith(b"-----BEGIN AGE ENCRYPTED FILE-----\n")
            assert b"PRIVATE KEY" not in path.read_bytes()
        else:
            assert mode == 0o644


def test_real_key_opens_and_issues(real: tuple[Path, Passphrase]) -> None:
    folder, passphrase = real
    loaded = authority.load(folder, CLUSTER)
    current = loaded.current(AuthorityName.CLIENTS, NOW)
    leaf = Keyring(lambda: passphrase).issue(client(CLUSTER, "orders"), current, YEAR, NOW)
    leaf.certificate.verify_directly_issued_by(current.certificate)


def test_wrong_passphrase(real: tuple[Path, Passphrase]) -> None:
    folder, _ = real
    secret = canary()
    current = authority.load(folder, CLUSTER).current(AuthorityName.CLUSTER, NOW)
    with pytest.raises(WrongPassphrase, match=r"does not open .*cluster-g1\.key\.age") as error:
        Keyring(lambda: Passphrase(secret)).key(current)
    assert secret not in str(error.value)


@pytest.mark.parametrize("keep", [0, 30, 300, -60])
def test_damaged_key(real: tuple[Path, Passphrase], tmp_path: Path, keep: int) -> None:
    folder, passphrase = real
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    current = authority.load(tmp_path, CLUSTER).current(AuthorityName.CLUSTER, NOW)
    current.key_path.write_bytes(current.key_path.read_bytes()[:keep])
    with pytest.raises(AuthorityDamaged, match="damaged: restore it from a backup"):
        Keyring(lambda: passphrase).key(current)


def test_extensions_of_an_authority() -> None:
    item, key = make_authority(AuthorityName.CLUSTER, 3)
    certificate = item.certificate
    assert certificate.subject.rfc4514_string() == "CN=payments cluster CA g3,O=payments"
    assert certificate.issuer == certificate.subject
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical and basic.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical and usage.value.key_cert_sign and usage.value.crl_sign
    assert not usage.value.digital_signature
    identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert identifier == x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    assert 0 < certificate.serial_number.bit_length() <= 159
    assert certificate.not_valid_after_utc - NOW == 3650 * DAY
    assert certificate.not_valid_before_utc == NOW - datetime.timedelta(minutes=5)


def test_rsa_authority(tmp_path: Path, fast: None) -> None:
    made = authority.create(
        tmp_path, CLUSTER, Passphrase(canary()), NOW, key_type=KeyType.RSA_3072, days=30
    )
    certificate = made.current(AuthorityName.ZOOKEEPER, NOW).certificate
    assert keys.type_of(certificate.public_key()) is KeyType.RSA_3072
    assert certificate.not_valid_after_utc - NOW == 30 * DAY


def test_three_distinct_authorities(real: tuple[Path, Passphrase]) -> None:
    loaded = authority.load(real[0], CLUSTER)
    current = [loaded.current(name, NOW).certificate for name in AuthorityName]
    assert len({item.subject for item in current}) == 3
    assert len({keys.spki_sha256(item) for item in current}) == 3


def test_second_init_changes_nothing(tmp_path: Path, fast: None) -> None:
    passphrase = Passphrase(canary())
    authority.create(tmp_path, CLUSTER, passphrase, NOW)
    before = {path: path.read_bytes() for path in (tmp_path / CLUSTER).iterdir()}
    with pytest.raises(AlreadyThere, match="never overwritten"):
        authority.create(tmp_path, CLUSTER, passphrase, NOW)
    assert {path: path.read_bytes() for path in (tmp_path / CLUSTER).iterdir()} == before


@pytest.mark.parametrize("fails_at", range(1, 7))
def test_interrupted_init_is_finished(
    tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    passphrase = Passphrase(canary())
    real_link, calls = os.link, 0

    def link(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise KeyboardInterrupt
        real_link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        with pytest.raises(KeyboardInterrupt):
            authority.create(tmp_path, CLUSTER, passphrase, NOW)
    before = {path: path.read_bytes() for path in (tmp_path / CLUSTER).iterdir()}
    assert len(before) == fails_at - 1
    assert set(before) <= {tmp_path / CLUSTER / name for name in EVERYTHING}
    if before:
        with pytest.raises(WrongPassphrase):
            authority.create(tmp_path, CLUSTER, Passphrase(canary()), NOW)
        assert len(names(tmp_path)) == fails_at - 1
        with pytest.raises(AuthorityMissing):
            authority.load(tmp_path, CLUSTER)
    made = authority.create(tmp_path, CLUSTER, passphrase, NOW)
    assert names(tmp_path) == EVERYTHING
    assert all(path.read_bytes() == data for path, data in before.items())
    ring = Keyring(lambda: passphrase)
    for name in AuthorityName:
        ring.key(made.current(name, NOW))


def test_full_disk_leaves_no_half_file(
    tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AuthorityError, match="No space left on device; run the same command"):
        authority.create(tmp_path, CLUSTER, Passphrase(canary()), NOW)
    assert names(tmp_path) == set()


def test_init_race_overwrites_nothing(
    tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Passphrase(canary())
    real_encrypt = FastAge.encrypt

    def encrypt(data: bytes, passphrase: str, armored: bool = False) -> bytes:
        monkeypatch.setattr(FastAge, "encrypt", staticmethod(real_encrypt))
        authority.create(tmp_path, CLUSTER, other, NOW)
        return real_encrypt(data, passphrase)

    monkeypatch.setattr(FastAge, "encrypt", staticmethod(encrypt))
    with pytest.raises(AuthorityError, match="another `strongbox ca init` runs"):
        authority.create(tmp_path, CLUSTER, Passphrase(canary()), NOW)
    loaded = authority.load(tmp_path, CLUSTER)
    Keyring(lambda: other).key(loaded.current(AuthorityName.CLUSTER, NOW))


def test_short_passphrase_makes_nothing(tmp_path: Path, fast: None) -> None:
    with pytest.raises(PassphraseError):
        authority.create(tmp_path, CLUSTER, Passphrase("short"), NOW)
    assert list(tmp_path.iterdir()) == []


def test_lost_key_is_not_replaced(tmp_path: Path, fast: None) -> None:
    passphrase = Passphrase(canary())
    authority.create(tmp_path, CLUSTER, passphrase, NOW)
    (tmp_path / CLUSTER / "zookeeper-g1.key.age").unlink()
    with pytest.raises(AuthorityMissing, match="restore it from a backup"):
        authority.create(tmp_path, CLUSTER, passphrase, NOW)
    with pytest.raises(AuthorityMissing, match="restore it from a backup"):
        authority.load(tmp_path, CLUSTER)


@pytest.mark.parametrize("made", [False, True])
def test_missing_authorities_name_the_remedy(tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / CLUSTER).mkdir()
    with pytest.raises(
        AuthorityMissing, match=r"no authorities in .*: restore .* new cluster only, make"
    ):
        authority.load(tmp_path, CLUSTER)


def test_damaged_certificate(tmp_path: Path, fast: None) -> None:
    authority.create(tmp_path, CLUSTER, Passphrase(canary()), NOW)
    path = tmp_path / CLUSTER / "clients-g1.crt"
    for data in (b"", b"not a certificate", path.read_bytes()[:-100]):
        path.write_bytes(data)
        with pytest.raises(AuthorityDamaged, match=r"clients-g1\.crt is damaged"):
            authority.load(tmp_path, CLUSTER)


def test_certificate_of_another_authority(tmp_path: Path, fast: None) -> None:
    authority.create(tmp_path, CLUSTER, Passphrase(canary()), NOW)
    folder = tmp_path / CLUSTER
    shutil.copy(folder / "clients-g1.crt", folder / "cluster-g1.crt")
    with pytest.raises(AuthorityDamaged, match="is the certificate of CN=payments clients CA g1"):
        authority.load(tmp_path, CLUSTER)


def test_key_of_another_authority(tmp_path: Path, fast: None) -> None:
    passphrase = Passphrase(canary())
    made = authority.create(tmp_path, CLUSTER, passphrase, NOW)
    folder = tmp_path / CLUSTER
    shutil.copy(folder / "clients-g1.key.age", folder / "cluster-g1.key.age")
    with pytest.raises(KeyDoesNotMatch, match="not the key of its certificate"):
        Keyring(lambda: passphrase).key(made.current(AuthorityName.CLUSTER, NOW))


def test_key_file_with_something_else_in_it(tmp_path: Path, fast: None) -> None:
    passphrase = Passphrase(canary())
    made = authority.create(tmp_path, CLUSTER, passphrase, NOW)
    current = made.current(AuthorityName.CLUSTER, NOW)
    current.key_path.write_bytes(FastAge.encrypt(b"this is no key", passphrase.reveal()))
    with pytest.raises(AuthorityDamaged, match="no usable key"):
        Keyring(lambda: passphrase).key(current)


def test_expired_and_not_yet_valid() -> None:
    item, _ = make_authority(AuthorityName.CLUSTER, days=10)
    authorities = Authorities(CLUSTER, Path("ca"), {AuthorityName.CLUSTER: (item,)})
    assert authorities.current(AuthorityName.CLUSTER, NOW + 10 * DAY) is item
    with pytest.raises(AuthorityExpired, match="cluster g1 expired on 2030-05-11"):
        authorities.current(AuthorityName.CLUSTER, NOW + 11 * DAY)
    with pytest.raises(AuthorityNotYetValid, match="this machine's clock"):
        authorities.current(AuthorityName.CLUSTER, NOW - DAY)


def test_highest_generation_issues_and_expired_ones_are_not_trusted(
    tmp_path: Path, fast: None
) -> None:
    passphrase = Passphrase(canary())
    authority.create(tmp_path, CLUSTER, passphrase, NOW, days=10)
    authority.create(tmp_path, CLUSTER, passphrase, NOW, days=100, generation=2)
    made = authority.create(tmp_path, CLUSTER, passphrase, NOW, days=1000, generation=10)
    name = AuthorityName.CLUSTER
    assert made.current(name, NOW).generation == 10
    assert len(made.trusted(name, NOW)) == 3
    later = made.trusted(name, NOW + 50 * DAY)
    assert [item.subject.rfc4514_string() for item in later] == [
        "CN=payments cluster CA g10,O=payments",
        "CN=payments cluster CA g2,O=payments",
    ]


def test_a_superseded_key_may_be_gone(tmp_path: Path, fast: None) -> None:
    passphrase = Passphrase(canary())
    authority.create(tmp_path, CLUSTER, passphrase, NOW)
    authority.create(tmp_path, CLUSTER, passphrase, NOW, generation=2)
    (tmp_path / CLUSTER / "cluster-g1.key.age").unlink()
    assert len(authority.load(tmp_path, CLUSTER).trusted(AuthorityName.CLUSTER, NOW)) == 2


def test_keyring_opens_each_key_once_for_many_threads(
    tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    passphrase = Passphrase(canary())
    made = authority.create(tmp_path, CLUSTER, passphrase, NOW)
    opened: list[Path] = []
    read: list[int] = []
    real_open = authority.open_key

    def open_key(path: Path, word: Passphrase) -> keys.PrivateKey:
        opened.append(path)
        return real_open(path, word)

    monkeypatch.setattr(authority, "open_key", open_key)
    ring = Keyring(lambda: read.append(1) or passphrase)  # type: ignore[func-returns-value]
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for name in AuthorityName:
            ring.key(made.current(name, NOW))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 3
    assert read == [1]


def test_loading_reads_no_passphrase(real: tuple[Path, Passphrase]) -> None:
    def never() -> Passphrase:
        raise AssertionError("the passphrase was read")

    loaded = authority.load(real[0], CLUSTER)
    Keyring(never)
    loaded.trusted(AuthorityName.CLUSTER, NOW)
    loaded.current(AuthorityName.CLUSTER, NOW)


def test_issuing_from_the_wrong_or_an_expired_authority() -> None:
    item, key = make_authority(AuthorityName.CLUSTER, days=30)
    ring = Keyring(lambda: Passphrase(""))
    ring._keys[item.key_path] = key
    with pytest.raises(LeafError, match="clients was asked of cluster"):
        ring.issue(client(CLUSTER, "orders"), item, YEAR, NOW)
    other, _ = make_authority(AuthorityName.CLIENTS, days=30)
    with pytest.raises(AuthorityExpired):
        ring.issue(client(CLUSTER, "orders"), other, YEAR, NOW + 31 * DAY)


def test_a_planted_certificate_without_authority_rights_is_refused(
    tmp_path: Path, fast: None
) -> None:
    authority.create(tmp_path, CLUSTER, Passphrase(canary()), NOW)
    key = ec.generate_private_key(ec.SECP256R1())
    from cryptography.hazmat.primitives import hashes

    from roles.tls.names import authority_subject

    name = authority_subject(CLUSTER, AuthorityName.CLUSTER, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / CLUSTER / "cluster-g1.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    with pytest.raises(AuthorityDamaged):
        authority.load(tmp_path, CLUSTER)


def test_no_error_or_trace_shows_passphrase_or_key(tmp_path: Path, fast: None) -> None:
    passphrase, wrong = Passphrase(canary()), Passphrase(canary())
    made = authority.create(tmp_path, CLUSTER, passphrase, NOW)
    current = made.current(AuthorityName.CLUSTER, NOW)
    key = Keyring(lambda: passphrase).key(current)
    secret_lines = [line for line in keys.to_pem(key).decode().splitlines() if len(line) > 40]
    texts = [repr(made), repr(current), repr(Keyring(lambda: passphrase)), repr(passphrase)]

    def fail(attempt: Callable[[], object]) -> None:
        with pytest.raises((AuthorityError, LeafError, PassphraseError)):
            try:
                attempt()
            except Exception:
                texts.append(traceback.format_exc())
                raise

    fail(lambda: authority.create(tmp_path, CLUSTER, passphrase, NOW))
    fail(lambda: Keyring(lambda: wrong).key(current))
    fail(lambda: Keyring(lambda: passphrase).issue(client(CLUSTER, "a"), current, YEAR, NOW))
    whole = current.key_path.read_bytes()
    for data in (b"", whole[:50], FastAge.encrypt(keys.to_pem(key)[:-30], passphrase.reveal())):
        current.key_path.write_bytes(data)
        fail(lambda: Keyring(lambda: passphrase).key(current))
    assert len(texts) == 10
    for secret in [passphrase.reveal(), wrong.reveal(), *secret_lines]:
        assert not any(secret in text for text in texts)


def test_a_certificate_signed_by_another_key_is_refused(tmp_path: Path, fast: None) -> None:
    authority.create(tmp_path, CLUSTER, Passphrase(canary()), NOW)
    path = tmp_path / CLUSTER / "cluster-g1.crt"
    der = bytearray(x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER))
    der[-1] ^= 1
    altered = x509.load_der_x509_certificate(bytes(der))
    path.write_bytes(altered.public_bytes(Encoding.PEM))
    with pytest.raises(AuthorityDamaged, match="damaged"):
        authority.load(tmp_path, CLUSTER)
