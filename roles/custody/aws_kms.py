"""Custody ``aws-kms``: keys are wrapped under an AWS KMS key, which never leaves KMS.

The context of a key is KMS's encryption context: KMS itself refuses to unwrap under any other, its
policies can allow a host only its own, and CloudTrail shows which key was asked for.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from roles.custody import checks, kms_errors
from roles.custody.protocol import KEY_BYTES, CustodyError, KeyContext, WrappedKey
from roles.custody.quiet_logs import quiet

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

SCHEME = "aws-kms"
ATTEMPTS = 3  # with up to a few seconds between them; whoever can wait longer asks again
_CONNECT_TIMEOUT, _READ_TIMEOUT = 5, 10  # seconds


class AwsKmsCustody:
    """
    :param key_arn: of the KMS key, region and account included; never an alias.
    :param endpoint: URL, or empty for the region's own.
    """

    def __init__(self, key_arn: str, endpoint: str = "") -> None:
        self._key = key_arn
        self._endpoint = endpoint
        self._lock = RLock()
        self._opened: KMSClient | None = None

    def __repr__(self) -> str:
        return f"AwsKmsCustody({self._key})"

    def new_key(self, context: KeyContext) -> tuple[bytes, WrappedKey]:
        with self._asking("GenerateDataKey", context) as kms:
            answer = kms.generate_data_key(
                KeyId=self._key, NumberOfBytes=KEY_BYTES, EncryptionContext=context.as_dict()
            )
        key = answer["Plaintext"]
        if len(key) != KEY_BYTES:
            raise self._odd("GenerateDataKey", context)
        return key, self._wrapped("GenerateDataKey", answer, context)

    def wrap(self, key: bytes, context: KeyContext) -> WrappedKey:
        checks.key(key, context)
        with self._asking("Encrypt", context) as kms:
            answer = kms.encrypt(
                KeyId=self._key, Plaintext=key, EncryptionContext=context.as_dict()
            )
        return self._wrapped("Encrypt", answer, context)

    def unwrap(self, wrapped: WrappedKey, context: KeyContext) -> bytes:
        checks.scheme(wrapped, SCHEME, context)
        if wrapped.key_id != self._key:
            # A token may come from a disk that others can write to: it does not choose the key.
            raise CustodyError(
                f"the {context} was wrapped under KMS key {wrapped.key_id}, not under "
                f"custody_kms_key ({self._key}): run `strongbox custody rewrap` for records and "
                "deploys/rotate_volume_keys.py for volumes, or set custody_kms_key back"
            )
        blob = checks.ciphertext(wrapped, context)
        with self._asking("Decrypt", context) as kms:
            answer = kms.decrypt(
                KeyId=self._key, CiphertextBlob=blob, EncryptionContext=context.as_dict()
            )
        if answer["KeyId"] != self._key:
            raise self._odd("Decrypt", context)
        return checks.key(answer["Plaintext"], context)

    def rotate(self, wrapped: WrappedKey, context: KeyContext) -> WrappedKey:
        checks.scheme(wrapped, SCHEME, context)
        blob = checks.ciphertext(wrapped, context)
        with self._asking("ReEncrypt", context) as kms:
            answer = kms.re_encrypt(
                CiphertextBlob=blob,
                SourceKeyId=wrapped.key_id,
                SourceEncryptionContext=context.as_dict(),
                DestinationKeyId=self._key,
                DestinationEncryptionContext=context.as_dict(),
            )
        return self._wrapped("ReEncrypt", answer, context)

    def is_current(self, wrapped: WrappedKey) -> bool:
        return (wrapped.scheme, wrapped.key_id) == (SCHEME, self._key)

    def describe(self) -> str:
        return f"aws-kms: whoever the policy of {self._key} lets"

    def _wrapped(self, action: str, answer: object, context: KeyContext) -> WrappedKey:
        assert isinstance(answer, dict)
        if answer["KeyId"] != self._key:
            raise self._odd(action, context)
        return WrappedKey(SCHEME, self._key, base64.b64encode(answer["CiphertextBlob"]).decode())

    def _odd(self, action: str, context: KeyContext) -> CustodyError:
        return CustodyError(
            f"kms:{action} with KMS key {self._key} for the {context} was answered with another "
            "key: custody_kms_endpoint is not AWS KMS"
        )

    @contextmanager
    def _asking(self, action: str, context: KeyContext) -> Iterator[KMSClient]:
        with quiet():
            try:
                yield self._client()
            except (ClientError, BotoCoreError) as error:
                raise kms_errors.meaning(error, f"kms:{action}", self._key, context) from None

    def _client(self) -> KMSClient:
        with self._lock:
            if self._opened is None:
                config = Config(
                    connect_timeout=_CONNECT_TIMEOUT,
                    read_timeout=_READ_TIMEOUT,
                    retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                    # Keys are not sent to whatever AWS_ENDPOINT_URL says.
                    ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]
                )
                self._opened = boto3.session.Session().client(
                    "kms",
                    region_name=self._key.split(":")[3],
                    endpoint_url=self._endpoint or None,
                    config=config,
                )
            return self._opened
