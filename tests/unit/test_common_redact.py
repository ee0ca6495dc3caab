import base64
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.common.facts import TextContents
from roles.common.plan import ManagedFile
from roles.common.redact import MASK, SED, mask
from roles.kafka import files as kafka_files
from roles.zookeeper import files as zookeeper_files
from tests.unit import test_kafka_files, test_zookeeper_files


def on_host(text: bytes) -> bytes:
    """What the sed expression that runs on hosts makes of the text."""
    return subprocess.run(
        ["sed", "-E", SED], input=text, stdout=subprocess.PIPE, env={"LC_ALL": "C"}, check=True
    ).stdout


# Every way to write a secret (%s) that configuration, units and scripts of hosts know.
FORMS = {
    **{
        f"{key}{separator!r}": f"before=1\n{key}{separator}%s\nafter=1\n"
        for separator in ("=", " = ", ":", " ", "\t", "  :  ")
        for key in (
            "ssl.key.password",
            "listener.name.client.ssl.keystore.password",
            "sasl.jaas.config",
            "listener.name.client.scram-sha-512.sasl.jaas.config",
            "ssl.keystore.key",
            "password.encoder.secret",
            "PASSWORD",
            "some.token",
            "passwd",
            "DB_PWD",
            "aws_secret_access_key",
            "api-key",
            "keyMaterial",
        )
    },
    "base64 with a leading slash": "ssl.key.password=/9j%s",
    "a path that is no path": "ssl.key.passwordPath=/9j+%s==",
    "commented out": "#ssl.key.password=%s\n",
    "login module": 'PlainLoginModule required username="a" password="%s";',
    "login module, continued": "listener.name.x.sasl.jaas.config=org.apache.PlainLoginModule \\\n"
    '  required username="a" \\\n  password="%s";\nafter=1\n',
    "login module of its own": 'KafkaServer {\n  Plain required\n  user_alice="%s"\n};\n',
    "continued value": "ssl.keystore.key=\\\n%s\\\n%s\nafter=1\n",
    "continued key": "ssl.key.password\\\n  =%s\n",
    "continued at the end": "ssl.keystore.key=%s\\\n%s\\",
    "key in one value": "ssl.keystore.key=-----BEGIN PRIVATE KEY-----\\n%s\\n-----END PRIVATE KEY",
    "key in lines": "-----BEGIN PRIVATE KEY-----\n%s\n%s\n-----END PRIVATE KEY-----\nafter=1\n",
    "key that does not end": "x=-----BEGIN ENCRYPTED PRIVATE KEY-----\n%s\n%s\n",
    "two keys": "-----BEGIN PRIVATE KEY-----\\\n%s\n-----END PRIVATE KEY-----\\\n"
    "-----BEGIN PRIVATE KEY-----\n%s\n-----END PRIVATE KEY-----\n",
    "Environment": 'Environment="KAFKA_OPTS=-Dx=1 -Djavax.net.ssl.keyStorePassword=%s"\n',
    "ExecStart": "ExecStart=/usr/bin/java -Djavax.net.ssl.keyStorePassword=%s -cp x Main\n",
    "ExecStart, continued": "ExecStart=/usr/bin/java \\\n  -Da.passwordPath=/a/b.password \\\n"
    "  -Djavax.net.ssl.keyStorePassword=%s \\\n  -cp x Main\n",
    "option": "exec tool --password %s --user a\n",
    "JSON": '{"password": "%s", "user": "a"}\n',
    "YAML": "  password: '%s'\n",
    "XML": "<password>%s</password>\n",
    "after a path": "a.passwordPath=/srv/a b.password=%s\n",
    "after a reference": "ssl.key.password=${dir:/a:b}%s\n",
    "in braces": "ssl.key.password=${%s}\n",
    "a file's name before it": "ssl.key.password file=/%s\n",
    "no text": "ssl.key.password=\xff\xfe%s\n",
    "with the mark": "pass\x01word=%s\nx.password\x01=%s\n",
    "carriage returns": "ssl.key.password=%s\r\nafter=1\r\n",
    "form feed": "ssl.key.password\f%s\n",
}


def filled(form: str, secret: str) -> bytes:
    return form.replace("%s", secret).encode("latin-1")


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_secret_values_are_masked_alike_on_host_and_controller(form: str) -> None:
    text = filled(form, "CANARY")
    assert b"CANARY" not in mask(text)
    assert MASK.encode() in mask(text)
    assert on_host(text) == mask(text)
    for neighbour in (b"before=1\n", b"after=1\n"):
        assert (neighbour in mask(text)) == (neighbour in text)


# A value that ends in a backslash continues its line, so it is tried with a letter behind.
SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=255), min_size=1, max_size=20).map(
    lambda text: f"{text}CANARY"
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(FORMS.values())), SECRETS, st.text("ab=:\\\n# $/", max_size=12))
def test_no_value_in_any_form_survives(form: str, secret: str, around: str) -> None:
    text = f"{around}\n".encode() + filled(form, secret) + f"\n{around}".encode()
    assert b"CANARY" not in mask(text)
    assert on_host(text) == mask(text)


KEPT = [
    "ssl.keystore.password=${dir:/srv/strongbox/kafka/tls:internal.password}",
    "listener.name.internal.ssl.key.password = ${file:/etc/secrets.properties:key}",
    "ssl.keyStore.passwordPath=/srv/strongbox/zookeeper/tls/server.password",
    "sasl.oauthbearer.token.file: /srv/token",
    "ExecStart=/usr/bin/java \\\n  -Dzookeeper.ssl.keyStore.passwordPath=/srv/a.password \\\n"
    "  -Dzookeeper.ssl.trustStore.passwordPath=/srv/b.password \\\n  -cp x Main",
    "EnvironmentFile=/etc/secrets/kafka",
    "log.dirs=/srv/strongbox/kafka/data",
    "ssl.keystore.location=/srv/strongbox/kafka/tls/internal.pem",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "a=b\\\n  c",
    "",
]


@pytest.mark.parametrize("text", KEPT)
@pytest.mark.parametrize("end", ["", "\n"])
def test_references_and_other_lines_stay_readable(text: str, end: str) -> None:
    data = (text + end).encode()
    assert mask(data) == data
    assert on_host(data) == data


PIECES = st.sampled_from(
    ["pass", "word", "Secret", "user_", "keystore.key", "path", "file", "=", ":", " ", "\t", "\n",
     "\\", "\\\n", '"', "'", "/", "/a", "${dir:", "}", "\x01", "\r", "\f", "\0", "ä", "x", "-", "#",
     "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES | st.text(max_size=2), max_size=25).map("".join))
def test_both_sides_agree_on_any_text(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    assert on_host(data) == mask(data)


def test_the_fact_masks_on_the_host_whatever_its_locale(tmp_path: object) -> None:
    """The whole command as a host's shell gets it."""
    path = f"{tmp_path}/server.properties"
    data = b"a=1\nssl.key.password=\xff\xfeCANARY\nssl.keystore.key=\\\nCANARY\nb=\xff\n"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(data)
    fact = TextContents()
    for locale in ("C", "C.UTF-8"):
        result = subprocess.run(
            ["sh", "-c", fact.command([path]).get_raw_value()],
            env={"LC_ALL": locale, "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            check=True,
        )
        encoded = result.stdout.splitlines()[0].split(b"\t")[1]
        assert base64.b64decode(encoded) == mask(data)
        read = fact.process(result.stdout.decode().splitlines())
        assert read is not None
        assert read[path] == [
            "a=1",
            f"ssl.key.password={MASK}",
            f"ssl.keystore.key={MASK}",
            "b=\ufffd",
        ]


@pytest.mark.parametrize("kind", ["pem", "pkcs12"])
def test_what_the_roles_write_stays_readable(kind: str) -> None:
    """It holds no secret; only prose in comments and a list of files may look like one."""
    hosts = {
        "pem": (test_kafka_files.PEM, test_zookeeper_files.PEM),
        "pkcs12": (test_kafka_files.PKCS12, test_zookeeper_files.PKCS12),
    }
    of_kafka, of_zookeeper = hosts[kind]
    written = [
        *kafka_files.wanted(test_kafka_files.host(of_kafka)),
        *zookeeper_files.wanted(test_zookeeper_files.host(of_zookeeper)),
    ]
    files = [item.content for item in written if isinstance(item, ManagedFile)]
    assert len(files) > 5
    for content in files:
        before, after = content.splitlines(), mask(content).splitlines()
        changed = [old for old, new in zip(before, after, strict=True) if old != new]
        assert all(line.startswith((b"#", b"ExecStartPre=")) for line in changed), changed
