"""What an outside client needs to know of a lab."""

from __future__ import annotations

from typing import Any

from lab.network import inside, namespace_path
from lab.state import USER, Lab

ZOOKEEPER_PORT, INTERNAL_PORT, CLIENT_PORT = 2182, 9093, 9094


def describe(lab: Lab, running: dict[str, bool]) -> dict[str, Any]:
    """All of it, ready for JSON. Paths are absolute; ``exists`` tells what is not there yet."""
    hosts = lab.hosts()

    def servers(role: str, port: int) -> str:
        return ",".join(f"{host.fqdn}:{port}" for host in hosts if host.role == role)

    return {
        "name": lab.name,
        "namespace": lab.namespace,
        "namespace_exists": namespace_path(lab).exists(),
        "enter": " ".join(inside(lab)),
        "hosts": [
            {
                "name": host.name,
                "fqdn": host.fqdn,
                "address": host.address,
                "role": host.role,
                "running": running.get(host.name, False),
            }
            for host in hosts
        ],
        "ssh": {"user": USER, "key": str(lab.key), "known_hosts": str(lab.known_hosts)},
        "listeners": {
            "CLIENT": servers("brokers", CLIENT_PORT),
            "INTERNAL": servers("brokers", INTERNAL_PORT),
            "zookeeper": servers("zookeepers", ZOOKEEPER_PORT),
        },
        "clients": {
            name: {
                "folder": str(lab.clients / name),
                "exists": (lab.clients / name).is_dir(),
                "listener": listener,
            }
            for name, listener in (("admin", "INTERNAL"), ("demo", "CLIENT"))
        },
        "authorities": str(lab.authority_dir),
        "etc_hosts": str(lab.etc_hosts),
    }
