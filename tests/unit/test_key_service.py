"""The key service as systemd runs it: a process, a connection from systemd-cryptsetup's address, a
LUKS2 header on a plain file, and an AWS that verifies what it is sent."""

from __future__ import annotations

import base64
import datetime
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st

from roles.custody.protocol import KEY_BYTES, KeyContext, WrappedKey
from roles.volumes import names
from roles.volumes.boot import key_service
from roles.volumes.token import Token
from tests.aws import KEY, OTHER_KEY, REGION, FakeAws
from tests.examples import examples

PROGRAM = Path(key_service.__file__)
CLUSTER, HOST, VOLUME = "payments", "kafka1.example.test", "main"
UUID = names.luks_uuid(CLUSTER, HOST, VOLUME)
CONTEXT = KeyContext(CLUSTER, HOST, VOLUME, "volume")
CANARY = os.urandom(KEY_BYTES)
PATIENCE_S = 120


def cryptsetup(*arguments: str, stdin: bytes = b"") -> bytes:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return subprocess.run(
        ["cryptsetup", *arguments],
        input=stdin,
        env=os.environ | {"PATH": path},
        capture_output=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def formatted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LUKS2 header that CANARY opens, without a token."""
    disk = tmp_path_factory.mktemp("disk") / "disk"
    with disk.open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    cryptsetup(
        "luksFormat", "--batch-mode", "--type", "luks2", "--uuid", UUID, "--pbkdf", "pbkdf2",
        "--pbkdf-force-iterations", "1000", "--key-file", "-", str(disk), stdin=CANARY,
    )  # fmt: skip
    return disk


@pytest.fixture
def aws() -> Iterator[FakeAws]:
    with FakeAws() as made:
        yield made


def wrap(
    aws: FakeAws,
    key: bytes = CANARY,
    context: KeyContext = CONTEXT,
    arn: str = KEY,
    ca: str | None = None,
) -> WrappedKey:
    kms = boto3.client("kms", endpoint_url=aws.kms_url, verify=ca, **aws.operator())
    blob = kms.encrypt(KeyId=arn, Plaintext=key, EncryptionContext=context.as_dict())
    return WrappedKey("aws-kms", arn, base64.b64encode(blob["CiphertextBlob"]).decode())


@dataclass
class Host:
    """A folder in the place of a host: the disk by its UUID, and the service's configuration."""

    folder: Path
    config: Path
    secrets: list[str]

    @property
    def disk(self) -> Path:
        return self.folder / UUID

    def token(self, wrapped: WrappedKey, epoch: int = 1, keyslot: int | None = 0) -> None:
        self.secrets.append(wrapped.ciphertext)
        text = Token(keyslot, epoch, wrapped).to_json()
        cryptsetup("token", "import", "--token-id", str(epoch), str(self.disk), stdin=text.encode())

    def configure(self, **changed: Any) -> None:
        data = json.loads(self.config.read_text()) if self.config.exists() else {}
        self.config.write_text(json.dumps(data | changed))
        self.config.chmod(0o600)

    def ask(self, peer: str | None = None) -> Asked:
        return Asked(
            self, f"\0{os.urandom(6).hex()}/cryptsetup/strongbox-main" if peer is None else peer
        )


class Asked:
    """The service, started for one connection, as `strongbox-key@.service` starts it."""

    def __init__(self, host: Host, peer: str) -> None:
        self.host = host
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{folder}/key.sock")
            listener.listen()
            self.client = socket.socket(socket.AF_UNIX)
            if peer:
                self.client.bind(peer)
            self.client.connect(f"{folder}/key.sock")
            # As systemd does when it reads a key from a socket.
            self.client.shutdown(socket.SHUT_WR)
            connection, _ = listener.accept()
        with connection:
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(PROGRAM), "--config", str(host.config)],
                stdin=connection,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

    def key(self) -> bytes:
        """All that came, until the service closed the connection."""
        self.client.settimeout(PATIENCE_S)
        received = b""
        while part := self.client.recv(4096):
            received += part
        return received

    def ended(self, code: int) -> str:
        """Its log, in which no secret may be."""
        output, log = self.process.communicate(timeout=PATIENCE_S)
        self.client.close()
        assert output == ""
        assert "Traceback" not in log
        for secret in (CANARY.hex(), base64.b64encode(CANARY).decode(), repr(CANARY)[2:-1]):
            assert secret not in log
        for ciphertext in self.host.secrets:
            assert ciphertext not in log
        assert self.process.returncode == code, log
        return log


@pytest.fixture
def host(tmp_path: Path, formatted: Path, aws: FakeAws) -> Host:
    made = Host(tmp_path, tmp_path / "key-service.json", [])
    shutil.copy(formatted, made.disk)
    made.configure(
        cluster=CLUSTER,
        host=HOST,
        volumes={"strongbox-main": {"name": VOLUME, "uuid": UUID}},
        kms_keys=[KEY],
        kms_endpoint=aws.kms_url,
        imds_endpoint=aws.imds_url,
        device_dir=str(tmp_path),
        timeout_s=10,
        retry_first_s=0.001,
        retry_max_s=0.004,
    )
    return made


def test_the_key_arrives_and_opens_the_volume(host: Host, aws: FakeAws) -> None:
    host.token(wrap(aws))
    asked = host.ask()
    key = asked.key()
    assert "strongbox-main: key delivered" in asked.ended(0)
    assert key == CANARY
    cryptsetup("open", "--test-passphrase", "--key-file", "-", str(host.disk), stdin=key)
    (call,) = [call for call in aws.calls if call.operation == "Decrypt"]
    assert call.context == CONTEXT.as_dict()
    assert (call.who, call.key_id) == ("strongbox-host", KEY)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("reset", "KMS does not answer: Connection reset by peer"),
        ("5xx", "KMS cannot serve now (KMSInternalException)"),
        ("throttle", "KMS throttles requests"),
        ("denied", "KMS denies role strongbox-host to decrypt"),
        ("disabled", "the KMS key is disabled: enable it"),
        ("pending deletion", "is it pending deletion?"),
        ("expired", "KMS refuses the credentials of role strongbox-host"),
        ("InvalidSignatureException", "is the clock right?"),
    ],
)
def test_it_waits_out_what_may_pass(host: Host, aws: FakeAws, state: str, said: str) -> None:
    host.token(wrap(aws))
    aws.next(state, state, state)
    asked = host.ask()
    assert asked.key() == CANARY
    log = asked.ended(0)
    assert log.count(said) == 1, "one line for one reason"
    assert "unwrapped after 3 failed attempts" in log


def test_each_change_of_the_reason_is_one_line(host: Host, aws: FakeAws) -> None:
    host.token(wrap(aws))
    aws.next("reset", "reset", "denied", "denied", "disabled", "denied")
    asked = host.ask()
    assert asked.key() == CANARY
    lines = [line for line in asked.ended(0).splitlines() if "trying again" in line]
    assert [line.startswith("<4>strongbox-main: ") for line in lines] == [True] * 4
    assert [("reset" in x, "denies" in x, "disabled" in x) for x in lines] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
        (False, True, False),
    ]


def test_it_waits_while_nothing_listens(host: Host, aws: FakeAws) -> None:
    host.token(wrap(aws))
    aws.set(kms="refused", imds="refused")
    asked = host.ask()
    assert asked.process.stderr is not None
    line = asked.process.stderr.readline()
    assert "the instance metadata service does not answer: Connection refused" in line
    aws.set(imds="no role")
    assert "this instance has no role" in asked.process.stderr.readline()
    aws.set(imds="ok")
    assert "KMS does not answer: Connection refused" in asked.process.stderr.readline()
    aws.set(kms="ok")
    assert asked.key() == CANARY
    asked.ended(0)


def test_credentials_are_fetched_anew_once_they_end(host: Host, aws: FakeAws) -> None:
    host.token(wrap(aws))
    aws.next("denied", "ExpiredTokenException", "denied")
    asked = host.ask()
    assert asked.key() == CANARY
    asked.ended(0)
    assert aws.imds_calls.count("PUT /latest/api/token") == 2


def test_credentials_that_end_soon_are_not_kept(host: Host, aws: FakeAws) -> None:
    host.token(wrap(aws))
    aws.lifetime_s = 60
    aws.next("denied")
    asked = host.ask()
    assert asked.key() == CANARY
    asked.ended(0)
    assert aws.imds_calls.count("PUT /latest/api/token") == 2


@pytest.mark.parametrize(
    "context",
    [
        replace(CONTEXT, host="kafka2.example.test"),
        replace(CONTEXT, volume="data1"),
        replace(CONTEXT, cluster="other"),
        replace(CONTEXT, purpose="recovery"),
    ],
    ids=["host", "volume", "cluster", "purpose"],
)
def test_a_key_of_another_context_is_refused(host: Host, aws: FakeAws, context: KeyContext) -> None:
    host.token(wrap(aws, context=context))
    asked = host.ask()
    assert asked.key() == b""
    assert "it was wrapped for another cluster, host, volume or KMS key" in asked.ended(1)


def test_a_key_under_another_kms_key_is_refused_without_asking(host: Host, aws: FakeAws) -> None:
    host.token(wrap(aws, arn=OTHER_KEY))
    asked = host.ask()
    assert asked.key() == b""
    assert f"its key is not wrapped under {KEY}" in asked.ended(1)
    assert not [call for call in aws.calls if call.operation == "Decrypt"]


def test_a_former_kms_key_unwraps_until_it_is_taken_out(host: Host, aws: FakeAws) -> None:
    host.configure(kms_keys=[KEY, OTHER_KEY])
    host.token(wrap(aws, arn=OTHER_KEY))
    asked = host.ask()
    assert asked.key() == CANARY
    asked.ended(0)
    assert aws.calls[-1].key_id == OTHER_KEY


def test_a_token_that_claims_the_right_kms_key_does_not_help(host: Host, aws: FakeAws) -> None:
    """KMS is told which key to use: that of the ciphertext might belong to an attacker."""
    host.token(replace(wrap(aws, arn=OTHER_KEY), key_id=KEY))
    asked = host.ask()
    assert asked.key() == b""
    assert "IncorrectKeyException" in asked.ended(1)


def test_what_is_no_volume_key_is_not_handed_over(host: Host, aws: FakeAws) -> None:
    host.token(wrap(aws, key=b"short"))
    asked = host.ask()
    assert asked.key() == b""
    assert "is not a volume key of 64 bytes" in asked.ended(1)


def test_the_latest_of_two_keys_is_used(host: Host, aws: FakeAws) -> None:
    host.token(wrap(aws, key=os.urandom(KEY_BYTES)), epoch=1)
    host.token(wrap(aws), epoch=2)
    asked = host.ask()
    assert asked.key() == CANARY
    asked.ended(0)


def test_a_token_without_keyslot_is_passed_over(host: Host, aws: FakeAws) -> None:
    host.token(wrap(aws), epoch=1)
    host.token(wrap(aws, key=os.urandom(KEY_BYTES)), epoch=2, keyslot=None)
    asked = host.ask()
    assert asked.key() == CANARY
    asked.ended(0)


def test_a_volume_without_token_is_refused(host: Host) -> None:
    asked = host.ask()
    assert asked.key() == b""
    assert "has no wrapped key in its LUKS2 tokens: use deploys/unlock.py" in asked.ended(1)


def test_it_waits_for_the_disk(host: Host, aws: FakeAws) -> None:
    host.token(wrap(aws))
    away = host.disk.rename(host.folder / "away")
    asked = host.ask()
    assert asked.process.stderr is not None
    assert f"{host.disk} is not there" in asked.process.stderr.readline()
    away.rename(host.disk)
    assert asked.key() == CANARY
    asked.ended(0)


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        ("", "names no mapping"),
        ("\0abc/cryptsetup/strongbox-data1", "has no volume of that name"),
        ("\0abc/cryptsetup/../strongbox-main", "names no mapping"),
        ("\0abc/cryptenroll/strongbox-main", "names no mapping"),
        ("\0cryptsetup/strongbox-main", "names no mapping"),
        ("\0abc/cryptsetup/strongbox-main\n", "names no mapping"),
    ],
)
def test_another_peer_gets_nothing(host: Host, aws: FakeAws, peer: str, said: str) -> None:
    host.token(wrap(aws))
    before = len(aws.calls)
    # Abstract addresses are the machine's: two test runs may be at work on it.
    asked = host.ask(peer.replace("abc", os.urandom(8).hex()))
    assert asked.key() == b""
    assert said in asked.ended(1)
    assert len(aws.calls) == before


def test_without_a_connection_it_says_who_starts_it(host: Host) -> None:
    result = subprocess.run(
        [sys.executable, "-I", str(PROGRAM), "--config", str(host.config)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "systemd starts this program" in result.stderr


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kms_keys": ["alias/strongbox"]}, "kms_keys are not ARNs of KMS keys"),
        ({"kms_keys": []}, "kms_keys are not ARNs of KMS keys"),
        ({"kms_endpoint": "http://kms.example.test"}, "the key would travel in clear"),
        ({"volumes": None}, "is damaged: run deploys/site.py"),
        ({"volumes": {"strongbox-main": UUID}}, "is damaged: run deploys/site.py"),
        ({"timeout_s": "soon"}, "is damaged: run deploys/site.py"),
    ],
)
def test_a_wrong_configuration_is_refused(host: Host, changed: dict[str, Any], said: str) -> None:
    host.configure(**changed)
    asked = host.ask()
    assert asked.key() == b""
    assert said in asked.ended(1)


def test_a_configuration_that_others_could_read_is_refused(host: Host) -> None:
    host.config.chmod(0o640)
    asked = host.ask()
    assert asked.key() == b""
    assert "is not its owner's alone" in asked.ended(1)


def test_a_missing_configuration_is_refused(host: Host) -> None:
    host.config.unlink()
    asked = host.ask()
    assert asked.key() == b""
    assert "No such file or directory: run deploys/site.py" in asked.ended(1)


def test_it_ends_when_nobody_waits_any_more(host: Host, aws: FakeAws) -> None:
    host.token(wrap(aws))
    host.configure(retry_first_s=3600, retry_max_s=3600)
    aws.kms = "denied"
    asked = host.ask()
    aws.wait_for(lambda calls: any(call.operation == "Decrypt" for call in calls))
    asked.client.close()
    assert "nobody waits for the key any more" in asked.ended(0)


def test_systemd_can_stop_it_while_it_waits(host: Host, aws: FakeAws) -> None:
    host.token(wrap(aws))
    host.configure(retry_first_s=3600, retry_max_s=3600)
    aws.kms = "denied"
    asked = host.ask()
    aws.wait_for(lambda calls: any(call.operation == "Decrypt" for call in calls))
    asked.process.send_signal(signal.SIGTERM)
    assert asked.key() == b""
    assert asked.ended(0).endswith("stopped\n")


def test_kms_without_an_answer_is_given_up_after_a_while(host: Host, aws: FakeAws) -> None:
    host.token(wrap(aws))
    host.configure(timeout_s=0.2)
    aws.next("silent")
    asked = host.ask()
    assert asked.key() == CANARY
    assert "KMS does not answer: no answer in time" in asked.ended(0)


@pytest.mark.parametrize("trusted", [True, False])
def test_kms_must_show_a_certificate_that_is_trusted(host: Host, trusted: bool) -> None:
    with FakeAws(tls=True) as aws:
        ca = host.folder / "ca.pem"
        ca.write_bytes(aws.ca_pem)
        host.configure(kms_endpoint=aws.kms_url, imds_endpoint=aws.imds_url)
        if trusted:
            host.configure(ca_file=str(ca))
        host.token(wrap(aws, ca=str(ca)))
        asked = host.ask()
        if trusted:
            assert asked.key() == CANARY
            asked.ended(0)
            return
        assert asked.process.stderr is not None
        assert "its certificate is not trusted" in asked.process.stderr.readline()
        asked.process.terminate()
        assert asked.key() == b""
        asked.ended(0)


# Signatures


_SAFE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)


@examples(100)
@given(
    access=st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=16, max_size=20),
    secret=_SAFE,
    token=st.one_of(st.just(""), _SAFE),
    body=st.binary(max_size=300),
    more=st.dictionaries(
        st.from_regex(r"x-amz-[a-z]{1,8}-[a-z]{1,8}", fullmatch=True),
        st.text(" abcXYZ0/.=", max_size=20),
        max_size=3,
    ),
    now=st.datetimes(datetime.datetime(2015, 1, 1), datetime.datetime(2100, 1, 1)),
    url=st.sampled_from(["https://kms.eu-central-1.amazonaws.com", "http://127.0.0.1:8200", "https://[::1]:8443/"]),
)  # fmt: skip
def test_signatures_are_those_of_botocore(
    access: str, secret: str, token: str, body: bytes, more: dict[str, str], now: Any, url: str
) -> None:
    headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "TrentService.Decrypt"}
    headers |= more
    ours = key_service.signature_headers(
        key_service.Credentials("role", access, secret, token, 0.0),
        REGION, "kms", url, headers, body, now.replace(tzinfo=datetime.UTC),
    )  # fmt: skip
    request = AWSRequest("POST", url, dict(headers), body)
    signer = SigV4Auth(BotoCredentials(access, secret, token or None), "kms", REGION)
    request.context["timestamp"] = now.strftime("%Y%m%dT%H%M%SZ")
    signer._modify_request_before_signing(request)
    canonical = signer.canonical_request(request)
    signature = signer.signature(signer.string_to_sign(request, canonical), request)
    signer._inject_signature_to_request(request, signature)
    assert ours["authorization"] == request.headers["Authorization"]


def test_the_service_and_the_toolkit_agree() -> None:
    """The program stands alone on a host, so it repeats what these modules say."""
    assert key_service.KEY_BYTES == KEY_BYTES
    assert key_service.TOKEN_TYPE == names.TOKEN_TYPE
