from __future__ import annotations

from typing import Any

import pytest

from roles.common.settings import SettingsError
from roles.custody import build
from roles.custody.settings import CustodySettings

from .tls_support import canary

RECIPIENT = "age1zxra6wa6x2nncsg6kl9drcfhyucw75uz8v9e2xwh5npqps9avu2qln0hjr"
ARN = "arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-0000-0000-000000000000"


def test_defaults_ask_nobody() -> None:
    settings = CustodySettings.load({})
    assert (settings.kind, settings.records_dir) == ("local", "custody")
    assert build.custody(settings).describe() == "local: no age recipients"


@pytest.mark.parametrize("command", ["pass show 'kafka age'", ["pass", "show", "kafka age"]])
def test_identity_command_is_text_or_words(command: Any) -> None:
    settings = CustodySettings.load({"custody_identity_command": command})
    assert settings.identity_command == ("pass", "show", "kafka age")


def test_recipients_have_no_order() -> None:
    other = RECIPIENT[:-1] + "q"
    first, second = (
        CustodySettings.load({"custody_recipients": value})
        for value in ([RECIPIENT, other], [other, RECIPIENT, other])
    )
    assert first == second


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"custody_kind": "vault"}, "'local' or 'aws-kms'"),
        ({"custody_recipients": ["age1short"]}, "must be age recipients"),
        ({"custody_recipients": ["AGE-SECRET-KEY-1{canary}"]}, "holds an age identity"),
        ({"custody_identity_command": "pass 'show"}, "unbalanced quotes"),
        ({"custody_identity_command": []}, "names no program"),
        ({"custody_identity_command": ["pass", 3]}, "must be text or a list of words"),
        (
            {"custody_identity_command": "pass {canary}", "custody_identity_file": "f"},
            "set one of them",
        ),
        ({"custody_kind": "aws-kms"}, "custody_kms_key: is required"),
        ({"custody_kms_key": "alias/kafka"}, "must be a key's ARN"),
        ({"custody_kms_key": ARN.replace("key/", "alias/")}, "must be a key's ARN"),
        ({"custody_kms_old_keys": ["alias/kafka"]}, "must be keys' ARNs"),
        ({"custody_kms_endpoint": "http://kms.example.com"}, "must be an https URL"),
        ({"custody_kms_endpoint": "https://u:{canary}@kms.example.com"}, "without path or"),
    ],
)
def test_refused(data: dict[str, Any], reason: str) -> None:
    secret = canary().upper()

    def fill(value: Any) -> Any:
        if isinstance(value, list):
            return [fill(item) for item in value]
        return value.replace("{canary}", secret) if isinstance(value, str) else value

    with pytest.raises(SettingsError) as error:
        CustodySettings.load({key: fill(value) for key, value in data.items()}, "kafka1")
    assert reason in str(error.value)
    assert str(error.value).startswith("kafka1: custody_")
    assert secret not in str(error.value)


def test_region_is_that_of_the_key() -> None:
    settings = CustodySettings.load({"custody_kind": "aws-kms", "custody_kms_key": ARN})
    assert settings.kms_region == "eu-central-1"
