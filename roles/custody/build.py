"""The custody that the settings declare."""

from __future__ import annotations

from roles.custody import age
from roles.custody.age import AgeCustody
from roles.custody.identity import IdentitySource
from roles.custody.protocol import Custody
from roles.custody.settings import CustodySettings
from roles.custody.succession import Succession


def custody(settings: CustodySettings) -> Custody:
    """Asks nobody yet: an identity is read, or a key service called, when a key is needed.

    Settings of the other kind that are there as well let it unwrap what that one wrapped.
    """
    source = IdentitySource(file=settings.identity_file, command=settings.identity_command)
    local = AgeCustody(settings.recipients, source)
    if settings.kind == "local" and not settings.kms_old_keys:
        return local
    # boto3 takes half a second to import, which most runs can do without.
    from roles.custody import aws_kms

    kms = aws_kms.AwsKmsCustody(settings.kms_key, settings.kms_endpoint, settings.kms_old_keys)
    if settings.kind == "local":
        return Succession(local, kms, aws_kms.SCHEME)
    if settings.identity_file or settings.identity_command:
        return Succession(kms, local, age.SCHEME)
    return kms
