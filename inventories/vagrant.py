"""The machines that `vagrant up` made: pyinfra inventories/vagrant.py deploys/site.py

Each was written down by the Vagrantfile with its address, SSH key and host key. Where libvirt runs
in a network namespace of the lab's, the process that loads this file enters it.
"""

import sys as _sys

from lab import network as _network
from lab import state as _state
from lab.vagrant import machines as _machines
from lab.vagrant import plan as _plan

try:
    _lab = _plan.lab()
    if _network.exists(_lab):
        _network.enter(_lab)
    _made = _machines.read(_lab.folder)
    _machines.write_names(_made, _lab.known_hosts, _lab.etc_hosts)
except _state.LabError as _error:
    # pyinfra shows any other exception with a traceback.
    _sys.exit(f"inventories/vagrant.py: {_error}")

_brokers = sum(_item.role == "brokers" for _item in _made)


def _volume(item: _machines.Made, disk: _plan.Disk) -> dict[str, object]:
    # What the disk was made as; an allowance for what a format of images keeps for itself.
    return {"device": item.device(disk), "min_gib": disk.gib * 0.99, "max_gib": disk.gib * 1.01}


def _host(item: _machines.Made) -> tuple[str, dict[str, object]]:
    role: dict[str, object] = {"zookeeper_id": item.number}
    if item.role == "brokers":
        role = {
            "kafka_broker_id": item.number,
            "kafka_default_replication_factor": min(3, _brokers),
            "kafka_min_insync_replicas": 2 if _brokers > 2 else 1,
            # A single one cannot restart without refusing writes meanwhile.
            "kafka_allow_unsafe_restart": _brokers == 1,
            "kafka_allow_acks_from_one_copy": _brokers < 3,
        }
    return (
        item.name,
        {
            "ssh_hostname": item.address,
            "ssh_port": 22,
            "ssh_user": item.user,
            "ssh_key": item.key,
            "ssh_known_hosts_file": str(_lab.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            "ssh_allow_agent": False,
            "ssh_look_for_keys": False,
            "ssh_forward_agent": False,
            "common_hostname": item.fqdn,
            "common_addresses": [item.address],
            "volumes_layout": {disk.name: _volume(item, disk) for disk in item.disks},
            **role,
        },
    )


zookeepers = [_host(_item) for _item in _made if _item.role == "zookeepers"]
brokers = [_host(_item) for _item in _made if _item.role == "brokers"]
