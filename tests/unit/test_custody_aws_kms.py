from __future__ import annotations

import base64
import io
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import exceptions as failures
from botocore.exceptions import BotoCoreError, ClientError
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st
from moto import mock_aws

from roles.custody import aws_kms, build, identity, kms_errors
from roles.custody.aws_kms import AwsKmsCustody
from roles.custody.protocol import (
    KEY_BYTES,
    Custody,
    CustodyAway,
    CustodyError,
    KeyContext,
    WrappedKey,
)
from roles.custody.quiet_logs import quiet
from roles.custody.settings import CustodySettings
from tests.examples import examples

from .custody_support import CONTEXT, contexts
from .tls_support import canary

REGION = "eu-central-1"
ARN = f"arn:aws:kms:{REGION}:123456789012:key/00000000-0000-0000-0000-000000000000"
OTHER = ARN[:-1] + "1"


# A client of boto3 takes half a second to make, so tests share them.
@pytest.fixture(autouse=True, scope="module")
def credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_CONFIG_FILE", "/absent")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/absent")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def aws(credentials: None) -> Iterator[Any]:
    with mock_aws():
        yield boto3.client("kms", region_name=REGION)


def made_key(aws: Any) -> str:
    return str(aws.create_key()["KeyMetadata"]["Arn"])


@pytest.fixture(scope="module")
def custody(aws: Any) -> AwsKmsCustody:
    return AwsKmsCustody(made_key(aws))


@pytest.fixture(scope="module")
def never_sent(credentials: None) -> AwsKmsCustody:
    return AwsKmsCustody(ARN)


@pytest.fixture
def stubbed(never_sent: AwsKmsCustody) -> Iterator[tuple[AwsKmsCustody, Stubber]]:
    with Stubber(never_sent._client(REGION)) as stubber:
        yield never_sent, stubber


def test_new_key_comes_back(custody: AwsKmsCustody) -> None:
    protocol: Custody = custody
    key, wrapped = protocol.new_key(CONTEXT)
    assert len(key) == KEY_BYTES
    assert protocol.is_current(wrapped)
    assert WrappedKey.from_dict(json.loads(json.dumps(wrapped.as_dict()))) == wrapped
    assert protocol.unwrap(wrapped, CONTEXT) == key


@examples(25)
@given(made_for=contexts, asked_for=contexts, key=st.binary(min_size=16, max_size=512))
def test_what_was_wrapped_comes_back_and_only_under_its_context(
    custody: AwsKmsCustody, made_for: KeyContext, asked_for: KeyContext, key: bytes
) -> None:
    wrapped = custody.wrap(key, made_for)
    assert custody.unwrap(wrapped, made_for) == key
    if asked_for != made_for:
        with pytest.raises(CustodyError, match="was not made for the") as error:
            custody.unwrap(wrapped, asked_for)
        assert str(asked_for) in str(error.value)


def test_rotation_to_another_key(aws: Any, custody: AwsKmsCustody) -> None:
    key, wrapped = custody.new_key(CONTEXT)
    arn = made_key(aws)
    new = AwsKmsCustody(arn, old_keys=(custody._key,))
    assert not new.is_current(wrapped)
    assert new.unwrap(wrapped, CONTEXT) == key
    rotated = new.rotate(wrapped, CONTEXT)
    assert new.is_current(rotated)
    assert new.unwrap(rotated, CONTEXT) == key
    for ask in (AwsKmsCustody(arn).unwrap, AwsKmsCustody(arn).rotate):
        with pytest.raises(CustodyError, match="add it to custody_kms_old_keys"):
            ask(wrapped, CONTEXT)


def test_rotation_to_a_key_of_another_region(custody: AwsKmsCustody) -> None:
    key, wrapped = custody.new_key(CONTEXT)
    there = made_key(boto3.client("kms", region_name="eu-west-1"))
    new = AwsKmsCustody(there, old_keys=(custody._key,))
    rotated = new.rotate(wrapped, CONTEXT)
    assert rotated.key_id == there
    assert AwsKmsCustody(there).unwrap(rotated, CONTEXT) == key


def test_from_local_custody_and_back(tmp_path: Path, custody: AwsKmsCustody) -> None:
    recipient = identity.create(tmp_path / "id")
    kms = {"custody_kms_key": custody._key}
    age = {"custody_recipients": [recipient], "custody_identity_file": str(tmp_path / "id")}
    local = build.custody(CustodySettings.load(age))
    forth = build.custody(CustodySettings.load({"custody_kind": "aws-kms", **kms, **age}))
    back = build.custody(CustodySettings.load({"custody_kms_old_keys": [custody._key], **age}))
    key, wrapped = local.new_key(CONTEXT)
    assert forth.unwrap(wrapped, CONTEXT) == key
    assert not forth.is_current(wrapped)
    with pytest.raises(CustodyError, match="is the volume key"):
        forth.rotate(wrapped, replace(CONTEXT, host="kafka2.test"))
    there = forth.rotate(wrapped, CONTEXT)
    assert forth.is_current(there)
    assert custody.unwrap(there, CONTEXT) == back.unwrap(there, CONTEXT) == key
    assert custody.is_current(forth.rotate(there, CONTEXT))
    again = back.rotate(there, CONTEXT)
    assert back.is_current(again)
    assert local.unwrap(again, CONTEXT) == key
    for item in (forth, back):
        made, under = item.new_key(CONTEXT)
        assert item.is_current(under)
        assert item.is_current(item.wrap(made, CONTEXT))
        assert "still open" in item.describe()
        assert "AGE-SECRET-KEY" not in repr(item)


def test_rotation_under_the_wrong_context(custody: AwsKmsCustody) -> None:
    _, wrapped = custody.new_key(CONTEXT)
    with pytest.raises(CustodyError, match="was not made for"):
        custody.rotate(wrapped, replace(CONTEXT, host="kafka2.test"))


def test_missing_key(aws: Any) -> None:
    with pytest.raises(CustodyError, match="there is no such key: correct custody_kms_key"):
        AwsKmsCustody(ARN).new_key(CONTEXT)


def test_key_of_the_other_custody(custody: AwsKmsCustody) -> None:
    for ask in (custody.unwrap, custody.rotate):
        with pytest.raises(CustodyError, match="custody_kind = 'local': set custody_identity"):
            ask(WrappedKey("age", "sha256:…", "AAAA"), CONTEXT)


@pytest.mark.parametrize("size", [0, 15, 513])
def test_key_of_no_sensible_length(custody: AwsKmsCustody, size: int) -> None:
    with pytest.raises(CustodyError, match="16 to 512"):
        custody.wrap(b"k" * size, CONTEXT)


REFUSED = [
    ("AccessDeniedException", 400, "may not use kms:Decrypt on it.*strongbox custody policy"),
    ("DisabledException", 400, f"the key is disabled: aws kms enable-key --key-id {ARN}"),
    ("KMSInvalidStateException", 400, "pending deletion.*cancel-key-deletion --key-id"),
    ("NotFoundException", 400, "there is no such key"),
    ("InvalidCiphertextException", 400, "was not made for the volume key"),
    ("IncorrectKeyException", 400, "under another KMS key"),
    ("InvalidKeyUsageException", 400, "must be a symmetric key"),
    ("ExpiredTokenException", 400, "the AWS session has expired: log in again"),
    ("UnrecognizedClientException", 400, "does not accept the credentials"),
    ("InvalidSignatureException", 400, "this machine's clock"),
    ("SomethingNewException", 400, r"KMS refuses it \(SomethingNewException\)"),
]
AWAY = [
    ("ThrottlingException", 400),
    ("LimitExceededException", 400),
    ("KMSInternalException", 500),
    ("DependencyTimeoutException", 503),
    ("KeyUnavailableException", 500),
    ("ServiceUnavailable", 503),
    ("UnheardOf", 502),
    ("UnheardOf", 429),
]


def stub_error(stubber: Stubber, code: str, status: int, secret: str) -> None:
    text = f"{ARN} is pending deletion. {secret}"
    stubber.add_client_error("decrypt", code, text, status)


@pytest.mark.parametrize(("code", "status", "reason"), REFUSED)
def test_refusal(
    stubbed: tuple[AwsKmsCustody, Stubber], code: str, status: int, reason: str
) -> None:
    custody, stubber = stubbed
    secret = canary()
    stub_error(stubber, code, status, secret)
    with pytest.raises(CustodyError, match=reason) as error:
        custody.unwrap(WrappedKey("aws-kms", ARN, "AAAA"), CONTEXT)
    assert not isinstance(error.value, CustodyAway)
    assert f"kms:Decrypt with KMS key {ARN}" in str(error.value)
    assert str(CONTEXT) in str(error.value)
    assert secret not in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(("code", "status"), AWAY)
def test_away(stubbed: tuple[AwsKmsCustody, Stubber], code: str, status: int) -> None:
    custody, stubber = stubbed
    secret = canary()
    stub_error(stubber, code, status, secret)
    with pytest.raises(CustodyAway, match=rf"cannot serve it now \({code}\)") as error:
        custody.unwrap(WrappedKey("aws-kms", ARN, "AAAA"), CONTEXT)
    assert secret not in str(error.value)


def test_other_unusable_states(stubbed: tuple[AwsKmsCustody, Stubber]) -> None:
    custody, stubber = stubbed
    stubber.add_client_error("encrypt", "KMSInvalidStateException", "is pending import")
    with pytest.raises(CustodyError, match=r"kms:Encrypt .*describe-key"):
        custody.wrap(b"k" * 64, CONTEXT)


@pytest.mark.parametrize(
    ("failure", "reason", "away"),
    [
        (failures.NoCredentialsError(), "no usable AWS credentials", False),
        (failures.ProfileNotFound(profile="x"), "no usable AWS credentials", False),
        (failures.UnauthorizedSSOTokenError(), "no usable AWS credentials", False),
        (failures.SSLError(endpoint_url="x", error="y"), "certificate of the KMS", False),
        (failures.EndpointConnectionError(endpoint_url="x"), "does not answer", True),
        (failures.ConnectTimeoutError(endpoint_url="x"), "does not answer", True),
        (failures.ReadTimeoutError(endpoint_url="x"), "does not answer", True),
        (failures.ProxyConnectionError(proxy_url="x"), "does not answer", True),
        (failures.ConnectionClosedError(endpoint_url="x"), "does not answer", True),
        (failures.ParamValidationError(report="the key"), "boto3 cannot ask for it", False),
    ],
)
def test_failures_of_boto3(failure: BotoCoreError, reason: str, away: bool) -> None:
    error = kms_errors.meaning(failure, "kms:Decrypt", ARN, CONTEXT)
    assert reason in str(error)
    assert isinstance(error, CustodyAway) == away
    assert "the key" not in str(error).removeprefix("kms:Decrypt with").replace(str(CONTEXT), "")


def test_nothing_is_passed_on_of_an_answer_without_a_code() -> None:
    error = kms_errors.meaning(ClientError({}, "Decrypt"), "kms:Decrypt", ARN, CONTEXT)
    assert "KMS refuses it ()" in str(error)


def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CustodyError, match=r"no usable AWS credentials \(NoCredentialsError\)"):
        AwsKmsCustody(ARN).new_key(CONTEXT)


def test_endpoint_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_kms, "ATTEMPTS", 1)
    with socket.socket() as taken:
        # Bound and not listening: a connection is refused at once.
        taken.bind(("127.0.0.1", 0))
        custody = AwsKmsCustody(ARN, f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(CustodyAway, match=r"does not answer \(EndpointConnectionError\)"):
            custody.new_key(CONTEXT)


def test_environment_does_not_choose_where_keys_go(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"):
        monkeypatch.setenv(name, "http://attacker.test")
    assert (
        AwsKmsCustody(ARN)._client(REGION).meta.endpoint_url
        == f"https://kms.{REGION}.amazonaws.com"
    )


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("generate_data_key", {"Plaintext": b"k" * 64, "CiphertextBlob": b"c", "KeyId": OTHER}),
        ("generate_data_key", {"Plaintext": b"k" * 32, "CiphertextBlob": b"c", "KeyId": ARN}),
        ("encrypt", {"CiphertextBlob": b"c", "KeyId": OTHER}),
        ("decrypt", {"Plaintext": b"k" * 64, "KeyId": OTHER}),
        ("re_encrypt", {"CiphertextBlob": b"c", "KeyId": OTHER}),
    ],
)
def test_answer_with_another_key(
    stubbed: tuple[AwsKmsCustody, Stubber], method: str, answer: dict[str, Any]
) -> None:
    custody, stubber = stubbed
    stubber.add_response(method, answer)
    wrapped = WrappedKey("aws-kms", ARN, "AAAA")
    calls = {
        "generate_data_key": lambda: custody.new_key(CONTEXT),
        "encrypt": lambda: custody.wrap(b"k" * 64, CONTEXT),
        "decrypt": lambda: custody.unwrap(wrapped, CONTEXT),
        "re_encrypt": lambda: custody.rotate(wrapped, CONTEXT),
    }
    with pytest.raises(CustodyError, match="answered with another key"):
        calls[method]()


def test_debug_logs_hold_no_key(aws: Any, custody: AwsKmsCustody) -> None:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    names = ["", "boto3", "botocore", "botocore.endpoint", "botocore.parsers", "urllib3"]
    before = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.DEBUG)
        logging.getLogger().addHandler(handler)
        secret = canary().encode()
        made, wrapped = custody.new_key(CONTEXT)
        sealed = custody.wrap(secret, CONTEXT)
        assert custody.unwrap(sealed, CONTEXT) == secret
        custody.unwrap(wrapped, CONTEXT)
        custody.rotate(wrapped, CONTEXT)
        shown = log.getvalue()
        # The same call without our care shows it: the test would find a leak.
        aws.encrypt(KeyId=custody._key, Plaintext=secret)
        assert base64.b64encode(secret).decode() in log.getvalue()
        assert logging.getLogger("botocore.parsers").level == logging.DEBUG
    finally:
        logging.getLogger().removeHandler(handler)
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
    for key in (secret, made):
        for form in (key.hex(), base64.b64encode(key).decode(), repr(key)[2:-1]):
            assert form not in shown
    for item in (wrapped, sealed):
        assert item.ciphertext not in shown


def test_levels_come_back_when_the_last_one_leaves() -> None:
    logger = logging.getLogger("botocore.parsers")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    with quiet():
        with quiet():
            assert not logger.isEnabledFor(logging.CRITICAL)
        assert not logger.isEnabledFor(logging.CRITICAL)
    assert logger.level == logging.DEBUG
    logger.setLevel(before)


def test_settings_choose_it() -> None:
    settings = CustodySettings.load({"custody_kind": "aws-kms", "custody_kms_key": ARN})
    assert build.custody(settings).describe() == f"aws-kms: whoever the policy of {ARN} lets"


def test_local_custody_does_not_import_boto3() -> None:
    program = (
        "import sys\n"
        "from roles.custody import build, records\n"
        "from roles.custody.settings import CustodySettings\n"
        "print(build.custody(CustodySettings()).describe(), 'boto3' in sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert result.stdout == b"local: no age recipients False\n"
