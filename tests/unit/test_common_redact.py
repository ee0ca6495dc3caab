import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.common.redact import MASK, SED, mask_line


def on_host(text: str) -> str:
    """What the sed expression that runs on hosts makes of the text."""
    return subprocess.run(
        ["sed", "-E", SED], input=text, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    "key",
    [
        "ssl.key.password",
        "listener.name.client.ssl.keystore.password",
        "sasl.jaas.config",
        "listener.name.client.scram-sha-512.sasl.jaas.config",
        "ssl.keystore.key",
        "password.encoder.secret",
        "PASSWORD",
        "some.token",
    ],
)
@pytest.mark.parametrize("separator", ["=", " = ", ":"])
def test_secret_values_are_masked_alike_on_host_and_controller(key: str, separator: str) -> None:
    line = f"{key}{separator}CANARY-in-properties"
    assert "CANARY" not in mask_line(line)
    assert MASK in mask_line(line)
    assert on_host(line) == mask_line(line)


@pytest.mark.parametrize(
    "line",
    [
        "ssl.keystore.password=${dir:/srv/strongbox/kafka/tls:internal.password}",
        "ssl.keyStore.passwordPath=/srv/strongbox/zookeeper/tls/server.password",
        "# the password is kept elsewhere = see tls/",
        "log.dirs=/srv/strongbox/kafka/data",
        "",
    ],
)
def test_references_and_other_lines_stay_readable(line: str) -> None:
    assert mask_line(line) == line
    assert on_host(line) == line


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(codec="ascii", exclude_characters="\n\r\0"), max_size=60))
def test_both_sides_agree_on_any_line(line: str) -> None:
    assert on_host(line + "\n") == mask_line(line) + "\n"
