"""A small AWS for tests: KMS and the instance metadata service (IMDSv2), over real HTTP.

Unlike moto it verifies signatures (recomputed by botocore), holds keys to their encryption
context, and can be made to fail in all the ways that the key service must outlast::

    with FakeAws() as aws:
        boto3.client("kms", endpoint_url=aws.kms_url, **aws.operator())
        aws.next("reset", "AccessDeniedException")   # of the next two requests to KMS
        aws.kms = "refused"                          # from now on

For hosts of a lab: ``python -m tests.aws --listen 10.77.0.1 --port 8200 --state FILE``, with IMDS
on the next port. FILE is JSON such as ``{"kms": "denied", "imds": "ok"}``, read before each
request; the calls are appended to FILE.calls, one JSON object a line. Key material follows from a
key's ARN, so a restart loses nothing. Never for anything but tests.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime
import hashlib
import hmac
import ipaddress
import json
import os
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import NameOID

REGION = "eu-central-1"
KEY = f"arn:aws:kms:{REGION}:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KEY = f"arn:aws:kms:{REGION}:111122223333:key/9999abcd-12ab-34cd-56ef-1234567890ab"
ROLE = "strongbox-host"
#: Of IMDS: every state but ``ok``; of KMS those, and `FAILURES`, and any error code of AWS.
#: ``refused``: nothing listens. ``reset``: the connection is cut. ``silent``: no answer, ever.
AWAY = ("refused", "reset", "silent")
FAILURES = {
    "5xx": "KMSInternalException",
    "throttle": "ThrottlingException",
    "denied": "AccessDeniedException",
    "disabled": "DisabledException",
    "pending deletion": "KMSInvalidStateException",
    "expired": "ExpiredTokenException",
}
_OPERATOR = ("AKIAOPERATOROPERATOR", "operator-secret-key-of-the-fake-aws")
_SKEW_S = 900


class KmsError(Exception):
    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(code)
        self.code, self.message, self.status = code, message, status


@dataclass(frozen=True)
class Call:
    """One request to KMS.

    :param who: a role, or ``operator``.
    :param error: empty when it was served.
    """

    operation: str
    who: str
    context: dict[str, str]
    key_id: str
    error: str


@dataclass
class FakeAws:
    """Serves while it is entered; ports are chosen when they are 0.

    :param keys: ARNs of the KMS keys that exist.
    :param tls: serve KMS over TLS with a certificate of the authority in `ca_pem`.
    :param state_file: see the module.
    :param lifetime_s: of the credentials that IMDS gives.
    """

    listen: str = "127.0.0.1"
    kms_port: int = 0
    imds_port: int = 0
    tls: bool = False
    state_file: Path | None = None
    keys: tuple[str, ...] = (KEY, OTHER_KEY)
    kms: str = "ok"
    imds: str = "ok"
    lifetime_s: float = 6 * 3600
    calls: list[Call] = field(default_factory=list)
    imds_calls: list[str] = field(default_factory=list)
    ca_pem: bytes = b""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._ports = threading.Lock()
        self._next: list[str] = []
        self._imds_tokens: set[str] = set()
        self._sessions: dict[str, tuple[str, str, float]] = {}
        self._servers: dict[str, _Server] = {}
        self._tls: ssl.SSLContext | None = None
        self._watch: threading.Thread | None = None
        self._ended = threading.Event()

    # Life

    def __enter__(self) -> FakeAws:
        if self.tls:
            self.ca_pem, self._tls = _certificate(self.listen)
        self._open("kms")
        self._open("imds")
        if self.state_file is not None:
            self._watch = threading.Thread(target=self._follow, daemon=True)
            self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._watch is not None:
            self._watch.join()
        for name in list(self._servers):
            self._close(name)

    def _open(self, name: str) -> None:
        handler = _Kms if name == "kms" else _Imds
        port = self.kms_port if name == "kms" else self.imds_port
        server = _Server((self.listen, port), handler, self)
        if name == "kms":
            self.kms_port = server.server_port
            if self._tls is not None:
                # The handshake belongs to the connection's own thread.
                server.socket = self._tls.wrap_socket(
                    server.socket, server_side=True, do_handshake_on_connect=False
                )
        else:
            self.imds_port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self._servers[name] = server

    def _close(self, name: str) -> None:
        server = self._servers.pop(name)
        server.shutdown()
        server.server_close()

    def _follow(self) -> None:
        """Opens and closes the ports as the state file says."""
        while not self._ended.wait(0.1):
            self.refresh()

    # State

    @property
    def kms_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.listen}:{self.kms_port}"

    @property
    def imds_url(self) -> str:
        return f"http://{self.listen}:{self.imds_port}"

    def operator(self) -> dict[str, str]:
        """Arguments for `boto3.client` on the controller."""
        access, secret = _OPERATOR
        return {
            "region_name": REGION,
            "aws_access_key_id": access,
            "aws_secret_access_key": secret,
        }

    def next(self, *states: str) -> None:
        """States of the next requests to KMS, one each; then `kms` is the state again."""
        with self._lock:
            self._next += states

    def set(self, kms: str | None = None, imds: str | None = None) -> None:
        """Changes states; only this closes and opens ports for ``refused``."""
        with self._ports:
            for name, state in (("kms", kms), ("imds", imds)):
                if state is None:
                    continue
                setattr(self, name, state)
                if state == "refused" and name in self._servers:
                    self._close(name)
                elif state != "refused" and name not in self._servers:
                    self._open(name)

    def expire(self) -> None:
        """Ends all sessions, as if their time were over; IMDS gives new ones."""
        with self._lock:
            self._sessions.clear()

    def refresh(self) -> None:
        """Takes the states from the state file; one that is half written is left for later."""
        if self.state_file is None:
            return
        try:
            data = json.loads(self.state_file.read_text())
        except (OSError, ValueError):
            return
        with contextlib.suppress(OSError):
            self.set(data.get("kms", "ok"), data.get("imds", "ok"))

    def wait_for(self, seen: Callable[[list[Call]], bool], timeout_s: float = 30) -> None:
        """Until the calls are as wanted; asserts that they become so."""
        with self._changed:
            assert self._changed.wait_for(lambda: seen(self.calls), timeout_s), self.calls

    def take_state(self) -> str:
        with self._lock:
            return self._next.pop(0) if self._next else self.kms

    def record(self, call: Call) -> None:
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()
            if self.state_file is not None:
                with self.state_file.with_name(f"{self.state_file.name}.calls").open("a") as file:
                    file.write(json.dumps(asdict(call)) + "\n")

    # IMDS

    def imds_token(self) -> str:
        token = base64.b64encode(os.urandom(30)).decode()
        with self._lock:
            self._imds_tokens.add(token)
        return token

    def knows_imds_token(self, token: str | None) -> bool:
        with self._lock:
            return token in self._imds_tokens

    def session(self) -> dict[str, str]:
        access, secret, token = (
            f"ASIA{os.urandom(8).hex().upper()}",
            os.urandom(20).hex(),
            base64.b64encode(os.urandom(60)).decode(),
        )
        ends = time.time() + self.lifetime_s
        with self._lock:
            self._sessions[access] = (secret, token, ends)
        expires = datetime.datetime.fromtimestamp(ends, datetime.UTC)
        return {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "LastUpdated": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "AccessKeyId": access,
            "SecretAccessKey": secret,
            "Token": token,
            "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    # Signatures

    def verify(self, url: str, headers: Any, body: bytes) -> str:
        """Who signed this request.

        :raises KmsError: when its signature is not right.
        """
        scheme, _, rest = (headers.get("authorization") or "").partition(" ")
        if scheme != "AWS4-HMAC-SHA256":
            raise KmsError("MissingAuthenticationTokenException", "Missing Authentication Token")
        fields = dict(item.strip().split("=", 1) for item in rest.split(","))
        access, date, region, service, ending = fields["Credential"].split("/")
        if (region, service, ending) != (REGION, "kms", "aws4_request"):
            raise KmsError("InvalidSignatureException", "Credential should be scoped to a region")
        who, secret, token = self._identity(access)
        signed = fields["SignedHeaders"].split(";")
        required = {"host", "x-amz-date", "x-amz-target"} | (
            {"x-amz-security-token"} if token else set()
        )
        if not required <= set(signed) or signed != sorted(signed):
            raise KmsError("InvalidSignatureException", f"not signed: {required - set(signed)}")
        if token and not hmac.compare_digest(headers["x-amz-security-token"], token):
            raise KmsError("UnrecognizedClientException", "The security token is invalid")
        stamp = headers["x-amz-date"]
        made = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
        if abs((datetime.datetime.now(datetime.UTC) - made).total_seconds()) > _SKEW_S:
            raise KmsError("InvalidSignatureException", "Signature expired")
        request = AWSRequest(
            "POST", url, {name: headers[name] for name in signed if headers.get(name)}, body
        )
        request.context["timestamp"] = stamp
        signer = SigV4Auth(Credentials(access, secret, token or None), service, region)
        expected = signer.signature(
            signer.string_to_sign(request, signer.canonical_request(request)), request
        )
        if date != stamp[:8] or not hmac.compare_digest(expected, fields["Signature"]):
            raise KmsError("InvalidSignatureException", "The signature does not match")
        return who

    def _identity(self, access: str) -> tuple[str, str, str]:
        if access == _OPERATOR[0]:
            return "operator", _OPERATOR[1], ""
        with self._lock:
            found = self._sessions.get(access)
        if found is None or found[2] < time.time():
            raise KmsError("ExpiredTokenException", "The security token has expired")
        return ROLE, found[0], found[1]

    # KMS

    def serve(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        served = {
            "Decrypt": self._decrypt,
            "DescribeKey": self._describe,
            "Encrypt": self._encrypt,
            "GenerateDataKey": self._data_key,
            "GenerateDataKeyWithoutPlaintext": self._data_key,
            "ReEncrypt": self._reencrypt,
        }.get(operation)
        if served is None:
            raise KmsError("UnknownOperationException")
        answer = served(request)
        if operation == "GenerateDataKeyWithoutPlaintext":
            del answer["Plaintext"]
        return answer

    def _key(self, key_id: str) -> str:
        found = [arn for arn in self.keys if key_id in (arn, arn.rpartition("/")[2])]
        if not found:
            raise KmsError("NotFoundException", f"Key {key_id!r} does not exist")
        return found[0]

    def _describe(self, request: dict[str, Any]) -> dict[str, Any]:
        arn = self._key(request["KeyId"])
        state = {"disabled": "Disabled", "pending deletion": "PendingDeletion"}.get(
            self.kms, "Enabled"
        )
        return {
            "KeyMetadata": {
                "AWSAccountId": arn.split(":")[4],
                "Arn": arn,
                "KeyId": arn.rpartition("/")[2],
                "Enabled": state == "Enabled",
                "KeyManager": "CUSTOMER",
                "KeySpec": "SYMMETRIC_DEFAULT",
                "KeyState": state,
                "KeyUsage": "ENCRYPT_DECRYPT",
                "Origin": "AWS_KMS",
            }
        }

    def _encrypt(self, request: dict[str, Any]) -> dict[str, Any]:
        arn = self._key(request["KeyId"])
        plaintext = base64.b64decode(request["Plaintext"], validate=True)
        if not 1 <= len(plaintext) <= 4096:
            raise KmsError("ValidationException", "Plaintext: 1 to 4096 bytes")
        blob = _seal(arn, plaintext, request.get("EncryptionContext", {}))
        return {"CiphertextBlob": base64.b64encode(blob).decode(), "KeyId": arn}

    def _data_key(self, request: dict[str, Any]) -> dict[str, Any]:
        size = request.get("NumberOfBytes") or {"AES_128": 16, "AES_256": 32}[request["KeySpec"]]
        plaintext = base64.b64encode(os.urandom(size)).decode()
        return self._encrypt(request | {"Plaintext": plaintext}) | {"Plaintext": plaintext}

    def _decrypt(self, request: dict[str, Any]) -> dict[str, Any]:
        arn, plaintext = self._open_blob(
            request["CiphertextBlob"], request.get("KeyId"), request.get("EncryptionContext", {})
        )
        return {
            "KeyId": arn,
            "Plaintext": base64.b64encode(plaintext).decode(),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }

    def _reencrypt(self, request: dict[str, Any]) -> dict[str, Any]:
        source, plaintext = self._open_blob(
            request["CiphertextBlob"],
            request.get("SourceKeyId"),
            request.get("SourceEncryptionContext", {}),
        )
        target = self._key(request["DestinationKeyId"])
        blob = _seal(target, plaintext, request.get("DestinationEncryptionContext", {}))
        return {
            "CiphertextBlob": base64.b64encode(blob).decode(),
            "KeyId": target,
            "SourceKeyId": source,
        }

    def _open_blob(
        self, ciphertext: str, key_id: str | None, context: dict[str, str]
    ) -> tuple[str, bytes]:
        try:
            blob = base64.b64decode(ciphertext, validate=True)
            name, _, sealed = blob.partition(b"\n")
            arn = self._key(name.decode())
        except (ValueError, KmsError):
            raise KmsError("InvalidCiphertextException") from None
        if key_id is not None and self._key(key_id) != arn:
            raise KmsError("IncorrectKeyException", "The key ID does not match")
        try:
            return arn, _cipher(arn).decrypt(sealed[:12], sealed[12:], _aad(context))
        except InvalidTag:
            raise KmsError("InvalidCiphertextException") from None


def _cipher(arn: str) -> AESGCM:
    return AESGCM(hashlib.sha256(f"fake aws {arn}".encode()).digest())


def _aad(context: dict[str, str]) -> bytes:
    return json.dumps(context, sort_keys=True).encode()


def _seal(arn: str, plaintext: bytes, context: dict[str, str]) -> bytes:
    nonce = os.urandom(12)
    sealed = _cipher(arn).encrypt(nonce, plaintext, _aad(context))
    return arn.encode() + b"\n" + nonce + sealed


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type[_Handler], aws: FakeAws) -> None:
        self.aws = aws
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or does not trust the certificate, is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def away(self, state: str) -> bool:
        """Whether the request is left without an answer."""
        if state == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # As long as a file is open on it, the socket stays, and its end is not a reset.
            self.rfile.close()
            self.wfile.close()
            self.connection.close()
            self.close_connection = True
        elif state == "silent":
            self.server.aws._ended.wait(60)
            self.close_connection = True
        return state in AWAY

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))


class _Imds(_Handler):
    def do_PUT(self) -> None:
        aws = self.server.aws
        aws.refresh()
        aws.imds_calls.append(f"PUT {self.path}")
        if self.away(aws.imds):
            return
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if aws.imds == "5xx":
            self.answer(503, b"")
        elif self.path != "/latest/api/token" or not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
            self.answer(400, b"")
        else:
            self.answer(200, aws.imds_token().encode())

    def do_GET(self) -> None:
        aws = self.server.aws
        aws.refresh()
        aws.imds_calls.append(f"GET {self.path}")
        if self.away(aws.imds):
            return
        roles = "/latest/meta-data/iam/security-credentials/"
        if not aws.knows_imds_token(self.headers.get("X-aws-ec2-metadata-token")):
            self.answer(401, b"")
        elif self.path == roles and aws.imds != "no role":
            self.answer(200, ROLE.encode())
        elif self.path == f"{roles}{ROLE}" and aws.imds != "no role":
            self.answer(200, json.dumps(aws.session(), indent=2).encode())
        elif self.path == "/latest/dynamic/instance-identity/document":
            document = {
                "accountId": KEY.split(":")[4],
                "instanceId": "i-0123456789abcdef0",
                "region": REGION,
            }
            self.answer(200, json.dumps(document).encode())
        else:
            self.answer(404, b"")


class _Kms(_Handler):
    def do_POST(self) -> None:
        aws, body = self.server.aws, self.body()
        aws.refresh()
        state = aws.take_state()
        operation = self.headers.get("X-Amz-Target", "").removeprefix("TrentService.")
        request: dict[str, Any] = {}
        who, error = "?", state
        try:
            if self.away(state):
                return
            answer: dict[str, Any] = {}
            status = 200
            try:
                host = self.headers["Host"]
                who = aws.verify(f"{'https' if aws.tls else 'http'}://{host}/", self.headers, body)
                request = json.loads(body)
                if state != "ok" and operation != "DescribeKey":
                    code = FAILURES.get(state, state)
                    raise KmsError(code, status=500 if state == "5xx" else 400)
                answer = aws.serve(operation, request)
                error = ""
            except KmsError as failure:
                status, error = failure.status, failure.code
                answer = {"__type": failure.code, "message": failure.message}
            except (ValueError, KeyError, TypeError) as failure:
                status, error = 400, "ValidationException"
                answer = {"__type": error, "message": type(failure).__name__}
            self.answer(status, json.dumps(answer).encode(), "application/x-amz-json-1.1")
        finally:
            context = request.get("EncryptionContext") or request.get("SourceEncryptionContext")
            key = request.get("KeyId") or request.get("DestinationKeyId") or ""
            aws.record(Call(operation, who, context or {}, key, error))


def _certificate(listen: str) -> tuple[bytes, ssl.SSLContext]:
    """PEM of a new authority, and a server context with a certificate that it issued."""
    now = datetime.datetime.now(datetime.UTC)

    def make(name: str, issuer: x509.Name | None, public: Any, key: Any, ca: bool) -> Any:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(listen))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if not ca:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(key, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = make("fake AWS CA", None, ca_key.public_key(), ca_key, True)
    leaf = make("kms", ca.subject, key.public_key(), ca_key, False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = leaf.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with _memory_file(pem) as path:
        context.load_cert_chain(path)
    return ca.public_bytes(serialization.Encoding.PEM), context


@contextlib.contextmanager
def _memory_file(content: bytes) -> Iterator[str]:
    handle = os.memfd_create("fake-aws")
    try:
        os.write(handle, content)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake KMS and IMDS for tests.")
    parser.add_argument("--listen", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8200, help="of KMS; IMDS has the next one")
    parser.add_argument("--state", type=Path, required=True, help="JSON, see the module")
    options = parser.parse_args()
    if not options.state.exists():
        options.state.write_text("{}\n")
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    with FakeAws(options.listen, options.port, options.port + 1, state_file=options.state) as aws:
        print(f"KMS {aws.kms_url} key {KEY}; IMDS {aws.imds_url}", flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
