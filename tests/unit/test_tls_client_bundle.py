from __future__ import annotations

import datetime
import errno
import fcntl
import os
import shutil
import ssl
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roles.tls import client_bundle, leaf, stores
from roles.tls.authority import AuthorityExpired
from roles.tls.client_bundle import Bundle, BundleError, create
from roles.tls.names import AuthorityName
from roles.tls.stores import StoreType

from .test_tls_stores import DATA, Files, handshake, java_compiles, keytool
from .tls_support import CLUSTER, YEAR, make_cluster

NOW = datetime.datetime.now(datetime.UTC)
AUTHORITIES, KEYRING = make_cluster(NOW)


def make(parent: Path, name: str = "orders", **options: Any) -> Bundle:
    return create(parent, name, AUTHORITIES, KEYRING, YEAR, NOW, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def properties(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def test_folder_and_files_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        bundle = make(tmp_path / "clients")
    finally:
        os.umask(before)
    assert bundle.folder == tmp_path / "clients" / "orders"
    assert set(contents(bundle.folder)) == client_bundle.FILES
    assert stat.S_IMODE(bundle.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(bundle.folder.parent.stat().st_mode) == 0o700
    for path in bundle.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert [path.name for path in bundle.folder.parent.iterdir()] == ["orders"]


@pytest.mark.parametrize(
    ("operator", "subject", "principal", "authority"),
    [
        (False, "CN=admin,OU=clients,O=payments", "User:admin", AuthorityName.CLIENTS),
        (True, "CN=admin,OU=operators,O=payments", "User:admin@operators", AuthorityName.CLUSTER),
    ],
)
def test_identity_and_trust(
    tmp_path: Path, operator: bool, subject: str, principal: str, authority: AuthorityName
) -> None:
    bundle = make(tmp_path, "admin", operator=operator)
    assert bundle.principal == principal
    assert bundle.certificate.subject.rfc4514_string() == subject
    trusted = AUTHORITIES.trusted(authority, NOW)
    bundle.certificate.verify_directly_issued_by(trusted[0])
    files = contents(bundle.folder)
    password = files["password"].decode()
    assert stores.read_pem(files["keystore.pem"]) == (bundle.certificate,)
    assert stores.read_pem(files["truststore.pem"]) == trusted
    assert stores.read_pkcs12(files["keystore.p12"], password) == (bundle.certificate,)
    assert stores.read_pkcs12(files["truststore.p12"], password) == trusted
    assert not password.endswith("\n") and len(password) >= 24


def test_properties_point_at_files_that_are_there(tmp_path: Path) -> None:
    bundle = make(tmp_path, bootstrap=["kafka1:9094", "[fd00::1]:9094"])
    for name in ("client.properties", "client-pkcs12.properties", "librdkafka.properties"):
        values = properties(bundle.folder / name)
        assert values["bootstrap.servers"] == "kafka1:9094,[fd00::1]:9094"
        assert values["security.protocol"].upper() == "SSL"
        assert values["ssl.endpoint.identification.algorithm"] == "https"
        locations = [value for key, value in values.items() if key.endswith(".location")]
        assert len(locations) >= 2
        for location in locations:
            assert Path(location).is_absolute() and Path(location).is_file()


def test_only_the_pkcs12_flavour_holds_a_password(tmp_path: Path) -> None:
    files = contents(make(tmp_path).folder)
    password = files["password"]
    holding = {name for name, data in files.items() if password in data}
    assert holding == {"password", "client-pkcs12.properties"}
    assert "password" not in files["client.properties"].decode()
    assert files["client-pkcs12.properties"].count(password) == 3


@pytest.mark.skipif(not shutil.which("git"), reason="no git")
def test_git_leaves_it_out(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    make(tmp_path / "elsewhere")
    (tmp_path / "other").write_text("")
    status = ["git", "-C", str(tmp_path), "status", "--porcelain", "--untracked-files=all"]
    result = subprocess.run(status, stdout=subprocess.PIPE, text=True, check=True)
    assert result.stdout == "?? other\n"


def test_a_bundle_from_before_it_was_left_out_can_be_renewed(tmp_path: Path) -> None:
    (make(tmp_path).folder / ".gitignore").unlink()
    assert (make(tmp_path, renew=True).folder / ".gitignore").read_text() == "*\n"


def test_without_bootstrap_servers_the_line_is_missing(tmp_path: Path) -> None:
    files = contents(make(tmp_path).folder)
    assert not any(b"bootstrap.servers" in data for data in files.values())


def test_location_elsewhere(tmp_path: Path) -> None:
    files = contents(make(tmp_path, location="/etc/orders/kafka/").folder)
    assert b"ssl.keystore.location=/etc/orders/kafka/keystore.pem\n" in files["client.properties"]
    assert str(tmp_path).encode() not in b"".join(files.values())


def test_relative_parent_gives_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("clients"))
    values = properties(tmp_path / "clients" / "orders" / "librdkafka.properties")
    assert values["ssl.ca.location"] == f"{tmp_path}/clients/orders/truststore.pem"


REFUSED = ("", ".", "..", ".hidden", "-rf", "a/b", "a b", "a@operators", "a\n", "ü", "x" * 65)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError) as error:
        make(tmp_path, name)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ANONYMOUS", "anonymous"])
def test_the_name_of_nobody_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="whoever shows no certificate"):
        make(tmp_path, name)


@pytest.mark.parametrize("name", ["admin", "a", "Orders_2.eu-west", "x" * 64])
def test_accepted_names(tmp_path: Path, name: str) -> None:
    assert make(tmp_path, name).folder.name == name


@pytest.mark.parametrize(
    "options",
    [
        {"location": "relative"},
        {"location": "/with\nnewline"},
        {"bootstrap": ["kafka1"]},
        {"bootstrap": ["kafka1:9094\nssl.key.password=x"]},
    ],
)
def test_refused_options(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(BundleError):
        make(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_existing_bundle_is_not_overwritten(tmp_path: Path) -> None:
    before = contents(make(tmp_path).folder)
    with pytest.raises(BundleError, match=r"is there already, valid until \d{4}-\d\d-\d\d: --ren"):
        make(tmp_path)
    assert contents(tmp_path / "orders") == before


def test_renew_replaces_all_of_it(tmp_path: Path) -> None:
    first = make(tmp_path)
    before = contents(first.folder)
    second = make(tmp_path, renew=True)
    assert second.certificate != first.certificate
    after = contents(second.folder)
    assert set(after) == set(before)
    assert after["password"] != before["password"]
    assert [path.name for path in tmp_path.iterdir()] == ["orders"]


@pytest.mark.parametrize("renew", [False, True])
def test_files_that_are_no_bundle_are_left_alone(tmp_path: Path, renew: bool) -> None:
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "thesis.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"no part of a bundle \(thesis.txt\)"):
        make(tmp_path, renew=renew)
    assert contents(tmp_path / "orders") == {"thesis.txt": b"mine"}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_something_else_at_its_place(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        (tmp_path / "orders").write_text("mine")
    else:
        (tmp_path / "orders").symlink_to("elsewhere")
    with pytest.raises(BundleError, match="is not a folder"):
        make(tmp_path, renew=True)


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "clients").write_text("")
    with pytest.raises(BundleError, match="clients: File exists"):
        make(tmp_path / "clients")


class Stop(BaseException):
    """The process is killed: nothing that catches exceptions may depend on running."""


class Faulty:
    """Counts the calls that make a bundle durable and fails at one of them."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
        self.calls, self.at, self.error = 0, at, error
        for name in ("fsync", "rename"):
            patch.setattr(os, name, self.around(getattr(os, name)))
        self.recover = client_bundle._recover
        if isinstance(error, Stop):
            patch.setattr(client_bundle, "_recover", self.recover_unless_killed)

    def around(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object, **options: object) -> None:
            self.calls += 1
            if self.calls == self.at:
                raise self.error
            real(*args, **options)

        return call

    def recover_unless_killed(self, target: Path) -> None:
        if self.calls < self.at:
            self.recover(target)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("error", [FULL, Stop()], ids=["full disk", "killed"])
def test_a_fault_at_any_moment_leaves_all_or_nothing(
    tmp_path: Path, existing: bool, error: BaseException
) -> None:
    """A full disk undoes itself at once; a kill is undone by the next run."""
    at, finished = 0, False
    while not finished:
        at += 1
        parent = tmp_path / str(at)
        old = contents(make(parent).folder) if existing else {}
        with pytest.MonkeyPatch.context() as patch:
            faulty = Faulty(patch, at, error)
            try:
                make(parent, renew=existing)
            except BundleError as refusal:
                assert "No space left on device" in str(refusal)
            except Stop:
                pass
            finished = faulty.calls < at
        if error is FULL:
            assert not [path for path in parent.iterdir() if path.name.startswith(".")]
        target = parent / "orders"
        if target.exists():
            assert set(contents(target)) == client_bundle.FILES
        if existing and error is FULL:
            assert target.exists()
        bundle = make(parent, renew=True)
        assert [path.name for path in parent.iterdir()] == ["orders"]
        assert stores.read_pem((target / "keystore.pem").read_bytes()) == (bundle.certificate,)
        assert contents(target) != old
    assert at > len(client_bundle.FILES)


def test_a_killed_renewal_puts_the_old_bundle_back(tmp_path: Path) -> None:
    old = contents(make(tmp_path).folder)
    (tmp_path / "orders").rename(tmp_path / ".orders.old")
    with pytest.raises(BundleError, match="is there already"):
        make(tmp_path)
    assert contents(tmp_path / "orders") == old


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(BundleError, match="another `strongbox client`"):
            make(tmp_path)
    finally:
        os.close(descriptor)
    make(tmp_path)


def test_expired_authority_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(AuthorityExpired):
        create(tmp_path / "c", "orders", AUTHORITIES, KEYRING, YEAR, NOW + 11 * YEAR)
    assert not (tmp_path / "c").exists()


def broker(tmp_path: Path, spec: leaf.LeafSpec) -> Files:
    """A broker's store signed by the authorities of this module."""
    files = Files(tmp_path / "broker", spec, StoreType.PEM)
    made = KEYRING.issue(spec, AUTHORITIES.current(spec.authority, NOW), YEAR, NOW)
    built = stores.build(StoreType.PEM, made, AUTHORITIES.trusted(spec.authority, NOW))
    Path(files.paths.keystore).write_bytes(built.keystore)
    Path(files.paths.truststore).write_bytes(built.truststore)
    return files


class BundleFiles(Files):
    def __init__(self, bundle: Bundle) -> None:
        self.paths = stores.StorePaths(
            str(bundle.folder / "keystore.pem"), str(bundle.folder / "truststore.pem")
        )


@pytest.mark.parametrize("operator", [False, True])
def test_bundle_connects_to_its_listener_and_to_no_other(tmp_path: Path, operator: bool) -> None:
    internal = broker(tmp_path, leaf.broker_internal(CLUSTER, "kafka1"))
    (tmp_path / "second").mkdir()
    clients = broker(tmp_path / "second", leaf.broker_client_listener(CLUSTER, "kafka1"))
    mine, other = (internal, clients) if operator else (clients, internal)
    bundle = BundleFiles(make(tmp_path / "c", operator=operator))
    handshake(mine, bundle, "kafka1")
    with pytest.raises(ssl.SSLError):
        handshake(other, bundle, "kafka1")
    with pytest.raises(ssl.SSLError):
        handshake(other, bundle, "kafka1", trusted=other)


def test_librdkafka_loads_it(tmp_path: Path) -> None:
    kafka = pytest.importorskip("confluent_kafka")
    bundle = make(tmp_path, bootstrap=["127.0.0.1:9"])
    values = properties(bundle.folder / "librdkafka.properties")
    kafka.Producer(values)
    # librdkafka reads the files at once, so a broken one is found here.
    (bundle.folder / "keystore.pem").write_bytes(b"")
    with pytest.raises(kafka.KafkaException):
        kafka.Producer(values)


@pytest.mark.skipif(not shutil.which("keytool"), reason="no keytool (JRE)")
def test_java_lists_the_pkcs12_stores(tmp_path: Path) -> None:
    folder = make(tmp_path).folder
    password = str(folder / "password")
    assert "PrivateKeyEntry" in keytool(str(folder / "keystore.p12"), password)
    assert "trustedCertEntry" in keytool(str(folder / "truststore.p12"), password)


@pytest.mark.skipif(not java_compiles(), reason="no JDK that runs a .java file")
def test_java_reads_paths_with_any_character(tmp_path: Path) -> None:
    place = "/Bücher\\neu/日本 🗝 #=:!"
    folder = make(tmp_path, location=place).folder
    result = subprocess.run(
        ["java", str(DATA / "ReadProperties.java"), str(folder / "client-pkcs12.properties")],
        stdout=subprocess.PIPE,
        check=True,
    )
    read = dict(line.split("\t") for line in result.stdout.decode().splitlines())
    assert read["ssl.keystore.location"] == f"{place}/keystore.p12"
    assert read["ssl.truststore.location"] == f"{place}/truststore.p12"
    assert read["ssl.key.password"] == (folder / "password").read_text()


def test_errors_show_no_secret(tmp_path: Path) -> None:
    bundle = make(tmp_path)
    files = contents(bundle.folder)
    secret_lines = {line for line in files["keystore.pem"].splitlines() if len(line) > 40}
    secrets = secret_lines | {files["password"]}
    texts = [repr(bundle), str(bundle)]
    attempts: list[dict[str, Any]] = [{}, {"location": "relative"}, {"bootstrap": ["x"]}]
    for attempt in attempts:
        with pytest.raises(BundleError) as error:
            make(tmp_path, **attempt)
        texts += [str(error.value), repr(error.value)]
    assert not any(secret.decode() in text for secret in secrets for text in texts)
