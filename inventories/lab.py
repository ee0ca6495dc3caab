"""The embedded lab: pyinfra inventories/lab.py deploys/site.py

STRONGBOX_LAB chooses the lab. Its hosts live in a network namespace, which the process that loads
this file enters: SSH then reaches them like any others.
"""

from lab import network as _network
from lab import state as _state

_lab = _state.current()
_network.enter(_lab)


def _host(item):  # type: ignore[no-untyped-def]
    identifier = "zookeeper_id" if item.role == "zookeepers" else "kafka_broker_id"
    return (
        item.name,
        {
            "ssh_hostname": item.address,
            "ssh_user": _state.USER,
            "ssh_key": str(_lab.key),
            "ssh_known_hosts_file": str(_lab.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            "ssh_allow_agent": False,
            "ssh_look_for_keys": False,
            identifier: item.number,
            "common_hostname": item.fqdn,
            "common_addresses": [item.address],
        },
    )


zookeepers = [_host(_item) for _item in _lab.hosts() if _item.role == "zookeepers"]
brokers = [_host(_item) for _item in _lab.hosts() if _item.role == "brokers"]
