from __future__ import annotations

import pytest

from roles.common.settings import SettingsError
from roles.tls.keys import KeyType
from roles.tls.passphrase import PassphraseSource
from roles.tls.settings import TlsSettings, problems
from roles.tls.stores import StoreType


def test_defaults() -> None:
    settings = TlsSettings.load({})
    assert settings.authority_dir == "ca"
    assert settings.key_type is KeyType.EC_P256
    assert settings.store_type is StoreType.PEM
    assert settings.leaf_days == 365
    assert settings.authority_days == 3650
    assert settings.renew_fraction == pytest.approx(1 / 3)
    assert settings.passphrase_source == PassphraseSource(variable="STRONGBOX_CA_PASSPHRASE")


def test_every_setting_is_described() -> None:
    assert all(field.description for field in TlsSettings.model_fields.values())


@pytest.mark.parametrize(
    ("data", "source"),
    [
        ({"tls_passphrase_file": "ca.pass"}, PassphraseSource(file="ca.pass")),
        (
            {"tls_passphrase_command": "pass show 'kafka ca'"},
            PassphraseSource(command=("pass", "show", "kafka ca")),
        ),
        (
            {"tls_passphrase_command": ["pass", "show", "kafka ca"]},
            PassphraseSource(command=("pass", "show", "kafka ca")),
        ),
        ({"tls_passphrase_env": "CA_WORD"}, PassphraseSource(variable="CA_WORD")),
    ],
)
def test_passphrase_sources(data: dict[str, object], source: PassphraseSource) -> None:
    assert TlsSettings.load(data).passphrase_source == source


def test_choices_may_be_given_as_text() -> None:
    settings = TlsSettings.load({"tls_key_type": "rsa-3072", "tls_store_type": "pkcs12"})
    assert settings.key_type is KeyType.RSA_3072
    assert settings.store_type is StoreType.PKCS12


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"tls_key_type": "rsa-2048"}, "tls_key_type: rsa-2048 is refused: 2048-bit RSA"),
        ({"tls_key_type": "ed25519"}, "not every Java client"),
        ({"tls_key_type": "dsa"}, "must be 'ec-p256' or 'rsa-3072'"),
        ({"tls_key_type": 3}, "must be 'ec-p256' or 'rsa-3072'"),
        ({"tls_store_type": "JKS"}, "jks is refused"),
        ({"tls_store_type": ["pem"]}, "must be 'pem' or 'pkcs12'"),
        ({"tls_leaf_days": 0}, "at least 1 day"),
        ({"tls_leaf_days": 826}, "tls_leaf_days: 826 days is refused: a stolen key"),
        ({"tls_leaf_days": "365"}, "tls_leaf_days"),
        ({"tls_leaf_days": 400, "tls_authority_days": 399}, "cannot outlive its authority"),
        ({"tls_authority_days": 1}, "between 2 and"),
        ({"tls_renew_fraction": 0.0}, "0.05 to 0.8"),
        ({"tls_renew_fraction": 0.9}, "0.05 to 0.8"),
        ({"tls_passphrase_file": ""}, "tls_passphrase_file: is empty"),
        ({"tls_passphrase_command": "pass 'show"}, "unbalanced quotes"),
        ({"tls_passphrase_command": []}, "names no program"),
        ({"tls_passphrase_command": ["pass", 3]}, "must be text or a list of words"),
        ({"tls_passphrase_env": "A=B"}, "not the name of an environment variable"),
        ({"tls_passphrase_file": "f", "tls_passphrase_env": "V"}, "are both set"),
        (
            {
                "tls_passphrase_file": "f",
                "tls_passphrase_env": "V",
                "tls_passphrase_command": "c",
            },
            "are all set",
        ),
        ({"tls_extra_names": ["Kafka.Example"]}, "not a host name"),
        ({"tls_leafdays": 3}, "did you mean 'tls_leaf_days'?"),
    ],
)
def test_refusals_name_the_reason(data: dict[str, object], reason: str) -> None:
    with pytest.raises(SettingsError) as error:
        TlsSettings.load(data, "kafka1")
    assert reason in str(error.value)
    assert all(line.startswith("kafka1: ") for line in str(error.value).splitlines())


def test_hosts_must_agree_on_what_the_controller_does_once() -> None:
    hosts = {
        "kafka1": TlsSettings.load({}),
        "kafka2": TlsSettings.load({"tls_authority_dir": "other", "tls_passphrase_file": "f"}),
    }
    found = problems(hosts, {"kafka1": "kafka1", "kafka2": "kafka2"})
    assert len(found) == 2
    assert "tls_authority_dir differs between kafka1 and kafka2" in found[0]
    assert "tls_passphrase_* differs" in found[1]


def test_hosts_may_differ_in_their_own_stores() -> None:
    hosts = {
        "kafka1": TlsSettings.load({"tls_store_type": "pkcs12"}),
        "kafka2": TlsSettings.load({"tls_key_type": "rsa-3072"}),
    }
    assert problems(hosts, {"kafka1": "kafka1", "kafka2": "kafka2"}) == []


def test_a_host_name_must_fit_a_subject() -> None:
    name = "a" * 40 + "." + "b" * 24
    found = problems({"kafka1": TlsSettings.load({})}, {"kafka1": name})
    assert len(found) == 1
    assert "longer than 64" in found[0]
    assert problems({"kafka1": TlsSettings.load({})}, {"kafka1": name[:64]}) == []
