"""The embedded lab: pyinfra inventories/lab.py deploys/site.py

STRONGBOX_LAB chooses the lab. Its hosts live in a network namespace, which the process that loads
this file enters: SSH then reaches them like any others.
"""

import os as _os
import sys as _sys

from lab import network as _network
from lab import state as _state

try:
    _lab = _state.current()
    _network.enter(_lab)
    _hosts = _lab.hosts()
except _state.LabError as _error:
    # pyinfra shows any other exception with a traceback.
    _sys.exit(f"inventories/lab.py: {_error}")


def _volumes(item: _state.Host) -> dict[str, object]:
    """The disks of hosts that have some. STRONGBOX_LAB_PLAIN=1 leaves those unused."""
    disks = _lab.disks(item)
    if not disks or _os.environ.get("STRONGBOX_LAB_PLAIN"):
        return {"volumes_unencrypted": True}
    return {
        "volumes_layout": {
            disk.name: {
                "device": disk.link,
                "min_gib": disk.gib * 0.9,
                "max_gib": disk.gib * 1.1,
            }
            for disk in disks
        }
    }


_count = sum(_item.role == "brokers" for _item in _hosts)
# A lab with fewer brokers than production has copies has fewer copies.
_small_lab: dict[str, object] = (
    {
        "kafka_default_replication_factor": 2,
        "kafka_min_insync_replicas": 1,
        "kafka_allow_acks_from_one_copy": True,
    }
    if _count == 2
    else {}
)


def _host(item: _state.Host) -> tuple[str, dict[str, object]]:
    identifier = "zookeeper_id" if item.role == "zookeepers" else "kafka_broker_id"
    return (
        item.name,
        {
            "ssh_hostname": item.address,
            "ssh_port": 22,
            "ssh_user": _state.USER,
            "ssh_key": str(_lab.key),
            "ssh_known_hosts_file": str(_lab.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            "ssh_allow_agent": False,
            "ssh_look_for_keys": False,
            "ssh_forward_agent": False,
            identifier: item.number,
            "common_hostname": item.fqdn,
            "common_addresses": [item.address],
        }
        | _volumes(item)
        | (_small_lab if item.role == "brokers" else {}),
    )


zookeepers = [_host(_item) for _item in _hosts if _item.role == "zookeepers"]
brokers = [_host(_item) for _item in _hosts if _item.role == "brokers"]
