#!/usr/bin/python3 -I
"""strongbox-key-service: gives systemd-cryptsetup the key of a volume, unwrapped by AWS KMS.

Runs on hosts, as root, with Python's standard library only. systemd starts one for each
connection to /run/strongbox/key.sock and hands it over as standard input. The address that the
connection comes from ends with the name of the mapping to open (crypttab(5)). The wrapped key is
in a LUKS2 token on the disk itself; KMS unwraps it for the role of this instance.

While KMS or the metadata service is away, denies or cannot use its key, it tries again and lets
systemd-cryptsetup wait: ending without a key would make the mount fail, and nothing would start it
again. It writes one line to the journal each time the reason changes.

Exit codes: 0 key delivered, or stopped by systemd, or nobody waits for it any more; 1 refused.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import ctypes
import datetime
import hashlib
import hmac
import http.client
import json
import os
import random
import re
import select
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

CONFIG = "/etc/strongbox/key-service.json"
KEY_BYTES = 64
TOKEN_TYPE = "strongbox"  # noqa: S105
SCHEME = "aws-kms"
_PEER = re.compile(rb"\0[0-9a-f]{1,16}/cryptsetup/([A-Za-z0-9_.-]{1,64})")
_ARN = re.compile(r"arn:(aws[a-z-]*):kms:([a-z0-9-]+):[0-9]{12}:key/[A-Za-z0-9-]+")
_ROLE = re.compile(r"[A-Za-z0-9+=,.@_-]{1,128}")
# Where a test's KMS may answer without TLS; roles/custody/settings.py allows no others.
_TEST_HOSTS = ("127.0.0.1", "localhost", "10.77.0.1")
_ANSWER_BYTES = 64 * 1024
_CREDENTIALS_SPARE_S = 300.0
_MCL_CURRENT, _MCL_FUTURE = 1, 2

T = TypeVar("T")


class Refused(Exception):
    """No key, and waiting would not change that; one line with what to do."""


class Unavailable(Exception):
    """No key now; trying again may help. The text is the reason, the same for the same cause."""


class Gone(Exception):
    """Nobody waits for the key any more."""


@dataclass(frozen=True)
class Volume:
    name: str
    uuid: str


@dataclass(frozen=True)
class Wrapped:
    """A wrapped key: base64, and the ARN of the KMS key."""

    ciphertext: str
    kms_key: str


@dataclass(frozen=True)
class Config:
    """``/etc/strongbox/key-service.json``.

    :param volumes: mapping name -> volume.
    :param kms_keys: ARNs of the KMS keys that may unwrap; all but the first are on their way out.
    :param kms_endpoint: URL; empty for that of the key's region.
    :param imds_endpoint: URL of the instance metadata service.
    :param ca_file: PEM file of the authorities that may vouch for KMS; empty: the system's.
    :param device_dir: folder with a link for each LUKS UUID.
    :param timeout_s: for each step of a connection.
    :param retry_first_s: the first wait; each further one is twice as long.
    :param retry_max_s: the longest wait.
    """

    cluster: str
    host: str
    volumes: Mapping[str, Volume]
    kms_keys: tuple[str, ...]
    kms_endpoint: str
    imds_endpoint: str
    ca_file: str
    device_dir: str
    timeout_s: float
    retry_first_s: float
    retry_max_s: float


@dataclass(frozen=True)
class Credentials:
    """Of the instance's role. ``expires`` in seconds since the epoch."""

    role: str
    access_key: str
    secret_key: str
    session_token: str
    expires: float

    def __repr__(self) -> str:
        return f"Credentials({self.role})"


def log(level: int, text: str) -> None:
    """One line to the journal, which takes ``<N>`` for its priority (sd-daemon(3))."""
    # Not by print: a signal's handler may log while a line is being printed.
    os.write(2, f"<{level}>{text}\n".encode())


ERROR, WARNING, INFO = 3, 4, 6


def load_config(path: str) -> Config:
    """
    :raises Refused: when someone else could have written it, or it is not as it should be.
    """
    try:
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
                raise Refused(f"{path} is not its owner's alone: chown it to root, chmod 600")
            data = json.loads(file.read(_ANSWER_BYTES))
        keys = tuple(data["kms_keys"])
        if not keys or not all(_ARN.fullmatch(key) for key in keys):
            raise Refused(f"{path}: kms_keys are not ARNs of KMS keys")
        endpoint = str(data.get("kms_endpoint") or "")
        if (
            endpoint
            and not endpoint.startswith("https://")
            and urllib.parse.urlsplit(endpoint).hostname not in _TEST_HOSTS
        ):
            raise Refused(f"{path}: kms_endpoint is not https: the key would travel in clear")
        return Config(
            cluster=str(data["cluster"]),
            host=str(data["host"]),
            volumes={
                str(mapping): Volume(str(item["name"]), str(item["uuid"]))
                for mapping, item in data["volumes"].items()
            },
            kms_keys=keys,
            kms_endpoint=endpoint,
            imds_endpoint=str(data.get("imds_endpoint") or "http://169.254.169.254"),
            ca_file=str(data.get("ca_file") or ""),
            device_dir=str(data.get("device_dir") or "/dev/disk/by-uuid"),
            timeout_s=float(data.get("timeout_s", 5)),
            retry_first_s=float(data.get("retry_first_s", 0.25)),
            retry_max_s=float(data.get("retry_max_s", 15)),
        )
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}: run deploys/site.py") from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Refused(f"{path} is damaged: run deploys/site.py") from None


def region_and_endpoint(kms_key: str, endpoint: str) -> tuple[str, str]:
    """Of a KMS key.

    :param endpoint: URL; empty for that of the key's region.
    """
    found = _ARN.fullmatch(kms_key)
    assert found is not None
    partition, region = found[1], found[2]
    suffix = "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com"
    return region, endpoint or f"https://kms.{region}.{suffix}"


def asked_for(connection: socket.socket) -> str:
    """The mapping that systemd-cryptsetup wants to open.

    :raises Refused: when the other side is not root's, or not systemd-cryptsetup.
    """
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", packed)
    if uid != os.geteuid():
        raise Refused(f"user {uid} asked for a key: only root may")
    address = connection.getpeername()
    found = _PEER.fullmatch(address) if isinstance(address, bytes) else None
    if not found:
        raise Refused("the connection names no mapping: only systemd-cryptsetup may ask for a key")
    return found[1].decode()


# What lies on the disk


def wrapped_keys(device: str, kms_keys: tuple[str, ...]) -> list[Wrapped]:
    """What the device's LUKS2 tokens hold, the latest first.

    While a key is rotated there are two, and each opens the volume.

    :raises Unavailable: when the device is not there or cannot be read.
    :raises Refused: when it holds no key that KMS could unwrap.
    """
    # A header that is being written is not read half: cryptsetup waits for its writer.
    command = ["cryptsetup", "luksDump", "--dump-json-metadata", "--", device]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    try:
        output = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=60, check=True,
        ).stdout  # fmt: skip
        tokens = json.loads(output)["tokens"].values()
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, AttributeError):
        if not Path(device).exists():
            raise Unavailable(f"{device} is not there") from None
        raise Unavailable(f"the LUKS2 header of {device} cannot be read") from None
    ours = [token for token in tokens if token.get("type") == TOKEN_TYPE and token.get("keyslots")]
    if not ours:
        raise Refused(f"{device} has no wrapped key in its LUKS2 tokens: use deploys/unlock.py")
    usable = [
        token
        for token in ours
        if token.get("scheme") == SCHEME
        and token.get("key_id") in kms_keys
        and str(token.get("epoch")).isdigit()
        and isinstance(token.get("ciphertext"), str)
    ]
    if not usable:
        raise Refused(
            f"{device}: its key is not wrapped under {kms_keys[0]}: use deploys/unlock.py now, and "
            "see docs/boot-unlock.md about a change of custody_kms_key"
        )
    usable.sort(key=lambda token: int(token["epoch"]), reverse=True)
    return [Wrapped(token["ciphertext"], token["key_id"]) for token in usable]


# HTTP


def exchange(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    timeout_s: float,
    tls: ssl.SSLContext | None = None,
) -> tuple[int, bytes]:
    """Status and body of the answer; no proxy, no redirect.

    :raises OSError, http.client.HTTPException: when there is none.
    """
    parts = urllib.parse.urlsplit(url)
    name = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(name, parts.port, timeout=timeout_s, context=tls)
    else:
        connection = http.client.HTTPConnection(name, parts.port, timeout=timeout_s)
    try:
        connection.request(method, parts.path or "/", body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read(_ANSWER_BYTES)
    finally:
        connection.close()


def why(error: BaseException) -> str:
    """A connection's error in words that stay the same for the same cause."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); is the clock right?"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


# AWS


class InstanceRole:
    """Credentials of the role that this instance has, from its metadata service (IMDSv2)."""

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._timeout_s = timeout_s
        self._held: Credentials | None = None

    def forget(self) -> None:
        """Has the next `credentials` ask anew."""
        self._held = None

    def credentials(self, now: float) -> Credentials:
        """
        :param now: seconds since the epoch.
        :raises Unavailable: when there are none now.
        """
        if self._held is None or now > self._held.expires - _CREDENTIALS_SPARE_S:
            self._held = self._fetch()
        return self._held

    def _fetch(self) -> Credentials:
        token = self._ask(
            "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
        )
        headers = {"X-aws-ec2-metadata-token": token}
        roles = "/latest/meta-data/iam/security-credentials/"
        role = self._ask("GET", roles, headers).split("\n")[0]
        if not _ROLE.fullmatch(role):
            raise Unavailable("this instance has no role: give it an instance profile")
        try:
            data = json.loads(self._ask("GET", roles + role, headers))
            expires = datetime.datetime.fromisoformat(data["Expiration"])
            return Credentials(
                role,
                str(data["AccessKeyId"]),
                str(data["SecretAccessKey"]),
                str(data["Token"]),
                expires.timestamp(),
            )
        except (KeyError, TypeError, ValueError):
            raise Unavailable(
                f"the instance metadata service gives no credentials for role {role}"
            ) from None

    def _ask(self, method: str, path: str, headers: Mapping[str, str]) -> str:
        url = self._endpoint + path
        try:
            status, body = exchange(method, url, headers, None, self._timeout_s)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"the instance metadata service does not answer: {why(error)}"
            ) from None
        if status == http.client.NOT_FOUND and method == "GET":
            raise Unavailable("this instance has no role: give it an instance profile")
        try:
            text = body.decode("ascii")
        except UnicodeDecodeError:
            status, text = 0, ""
        if status != http.client.OK or (method == "PUT" and not text.isprintable()):
            raise Unavailable(f"the instance metadata service answers {status} to {method} {path}")
        return text


def signature_headers(
    credentials: Credentials,
    region: str,
    service: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime.datetime,
) -> dict[str, str]:
    """The headers, with those that sign a POST of *body* with AWS Signature Version 4.

    :param headers: all are signed; lower-case names, and no ``host``.
    :param now: in UTC.
    """
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    parts = urllib.parse.urlsplit(url)
    signed = dict(headers) | {"host": parts.netloc, "x-amz-date": stamp}
    if credentials.session_token:
        signed["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        [
            "POST",
            parts.path or "/",
            "",  # no query
            *(f"{name}:{' '.join(signed[name].split())}" for name in sorted(signed)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    to_sign = (
        f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    )
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return signed


# Codes of KMS's Decrypt and of all AWS services. Their messages are not shown: they may quote the
# request.
_FOR_GOOD = ("InvalidCiphertextException", "IncorrectKeyException")
_CREDENTIALS = ("ExpiredTokenException", "UnrecognizedClientException", "InvalidClientTokenId")
_REASONS = {
    "AccessDeniedException": "KMS denies {role} to decrypt for this host and volume: look at the "
    "policies of the key and of the role",
    "DisabledException": "the KMS key is disabled: enable it",
    "KMSInvalidStateException": "the KMS key cannot be used: is it pending deletion?",
    "NotFoundException": "the KMS key does not exist",
    "ThrottlingException": "KMS throttles requests",
    "InvalidSignatureException": "KMS refuses the signature: is the clock right?",
    **dict.fromkeys(_CREDENTIALS, "KMS refuses the credentials of {role}: they may have expired"),
}


def decrypt(config: Config, role: InstanceRole, volume: Volume, wrapped: Wrapped) -> bytes:
    """The key, unwrapped by KMS under the context it was wrapped for.

    :raises Unavailable: when KMS cannot or may not unwrap it now.
    :raises Refused: when it was wrapped for another host, volume or KMS key.
    """
    now = datetime.datetime.now(datetime.UTC)
    credentials = role.credentials(now.timestamp())
    region, endpoint = region_and_endpoint(wrapped.kms_key, config.kms_endpoint)
    request = {
        "CiphertextBlob": wrapped.ciphertext,
        # Without it KMS would take the key that the ciphertext names, whosever it is.
        "KeyId": wrapped.kms_key,
        "EncryptionContext": {
            "strongbox:cluster": config.cluster,
            "strongbox:host": config.host,
            "strongbox:volume": volume.name,
            "strongbox:purpose": "volume",
        },
    }
    body = json.dumps(request).encode()
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "x-amz-target": "TrentService.Decrypt",
    }
    headers = signature_headers(credentials, region, "kms", endpoint, headers, body, now)
    try:
        status, answer = exchange(
            "POST", endpoint, headers, body, config.timeout_s, _tls(endpoint, config.ca_file)
        )
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"KMS does not answer: {why(error)}") from None
    try:
        data = json.loads(answer)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise Unavailable(f"KMS answers {status} without saying why")
    if status != http.client.OK:
        raise _failed(data, status, role, credentials.role)
    return _plaintext(data, wrapped.kms_key)


def _tls(endpoint: str, ca_file: str) -> ssl.SSLContext | None:
    if not endpoint.startswith("https:"):
        return None
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise Refused(f"{ca_file}: {error.strerror}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _failed(data: Mapping[str, Any], status: int, role: InstanceRole, name: str) -> Exception:
    code = re.sub(r"[^A-Za-z]", "", str(data.get("__type", "")).rpartition("#")[2])[:60]
    if code in _FOR_GOOD:
        return Refused(
            f"KMS refuses to unwrap the key ({code}): it was wrapped for another cluster, host, "
            "volume or KMS key"
        )
    if code in _CREDENTIALS:
        role.forget()
    reason = _REASONS.get(code, "KMS cannot serve now").format(role=f"role {name}")
    return Unavailable(f"{reason} ({code or status})")


def _plaintext(data: Mapping[str, Any], kms_key: str) -> bytes:
    if data.get("KeyId") != kms_key:
        raise Unavailable("KMS answers with another key than the one asked")
    try:
        key = base64.b64decode(str(data.get("Plaintext")), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise Refused(f"what KMS unwrapped is not a volume key of {KEY_BYTES} bytes")
    return key


# The service


def unwrap(config: Config, role: InstanceRole, volume: Volume) -> bytes:
    """
    :raises Unavailable: when trying again may help.
    :raises Refused: when it would not.
    """
    refused = None
    for wrapped in wrapped_keys(f"{config.device_dir}/{volume.uuid}", config.kms_keys):
        try:
            return decrypt(config, role, volume, wrapped)
        except Refused as error:
            refused = refused or error
    assert refused is not None
    raise refused


def persist(attempt: Callable[[], T], name: str, config: Config, connection: socket.socket) -> T:
    """Tries until it works; says why not, once for each reason.

    :raises Gone: when the other side has closed the connection.
    """
    reason, failures = "", 0
    while True:
        try:
            result = attempt()
        except Unavailable as error:
            if str(error) != reason:
                log(WARNING, f"{name}: {error}; trying again until it works")
            reason = str(error)
        else:
            if failures:
                log(INFO, f"{name}: unwrapped after {failures} failed attempts")
            return result
        wait_s = min(config.retry_max_s, config.retry_first_s * 2 ** min(failures, 30))
        failures += 1
        # Hosts that lost KMS together must not come back to it together.
        _wait(connection, wait_s * random.uniform(0.5, 1))


def _wait(connection: socket.socket, seconds: float) -> None:
    poll = select.poll()
    # No event but the close of both directions: systemd-cryptsetup shuts its sending one at once.
    poll.register(connection, 0)
    if poll.poll(seconds * 1000):
        raise Gone


def keep_off_swap() -> None:
    """Best effort here; the unit forbids swap too."""
    if ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        log(WARNING, f"memory is not locked: {os.strerror(ctypes.get_errno())}")


def _stop(*_: object) -> NoReturn:
    log(INFO, "stopped")
    sys.exit(0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Unwraps the key of a volume through AWS KMS.")
    parser.add_argument("--config", default=CONFIG)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    keep_off_swap()
    name = "?"
    try:
        config = load_config(options.config)
        try:
            connection = socket.socket(fileno=sys.stdin.fileno())
            name = asked_for(connection)
        except OSError:
            raise Refused("standard input is no connection: systemd starts this program") from None
        volume = config.volumes.get(name)
        if volume is None:
            raise Refused(f"{options.config} has no volume of that name")
        role = InstanceRole(config.imds_endpoint, config.timeout_s)
        key = persist(lambda: unwrap(config, role, volume), name, config, connection)
        connection.sendall(key)
        connection.shutdown(socket.SHUT_WR)
    except Refused as error:
        log(ERROR, f"{name}: no key: {error}")
        return 1
    except (Gone, BrokenPipeError, ConnectionError):
        log(INFO, f"{name}: nobody waits for the key any more")
        return 0
    log(INFO, f"{name}: key delivered")
    return 0


if __name__ == "__main__":
    sys.exit(main())
