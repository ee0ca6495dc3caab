"""Names that tell a volume of ours from any other: on the disk, the host and in records."""

from __future__ import annotations

import uuid

#: Of UUIDs of volumes; made once at random and never changed, as it decides which disks are ours.
NAMESPACE = uuid.UUID("5b0c5cf4-7d0e-4b0e-9a54-6f2a3f8f7a11")
TOKEN_TYPE = "strongbox"  # noqa: S105
RECOVERY_TOKEN_TYPE = "strongbox-recovery"  # noqa: S105
MAIN = "main"


def luks_uuid(cluster: str, hostname: str, volume: str) -> str:
    """Of the LUKS2 header: the disk of another cluster, host or volume never has it."""
    return str(uuid.uuid5(NAMESPACE, f"{cluster}/{hostname}/{volume}"))


def label(volume: str) -> str:
    """Of the LUKS2 header, for people who look at a disk."""
    return f"strongbox-{volume}"


def mapping(volume: str) -> str:
    """Name under ``/dev/mapper`` of the open volume."""
    return f"strongbox-{volume}"
