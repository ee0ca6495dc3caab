"""What an outside client needs to know of a lab."""

from __future__ import annotations

import shlex
from typing import Any

from lab import network
from lab.driver import HostDriver
from lab.state import DOMAIN, GATEWAY, NETWORK, PREFIX_LENGTH, USER, Lab

ZOOKEEPER_PORT, INTERNAL_PORT, CLIENT_PORT = 2182, 9093, 9094
#: Identity -> listener it is for.
CLIENTS = {"admin": "INTERNAL", "demo": "CLIENT"}


def describe(lab: Lab, drive: HostDriver) -> dict[str, Any]:
    """All of it, ready for JSON. Paths are absolute; ``exists`` tells what is not there yet."""
    hosts = lab.hosts()

    def servers(role: str, port: int) -> str:
        return ",".join(f"{host.fqdn}:{port}" for host in hosts if host.role == role)

    return {
        "name": lab.name,
        "driver": {"name": drive.name, "own_kernel": drive.own_kernel},
        "namespace": lab.namespace,
        "namespace_exists": network.exists(lab),
        "network": {
            "subnet": f"{NETWORK}.0/{PREFIX_LENGTH}",
            "bridge": network.BRIDGE,
            "bridge_address": GATEWAY,
            "domain": DOMAIN,
        },
        # Words before a command that is to run in the lab's network; then with the hosts' names.
        "enter": shlex.join(network.inside(lab)),
        "enter_with_names": shlex.join(network.inside_with_names(lab)),
        "hosts": [
            {
                "name": host.name,
                "fqdn": host.fqdn,
                "address": host.address,
                "role": host.role,
                "running": drive.is_running(host),
                "disks": [
                    {"name": disk.name, "image": str(disk.image), "link": disk.link}
                    for disk in lab.disks(host)
                ],
            }
            for host in hosts
        ],
        "ssh": {
            "user": USER,
            "port": 22,
            "key": str(lab.key),
            "known_hosts": str(lab.known_hosts),
        },
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
                "files": _files(lab, name),
            }
            for name, listener in CLIENTS.items()
        },
        "authorities": str(lab.authority_dir),
        "etc_hosts": str(lab.etc_hosts),
    }


def _files(lab: Lab, client: str) -> dict[str, str]:
    """Name -> path of what lies in the client's folder."""
    folder = lab.clients / client
    if not folder.is_dir():
        return {}
    return {file.name: str(file) for file in sorted(folder.iterdir())}
