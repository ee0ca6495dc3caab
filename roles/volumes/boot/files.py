"""What lies on a host that opens its volumes by itself at boot.

Pure: no pyinfra, no host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from roles.common.plan import Kind, ManagedDirectory, ManagedFile, Observed
from roles.volumes import names

#: What `key_service.py` runs with. python3-minimal has neither json nor http.
PACKAGES = ("python3", "ca-certificates", "cryptsetup-bin")
#: The key field of a volume's line in crypttab. Its options must have ``_netdev``: otherwise
#: sysinit.target waits for the volume, and the key service for sysinit.target.
SOCKET = "/run/strongbox/key.sock"
PROGRAM = "/usr/local/sbin/strongbox-key-service"
CONFIG = "/etc/strongbox/key-service.json"
SOCKET_UNIT = "/etc/systemd/system/strongbox-key.socket"
SERVICE_UNIT = "/etc/systemd/system/strongbox-key@.service"
#: Links that `systemctl enable` makes. Debian does not enable the target by itself, and without it
#: nothing opens a volume that no mount asks for.
ENABLED = "/etc/systemd/system/sockets.target.wants/strongbox-key.socket"
TARGET_ENABLED = "/etc/systemd/system/multi-user.target.wants/remote-cryptsetup.target"
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class KeyService:
    """
    :param host: as in the encryption context: the host's `common_hostname`.
    :param volumes: names of its LUKS volumes.
    :param kms_key: ARN of the one that volume keys are wrapped under.
    :param kms_old_keys: ARNs of those that some may still be wrapped under.
    :param kms_endpoint: URL; empty for the region's own.
    :param imds_endpoint: URL; empty for AWS's own.
    """

    cluster: str
    host: str
    volumes: Sequence[str]
    kms_key: str
    kms_old_keys: Sequence[str] = ()
    kms_endpoint: str = ""
    imds_endpoint: str = ""


def wanted(service: KeyService) -> list[ManagedDirectory | ManagedFile]:
    """Folders and files in the order in which they must be written."""
    return [
        ManagedDirectory("/etc/strongbox", "root", "root", "755"),
        ManagedFile(PROGRAM, (_HERE / "key_service.py").read_bytes(), "root", "root", "755"),
        ManagedFile(CONFIG, _config(service), "root", "root", "600"),
        _unit(SERVICE_UNIT),
        _unit(SOCKET_UNIT),
    ]


def _unit(path: str) -> ManagedFile:
    content = (_HERE / "templates" / Path(path).name).read_bytes()
    return ManagedFile(path, content, "root", "root", "644")


def _config(service: KeyService) -> bytes:
    given = {"kms_endpoint": service.kms_endpoint, "imds_endpoint": service.imds_endpoint}
    data = {
        "cluster": service.cluster,
        "host": service.host,
        "kms_keys": [service.kms_key, *service.kms_old_keys],
        "volumes": {
            names.mapping(volume): {
                "name": volume,
                "uuid": names.luks_uuid(service.cluster, service.host, volume),
            }
            for volume in sorted(service.volumes)
        },
        **{key: value.rstrip("/") for key, value in given.items() if value},
    }
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()


#: What is the service's alone.
OWN_PATHS = (PROGRAM, CONFIG, SERVICE_UNIT, SOCKET_UNIT, ENABLED, SOCKET)
#: All that tells whether the service is there; `is_listening` and `remains` read it.
STATE_PATHS = (*OWN_PATHS, TARGET_ENABLED)


def is_listening(seen: Mapping[str, Observed]) -> bool:
    """Whether systemd listens now and will after a reboot."""
    enabled = all(seen[path].kind is Kind.LINK for path in (ENABLED, TARGET_ENABLED))
    return enabled and seen[SOCKET].kind is Kind.OTHER


def remains(seen: Mapping[str, Observed]) -> list[str]:
    """What is left of the service. The target stays enabled: others may count on it."""
    return [path for path in OWN_PATHS if seen[path].kind is not Kind.ABSENT]
