"""Errors of AWS, each as one line with what to do."""

from __future__ import annotations

from botocore.exceptions import ClientError, NoCredentialsError

DENIED = {
    "UnauthorizedOperation",
    "AccessDenied",
    "AccessDeniedException",
    "Client.UnauthorizedOperation",
}
_CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_THROTTLED = {
    "RequestLimitExceeded",
    "RequestThrottled",
    "Throttling",
    "ThrottlingException",
    "SnapshotCreationPerVolumeRateExceeded",
}
_QUOTAS = {
    "AttachmentLimitExceeded",
    "ConcurrentSnapshotLimitExceeded",
    "LimitExceededException",
    "MaxIOPSLimitExceeded",
    "PendingSnapshotLimitExceeded",
    "ResourceLimitExceeded",
    "SnapshotLimitExceeded",
    "VolumeLimitExceeded",
}
_REMEDIES = {
    "AlreadyExistsException": "something else has that name: run again, and see what has it",
    "DependencyTimeoutException": "KMS is not well: run again later",
    "DisabledException": "the key is disabled: find out why, then aws kms enable-key",
    "IdempotentParameterMismatch": "an earlier request for this volume asked for something else: "
    "run again in an hour, or with the earlier settings",
    "InsufficientVolumeCapacity": "this zone has none to give now: run again later",
    "InvalidVolume.NotFound": "it is gone: run again",
    "InvalidSnapshot.NotFound": "it is gone: run again",
    "KMSInternalException": "KMS is not well: run again later",
    "KMSInvalidStateException": "the key's state does not allow it (disabled, or to be deleted): "
    "aws kms describe-key shows it",
    "MalformedPolicyDocumentException": "AWS refused the key policy: do all roles of "
    "ebs_key_administrators and ebs_key_users exist?",
    "NotFoundException": "there is no such key in this region and account",
    "VolumeInUse": "something is attached to it: run again, and see where it is",
}


class AwsError(Exception):
    """A request that did not succeed, in one line."""


class DryRunError(AwsError):
    """A change was asked for in a dry run: a mistake of this program's."""


def explain(operation: str, error: Exception) -> str:
    """One line for what botocore raised; never the request, whose headers are signed."""
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", "?"))
        said = str(error.response.get("Error", {}).get("Message", "")).split("\n")[0][:200]
        if code in DENIED:
            return (
                f"AWS: {operation} was denied: allow it to the identity that runs this "
                "(aws sts get-caller-identity), in IAM and, for KMS, in the key's policy"
            )
        if code in _CREDENTIALS:
            return (
                f"AWS: {operation}: {code}: the credentials are not accepted: renew them "
                "(aws sts get-caller-identity shows whether they work)"
            )
        if code in _THROTTLED:
            return f"AWS: {operation}: {code}: too many requests in this account: run again later"
        if code in _QUOTAS:
            return f"AWS: {operation}: {code}: a quota is used up: have it raised, then run again"
        remedy = _REMEDIES.get(code, "correct it, then run again")
        return f"AWS: {operation}: {code}: {said.rstrip('.')}: {remedy}"
    if isinstance(error, NoCredentialsError):
        return (
            f"AWS: {operation}: no credentials were found: set AWS_PROFILE, or run where an "
            "instance role is"
        )
    return f"AWS: {operation}: {str(error).splitlines()[0][:200]}"


def error_of(operation: str, cause: Exception) -> AwsError:
    error = AwsError(explain(operation, cause))
    error.__cause__ = cause
    return error


def code_of(error: AwsError) -> str:
    cause = error.__cause__
    return str(cause.response["Error"]["Code"]) if isinstance(cause, ClientError) else ""
