"""The machines as pyinfra takes them: by inventories/vagrant.py, or by its own ``@vagrant``.

Standard library only, see `lab.vagrant.plan`: the Vagrantfile runs ``python3 -m
lab.vagrant.declare`` after each change.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from lab.state import PROJECT, VAGRANT, Lab, LabError
from lab.vagrant import machines, plan
from lab.vagrant.machines import Made

#: What pyinfra's connector reads from the folder that it runs in.
OPTIONS = PROJECT / "@vagrant.json"


def host_data(lab: Lab, made: Made, brokers: int) -> dict[str, Any]:
    """Host data of one machine.

    :param brokers: how many there are.
    """
    role: dict[str, Any] = {"zookeeper_id": made.number}
    if made.role == "brokers":
        role = {
            "kafka_broker_id": made.number,
            "kafka_default_replication_factor": min(3, brokers),
            "kafka_min_insync_replicas": 2 if brokers > 2 else 1,
            "kafka_allow_acks_from_one_copy": brokers < 3,
            # A single one cannot restart without refusing writes meanwhile.
            "kafka_allow_unsafe_restart": brokers == 1,
        }
    return {
        "ssh_hostname": made.address,
        "ssh_port": 22,
        "ssh_user": made.user,
        "ssh_key": made.key,
        "ssh_known_hosts_file": str(lab.known_hosts),
        "ssh_strict_host_key_checking": "yes",
        "ssh_allow_agent": False,
        "ssh_look_for_keys": False,
        "ssh_forward_agent": False,
        "common_hostname": made.fqdn,
        "common_addresses": [made.address],
        "volumes_layout": {disk.name: _volume(made, disk) for disk in made.disks},
        **role,
    }


def _volume(made: Made, disk: plan.Disk) -> dict[str, Any]:
    # Not to the byte: formats of disk images round.
    return {
        "device": made.device(disk),
        "min_gib": disk.gib * 0.99,
        "max_gib": disk.gib * 1.01,
    }


def hosts(lab: Lab, made: Sequence[Made], role: str) -> list[tuple[str, dict[str, Any]]]:
    """One group of a pyinfra inventory."""
    brokers = sum(item.role == "brokers" for item in made)
    return [(item.name, host_data(lab, item, brokers)) for item in made if item.role == role]


def write(lab: Lab) -> list[Made]:
    """Renews what follows from the machines there are: known_hosts, names, pyinfra's options.

    :raises LabError: when a machine's record cannot be read.
    """
    made = machines.read(lab.folder)
    lab.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    machines.write_names(made, lab.known_hosts, lab.etc_hosts)
    if not made:
        OPTIONS.unlink(missing_ok=True)
        return made
    groups = {item.name: [item.role, VAGRANT] for item in made}
    data = dict(hosts(lab, made, "zookeepers") + hosts(lab, made, "brokers"))
    OPTIONS.write_text(json.dumps({"groups": groups, "data": data}, indent=1) + "\n")
    return made


def main() -> int:
    try:
        write(plan.lab())
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
