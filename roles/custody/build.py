"""The custody that the settings declare."""

from __future__ import annotations

from roles.custody.age import AgeCustody
from roles.custody.identity import IdentitySource
from roles.custody.protocol import Custody
from roles.custody.settings import CustodySettings


def custody(settings: CustodySettings) -> Custody:
    """Asks nobody yet: an identity is read, or a key service called, when a key is needed."""
    if settings.kind == "aws-kms":
        # boto3 takes half a second to import, which most runs can do without.
        from roles.custody.aws_kms import AwsKmsCustody

        return AwsKmsCustody(settings.kms_key, settings.kms_endpoint)
    source = IdentitySource(file=settings.identity_file, command=settings.identity_command)
    return AgeCustody(settings.recipients, source)
