import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.archive import ArchiveError, check_local, check_source, parse_sha512, resolve
from roles.common.settings import RoleSettings, SettingsError
from roles.kafka.settings import KafkaSettings
from roles.zookeeper.settings import ZookeeperSettings

DIGEST = hashlib.sha512(b"archive").hexdigest()


def apache_format(name: str, digest: str) -> str:
    groups = [digest.upper()[at : at + 8] for at in range(0, 128, 8)]
    lines = [" ".join(groups[at : at + 4]) for at in range(0, 16, 4)]
    return f"{name}: " + ("\n" + " " * len(name)).join(lines) + "\n"


@given(st.binary(max_size=20))
def test_every_published_format_gives_the_digest(content: bytes) -> None:
    digest = hashlib.sha512(content).hexdigest()
    for text in (
        digest,
        f"{digest}\n",
        digest.upper(),
        f"{digest}  kafka_2.13-3.9.2.tgz\n",
        apache_format("kafka_2.13-3.9.2.tgz", digest),
    ):
        assert parse_sha512(text, "x") == digest


@pytest.mark.parametrize("text", ["", "abc", DIGEST[:-1], DIGEST + "0", "x: " + DIGEST[:64]])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ArchiveError, match="no SHA-512"):
        parse_sha512(text, "x.sha512")


def test_the_digest_is_found_beside_a_local_archive(tmp_path: Path) -> None:
    archive = tmp_path / "k.tgz"
    archive.write_bytes(b"archive")
    with pytest.raises(ArchiveError, match=r"put k\.tgz\.sha512 beside it"):
        resolve(str(archive), None)
    (tmp_path / "k.tgz.sha512").write_text(apache_format("k.tgz", DIGEST))
    found = resolve(str(archive), None)
    assert found.sha512 == DIGEST
    assert found.directory == f"/opt/strongbox/dist/{DIGEST[:16]}"
    check_local(found)


def test_a_wrong_digest_is_refused_naming_both(tmp_path: Path) -> None:
    archive = tmp_path / "k.tgz"
    archive.write_bytes(b"tampered")
    with pytest.raises(ArchiveError, match=f"expected {DIGEST[:16]}"):
        check_local(resolve(str(archive), DIGEST))


def test_a_url_needs_its_digest() -> None:
    with pytest.raises(ArchiveError, match="give its SHA-512"):
        resolve("https://mirror.example/kafka.tgz", None)
    assert resolve("https://mirror.example/kafka.tgz", DIGEST).is_url


CANARY = "CANARY-credential"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (f"https://user:{CANARY}@mirror.example/k.tgz", "user or password"),
        (f"https://{CANARY}@mirror.example/k.tgz", "user or password"),
        (f"https://mirror.example/k.tgz?token={CANARY}", "query or fragment"),
        (f"https://mirror.example/k.tgz#{CANARY}", "query or fragment"),
        ("https://mirror.example/k.tgz?", "query or fragment"),
        (f"http://mirror.example/{CANARY}.tgz", "https://HOST/"),
        (f"HTTPS://mirror.example/{CANARY}.tgz", "https://HOST/"),
        (f"ftp://user:{CANARY}@mirror.example/k.tgz", "https://HOST/"),
        (f"file:///{CANARY}", "https://HOST/"),
        (f"https:///{CANARY}", "https://HOST/"),
        (f"https://mirror.example:{CANARY}/k.tgz", "https://HOST/"),
        (f"https://[mirror/{CANARY}", "https://HOST/"),
        (f"https://mirror.example/a b{CANARY}", "without blanks"),
        ("", "without blanks"),
        ("k\x1b.tgz", "without blanks"),
    ],
)
@pytest.mark.parametrize("role", [KafkaSettings, ZookeeperSettings])
def test_urls_that_could_hold_a_credential_are_refused(
    role: type[RoleSettings], source: str, reason: str
) -> None:
    data = {f"{role.prefix}_archive": source, "kafka_broker_id": 1, "zookeeper_id": 1}
    with pytest.raises(SettingsError, match=f"h: {role.prefix}_archive: .*{reason}") as error:
        role.load({key: data[key] for key in data if key.startswith(role.prefix)}, "h")
    assert CANARY not in str(error.value)


@pytest.mark.parametrize(
    "source",
    ["https://mirror.example/kafka/k.tgz", "https://10.0.0.1:8443/k.tgz", "/srv/k.tgz", "k?.tgz",
     "user@host:k.tgz"],
)  # fmt: skip
def test_paths_and_plain_https_are_accepted(source: str) -> None:
    assert check_source(source) == source
