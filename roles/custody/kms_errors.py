"""What the answers and failures of AWS KMS mean, in one line each.

AWS's own text is never passed on: it may quote the request.
"""

from __future__ import annotations

from botocore import exceptions as failures
from botocore.exceptions import BotoCoreError, ClientError

from roles.custody.protocol import CustodyAway, CustodyError, KeyContext

_AWAY = {
    "DependencyTimeoutException",
    "InternalFailure",
    "KMSInternalException",
    "KeyUnavailableException",
    "LimitExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_UNKNOWN_CREDENTIALS = {
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_NO_CREDENTIALS = (
    failures.NoCredentialsError,
    failures.PartialCredentialsError,
    failures.CredentialRetrievalError,
    failures.NoAuthTokenError,
    failures.TokenRetrievalError,
    failures.SSOError,
    failures.ProfileNotFound,
    failures.ConfigParseError,
    failures.ConfigNotFound,
    failures.InvalidConfigError,
    failures.MetadataRetrievalError,
)


def meaning(
    error: ClientError | BotoCoreError, action: str, key: str, context: KeyContext
) -> CustodyError:
    """
    :param action: as IAM names it, such as ``kms:Decrypt``.
    :param key: ARN of the KMS key.
    """
    what = f"{action} with KMS key {key} for the {context}"
    if isinstance(error, ClientError):
        return _answer(error, what, action, key, context)
    if isinstance(error, _NO_CREDENTIALS):
        return CustodyError(
            f"{what}: there are no usable AWS credentials ({type(error).__name__}): log in, or set "
            "AWS_PROFILE, or run this where a role is attached"
        )
    if isinstance(error, failures.SSLError):
        return CustodyError(
            f"{what}: the certificate of the KMS endpoint is not trusted: check "
            "custody_kms_endpoint, and AWS_CA_BUNDLE for a proxy that opens TLS"
        )
    if isinstance(error, failures.HTTPClientError | failures.ConnectionError):
        return CustodyAway(
            f"{what}: KMS does not answer ({type(error).__name__}): check the network and "
            "custody_kms_endpoint, then run it again"
        )
    return CustodyError(f"{what}: boto3 cannot ask for it ({type(error).__name__})")


def _answer(
    error: ClientError, what: str, action: str, key: str, context: KeyContext
) -> CustodyError:
    details = error.response.get("Error", {})
    code, text = str(details.get("Code", "")), str(details.get("Message", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _AWAY or status == 429 or status >= 500:
        return CustodyAway(f"{what}: KMS cannot serve it now ({code}): run it again later")
    if code in _EXPIRED:
        return CustodyError(f"{what}: the AWS session has expired: log in again")
    if code in _UNKNOWN_CREDENTIALS:
        return CustodyError(
            f"{what}: AWS does not accept the credentials ({code}): log in again, and check this "
            "machine's clock"
        )
    remedies = {
        "AccessDeniedException": f"these AWS credentials may not use {action} on it: compare its "
        "policy with `strongbox custody policy` (docs/custody.md)",
        "DisabledException": f"the key is disabled: aws kms enable-key --key-id {key}",
        "KMSInvalidStateException": _state(text, key),
        "NotFoundException": "there is no such key: correct custody_kms_key (a deleted key never "
        "comes back; use the recovery key then)",
        "InvalidCiphertextException": f"the ciphertext was not made for the {context}, or is "
        "damaged: restore the record or the volume's header from a backup",
        "IncorrectKeyException": "it was wrapped under another KMS key: set custody_kms_key back",
        "InvalidKeyUsageException": "the key is not for encryption: it must be a symmetric key "
        "with usage ENCRYPT_DECRYPT",
    }
    remedies["AccessDenied"] = remedies["AccessDeniedException"]
    return CustodyError(f"{what}: {remedies.get(code, f'KMS refuses it ({code})')}")


def _state(text: str, key: str) -> str:
    if "pending deletion" in text.lower() or "pendingdeletion" in text.lower():
        return (
            "the key is pending deletion, after which no volume opens with it: at once "
            f"aws kms cancel-key-deletion --key-id {key} && aws kms enable-key --key-id {key}"
        )
    return f"the key is in a state in which it cannot be used: aws kms describe-key --key-id {key}"
