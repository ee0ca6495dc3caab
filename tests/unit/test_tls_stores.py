"""That the stores are what Java, OpenSSL and Python read, and refuse what they must."""

from __future__ import annotations

import datetime
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import pkcs12

from roles.tls import keys, leaf, stores
from roles.tls.keys import KeyType
from roles.tls.leaf import Leaf, LeafSpec
from roles.tls.names import AuthorityName
from roles.tls.stores import StoreError, StoreType

from .tls_support import CLUSTER, YEAR, canary, make_authority

# Python, OpenSSL and Java look at the real clock.
NOW = datetime.datetime.now(datetime.UTC)
ISSUERS = {name: make_authority(name, now=NOW) for name in AuthorityName}
SECOND_CLUSTER, _ = make_authority(AuthorityName.CLUSTER, 2, now=NOW)
DATA = Path(__file__).parents[1] / "data"

needs_keytool = pytest.mark.skipif(not shutil.which("keytool"), reason="no keytool (JRE)")
needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")


def issue(spec: LeafSpec) -> Leaf:
    item, key = ISSUERS[spec.authority]
    return leaf.issue(spec, item.certificate, key, YEAR, NOW)


class Files:
    """A store's files in a folder of its own."""

    def __init__(self, folder: Path, spec: LeafSpec, store_type: StoreType) -> None:
        folder.mkdir(mode=0o700)
        self.leaf = issue(spec)
        self.stores = stores.build(store_type, self.leaf, [ISSUERS[spec.authority][0].certificate])
        self.paths = stores.paths(str(folder / "store"), store_type)
        Path(self.paths.keystore).write_bytes(self.stores.keystore)
        Path(self.paths.truststore).write_bytes(self.stores.truststore)
        if self.paths.password:
            Path(self.paths.password).write_text(self.stores.password)


def test_paths() -> None:
    base = "/srv/strongbox/kafka/tls/internal"
    assert stores.paths(base, StoreType.PEM).all() == [f"{base}.pem", f"{base}-trust.pem"]
    assert stores.paths(base, StoreType.PKCS12).all() == [
        f"{base}.p12",
        f"{base}-trust.p12",
        f"{base}.password",
    ]


def test_pem_store_is_key_then_leaf() -> None:
    made = issue(leaf.client(CLUSTER, "orders"))
    data = stores.pem_keystore(made)
    assert data.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert stores.read_pem(data) == (made.certificate,)


def test_truststores_read_back_in_both_kinds() -> None:
    trusted = (SECOND_CLUSTER.certificate, ISSUERS[AuthorityName.CLUSTER][0].certificate)
    password = canary()
    assert stores.read_pem(stores.pem_truststore(trusted)) == trusted
    read = stores.read_pkcs12(stores.pkcs12_truststore(trusted, password), password)
    assert stores.fingerprints(read) == stores.fingerprints(trusted)


@pytest.mark.parametrize("key_type", KeyType)
def test_pkcs12_keystore_reads_back(key_type: KeyType) -> None:
    made = issue(leaf.client(CLUSTER, "orders", key_type))
    built = stores.build(StoreType.PKCS12, made, [SECOND_CLUSTER.certificate])
    assert stores.read_pkcs12(built.keystore, built.password) == (made.certificate,)


def test_passwords_are_long_distinct_and_plain() -> None:
    passwords = {stores.new_password() for _ in range(100)}
    assert len(passwords) == 100
    for password in passwords:
        assert len(password) >= 24
        assert password.replace("-", "a").replace("_", "a").isalnum()


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
)
def test_unreadable_pem(data: bytes) -> None:
    with pytest.raises(StoreError):
        stores.read_pem(data)


def test_authorities_of_one_name_have_aliases_of_their_own() -> None:
    """Java keeps one entry for each alias, so a shared one would drop an authority."""
    twins = [make_authority(AuthorityName.CLUSTER, now=NOW)[0].certificate for _ in range(2)]
    data = stores.pkcs12_truststore(twins, "a password of some length")
    read = pkcs12.load_pkcs12(data, b"a password of some length").additional_certs
    aliases = [(entry.friendly_name or b"").decode() for entry in read]
    assert len(set(aliases)) == 2
    assert all(alias == alias.lower() for alias in aliases)


def test_unreadable_pkcs12_shows_no_password() -> None:
    password, wrong = canary(), canary()
    data = stores.pkcs12_truststore([SECOND_CLUSTER.certificate], password)
    for broken, word in ((data, wrong), (data[:-40], password), (b"", password), (data, "\0")):
        with pytest.raises(StoreError) as error:
            stores.read_pkcs12(broken, word)
        assert password not in str(error.value) and wrong not in str(error.value)
        assert error.value.__cause__ is None


def test_repr_shows_neither_key_nor_password() -> None:
    built = stores.build(
        StoreType.PKCS12, issue(leaf.client(CLUSTER, "orders")), [SECOND_CLUSTER.certificate]
    )
    assert built.password not in repr(built)
    assert "PRIVATE" not in repr(stores.build(StoreType.PEM, issue(leaf.client(CLUSTER, "a")), []))


def keytool(path: str, password_file: str) -> str:
    result = subprocess.run(
        f"keytool -J-Duser.language=en -list -storetype PKCS12 -storepass:file {password_file} "
        f"-keystore {path}".split(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def colons(fingerprint: str) -> str:
    return ":".join(fingerprint[at : at + 2] for at in range(0, 64, 2)).upper()


@needs_keytool
@pytest.mark.parametrize("key_type", KeyType)
def test_java_lists_the_key_and_each_trusted_authority(tmp_path: Path, key_type: KeyType) -> None:
    files = Files(
        tmp_path / "s", leaf.broker_internal(CLUSTER, "kafka1", (), key_type), StoreType.PKCS12
    )
    listed = keytool(files.paths.keystore, files.paths.password)
    assert "Your keystore contains 1 entry" in listed
    assert "PrivateKeyEntry" in listed
    assert colons(stores.fingerprint(files.leaf.certificate)) in listed
    trusted = (SECOND_CLUSTER.certificate, ISSUERS[AuthorityName.CLUSTER][0].certificate)
    path = tmp_path / "two.p12"
    path.write_bytes(stores.pkcs12_truststore(trusted, files.stores.password))
    listed = keytool(str(path), files.paths.password)
    assert "Your keystore contains 2 entries" in listed
    assert listed.count("trustedCertEntry") == 2
    for certificate in trusted:
        assert colons(stores.fingerprint(certificate)) in listed


@needs_openssl
@pytest.mark.parametrize("store_type", StoreType)
def test_openssl_on_a_host_sees_what_the_plan_compares(
    tmp_path: Path, store_type: StoreType
) -> None:
    files = Files(tmp_path / "s", leaf.zookeeper_server(CLUSTER, "zk1"), store_type)
    paths = files.paths

    def sh(command: str) -> bytes:
        return subprocess.run(
            ["sh", "-c", command, "sh", paths.keystore, paths.truststore, paths.password],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout

    if store_type is StoreType.PEM:
        chain, trusted = Path(paths.keystore).read_bytes(), Path(paths.truststore).read_bytes()
        public = sh('openssl pkey -in "$1" -pubout -outform DER | sha256sum')
    else:
        chain = sh('openssl pkcs12 -in "$1" -nokeys -passin "file:$3"')
        trusted = sh('openssl pkcs12 -in "$2" -nokeys -passin "file:$3"')
        public = sh(
            'openssl pkcs12 -in "$1" -nocerts -noenc -passin "file:$3" '
            "| openssl pkey -pubout -outform DER | sha256sum"
        )
    assert stores.read_pem(chain) == (files.leaf.certificate,)
    assert stores.fingerprints(stores.read_pem(trusted)) == {
        stores.fingerprint(ISSUERS[AuthorityName.ZOOKEEPER][0].certificate)
    }
    assert public.decode().split()[0] == keys.spki_sha256(files.leaf.certificate)


def handshake(
    server: Files, client: Files | None, hostname: str, trusted: Files | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """TLS in memory; application data flows both ways, as TLS 1.3 refuses clients only then.

    :raises ssl.SSLError: on whichever side refuses.
    """
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.minimum_version = ssl.TLSVersion.TLSv1_3
    server_side.load_cert_chain(server.paths.keystore)
    server_side.load_verify_locations(server.paths.truststore)
    server_side.verify_mode = ssl.CERT_REQUIRED
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_side.minimum_version = ssl.TLSVersion.TLSv1_3
    client_side.load_verify_locations((trusted or client or server).paths.truststore)
    if client:
        client_side.load_cert_chain(client.paths.keystore)
    for context in (server_side, client_side):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = server_side.wrap_bio(up, down, server_side=True)
    two = client_side.wrap_bio(down, up, server_hostname=hostname)
    waiting: list[Callable[[], object]] = [two.do_handshake, one.do_handshake]
    waiting += [lambda: two.write(b"hello"), lambda: one.read(5)]
    waiting += [lambda: one.write(b"hello"), lambda: two.read(5)]
    for _ in range(20):
        for step in list(waiting):
            try:
                step()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(step)
        if not waiting:
            return one, two
    raise AssertionError("the handshake does not end")


def in_pem(tmp_path: Path, **specs: LeafSpec) -> dict[str, Files]:
    return {name: Files(tmp_path / name, spec, StoreType.PEM) for name, spec in specs.items()}


@pytest.mark.parametrize("key_type", KeyType)
def test_brokers_accept_each_other(tmp_path: Path, key_type: KeyType) -> None:
    files = in_pem(
        tmp_path,
        one=leaf.broker_internal(CLUSTER, "kafka1", ["10.0.0.1"], key_type),
        two=leaf.broker_internal(CLUSTER, "kafka2", ["10.0.0.2"], key_type),
    )
    server, client = handshake(files["one"], files["two"], "kafka1")
    assert server.version() == client.version() == "TLSv1.3"
    handshake(files["two"], files["one"], "10.0.0.2")


@pytest.mark.parametrize(
    ("server", "client"),
    [
        (leaf.broker_internal(CLUSTER, "host"), leaf.operator(CLUSTER, "admin")),
        (leaf.broker_client_listener(CLUSTER, "host"), leaf.client(CLUSTER, "orders")),
        (leaf.zookeeper_server(CLUSTER, "host"), leaf.broker_zookeeper_client(CLUSTER)),
        (leaf.zookeeper_server(CLUSTER, "host"), leaf.zookeeper_server(CLUSTER, "other")),
    ],
)
def test_who_may_connect_where(tmp_path: Path, server: LeafSpec, client: LeafSpec) -> None:
    files = in_pem(tmp_path, server=server, client=client)
    handshake(files["server"], files["client"], "host")


@pytest.mark.parametrize(
    ("server", "client"),
    [
        (leaf.broker_internal(CLUSTER, "host"), leaf.client(CLUSTER, "orders")),
        (leaf.broker_internal(CLUSTER, "host"), leaf.broker_zookeeper_client(CLUSTER)),
        (leaf.broker_client_listener(CLUSTER, "host"), leaf.operator(CLUSTER, "admin")),
        (leaf.zookeeper_server(CLUSTER, "host"), leaf.client(CLUSTER, "orders")),
        (leaf.zookeeper_server(CLUSTER, "host"), leaf.operator(CLUSTER, "admin")),
        (leaf.zookeeper_server(CLUSTER, "host"), leaf.broker_internal(CLUSTER, "kafka1")),
    ],
)
def test_a_certificate_of_another_authority_is_refused(
    tmp_path: Path, server: LeafSpec, client: LeafSpec
) -> None:
    files = in_pem(tmp_path, server=server, client=client)
    # The client trusts the server here, so that it is the server who refuses.
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        handshake(files["server"], files["client"], "host", trusted=files["server"])
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        handshake(files["server"], files["client"], "host")


def test_no_certificate_is_refused(tmp_path: Path) -> None:
    files = in_pem(tmp_path, server=leaf.broker_internal(CLUSTER, "host"))
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        handshake(files["server"], None, "host")


def test_another_host_name_is_refused(tmp_path: Path) -> None:
    files = in_pem(
        tmp_path,
        server=leaf.broker_internal(CLUSTER, "kafka1", ["10.0.0.1"]),
        client=leaf.operator(CLUSTER, "admin"),
    )
    for name in ("kafka2", "10.0.0.2", "localhost"):
        with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
            handshake(files["server"], files["client"], name)


@pytest.mark.parametrize(
    "spec", [leaf.client(CLUSTER, "host"), leaf.broker_zookeeper_client(CLUSTER)]
)
def test_a_client_identity_cannot_be_a_server(tmp_path: Path, spec: LeafSpec) -> None:
    other = leaf.client if spec.authority is AuthorityName.CLIENTS else leaf.zookeeper_server
    files = in_pem(tmp_path, server=spec, client=other(CLUSTER, "peer"))
    with pytest.raises(ssl.SSLError, match="unsuitable certificate purpose"):
        handshake(files["server"], files["client"], "host")


def test_the_client_listener_identity_cannot_be_a_client(tmp_path: Path) -> None:
    spec = leaf.broker_client_listener(CLUSTER, "host")
    files = in_pem(tmp_path, one=spec, two=spec)
    with pytest.raises(ssl.SSLError, match="unsuitable certificate purpose"):
        handshake(files["one"], files["two"], "host")


def java_compiles() -> bool:
    if not shutil.which("java"):
        return False
    modules = subprocess.run(
        ["java", "--list-modules"], stdout=subprocess.PIPE, text=True, check=False
    )
    return "jdk.compiler" in modules.stdout


@pytest.mark.skipif(not java_compiles(), reason="no JDK that runs a .java file")
@pytest.mark.parametrize("accepted", [True, False])
def test_java_handshake_between_pkcs12_stores(tmp_path: Path, accepted: bool) -> None:
    server = Files(tmp_path / "s", leaf.broker_internal(CLUSTER, "localhost"), StoreType.PKCS12)
    spec = leaf.operator(CLUSTER, "admin") if accepted else leaf.client(CLUSTER, "admin")
    client = Files(tmp_path / "c", spec, StoreType.PKCS12)
    if not accepted:
        # Trusts the server, so that it is the server who refuses.
        Path(client.paths.truststore).write_bytes(
            stores.pkcs12_truststore(
                [ISSUERS[AuthorityName.CLUSTER][0].certificate], client.stores.password
            )
        )
    result = subprocess.run(
        ["java", str(DATA / "TlsHandshake.java"), *server.paths.all(), *client.paths.all()],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if accepted:
        assert result.stdout.strip() == (
            "TLSv1.3 | CN=admin,OU=operators,O=payments | CN=localhost,OU=brokers,O=payments"
        )
    else:
        assert result.returncode == 3
        assert result.stdout.startswith("refused: ")
