"""Custody ``aws-kms``: keys are wrapped under an AWS KMS key, which never leaves KMS.

The context of a key is KMS's encryption context: KMS itself refuses to unwrap under any other, its
policies can allow a host only its own, and CloudTrail shows which key was asked for.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
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
    :param old_keys: ARNs of keys under which nothing is wrapped any more, but is unwrapped.
    """

    def __init__(self, key_arn: str, endpoint: str = "", old_keys: Sequence[str] = ()) -> None:
        self._key = key_arn
        self._old_keys = frozenset(old_keys)
        self._endpoint = endpoint
        self._lock = RLock()
        self._clients: dict[str, KMSClient] = {}

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
        key, blob = self._known(wrapped, context), checks.ciphertext(wrapped, context)
        with self._asking("Decrypt", context, key) as kms:
            answer = kms.decrypt(
                KeyId=key, CiphertextBlob=blob, EncryptionContext=context.as_dict()
            )
        if answer["KeyId"] != key:
            raise self._odd("Decrypt", context)
        return checks.key(answer["Plaintext"], context)

    def rotate(self, wrapped: WrappedKey, context: KeyContext) -> WrappedKey:
        source, blob = self._known(wrapped, context), checks.ciphertext(wrapped, context)
        if _region(source) != _region(self._key):
            return self.wrap(self.unwrap(wrapped, context), context)
        with self._asking("ReEncrypt", context) as kms:
            answer = kms.re_encrypt(
                CiphertextBlob=blob,
                SourceKeyId=source,
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

    def _known(self, wrapped: WrappedKey, context: KeyContext) -> str:
        """The KMS key that it was wrapped under.

        It may come from a disk that others can write to, so it does not choose the key freely.

        :raises CustodyError: when that is no key of ours.
        """
        checks.scheme(wrapped, SCHEME, context)
        if wrapped.key_id not in {self._key, *self._old_keys}:
            raise CustodyError(
                f"the {context} was wrapped under KMS key {wrapped.key_id}, which is not "
                f"custody_kms_key ({self._key or 'not set'}): if it was before, add it to "
                "custody_kms_old_keys until all is wrapped anew (docs/custody.md)"
            )
        return wrapped.key_id

    @contextmanager
    def _asking(self, action: str, context: KeyContext, key: str = "") -> Iterator[KMSClient]:
        key = key or self._key
        with quiet():
            try:
                yield self._client(_region(key))
            except (ClientError, BotoCoreError) as error:
                raise kms_errors.meaning(error, f"kms:{action}", key, context) from None

    def _client(self, region: str) -> KMSClient:
        with self._lock:
            if region not in self._clients:
                config = Config(
                    connect_timeout=_CONNECT_TIMEOUT,
                    read_timeout=_READ_TIMEOUT,
                    retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                    # Keys are not sent to whatever AWS_ENDPOINT_URL says.
                    ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]
                )
                own_region = not self._key or region == _region(self._key)
                self._clients[region] = boto3.session.Session().client(
                    "kms",
                    region_name=region,
                    endpoint_url=self._endpoint if self._endpoint and own_region else None,
                    config=config,
                )
            return self._clients[region]


def _region(arn: str) -> str:
    return arn.split(":")[3]
