"""The machines as pyinfra and the roles see them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from lab.state import PROJECT, Lab
from lab.vagrant import declare as declaration
from lab.vagrant import plan
from strongbox.cluster import Cluster, Declared, load
from tests.unit.test_vagrant_machines import write


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    found = Lab("unit", tmp_path)
    found.folder.mkdir()
    monkeypatch.setattr(plan, "lab", lambda: found)
    return found


def declare(lab: Lab, zookeepers: int, brokers: int) -> Cluster:
    asked = {
        "STRONGBOX_VAGRANT_MACHINES": str(zookeepers + brokers),
        "STRONGBOX_VAGRANT_ZOOKEEPERS": str(zookeepers),
        "STRONGBOX_VAGRANT_DATA_DISKS": "2",
    }
    for machine in plan.read(asked).machines:
        write(
            lab.folder,
            name=machine.name, fqdn=machine.fqdn, role=machine.role, number=machine.number,
            address=machine.address, disks=[vars(disk) for disk in machine.disks],
        )  # fmt: skip
    inventory = _names("inventories/vagrant.py")
    # As pyinfra puts it together, without importing it: that would change how threads work here.
    hosts = {}
    for group in ("zookeepers", "brokers"):
        groups = ("all", group, "vagrant")
        settings = {k: v for name in groups for k, v in _names(f"group_data/{name}.py").items()}
        for name, data in inventory[group]:
            hosts[name] = Declared(groups, settings | data)
    ssh = {key for host in hosts.values() for key in host.data if key.startswith("ssh_")}
    return load(hosts, ssh)


def _names(file: str) -> dict[str, Any]:
    found = runpy.run_path(str(PROJECT / file))
    return {name: value for name, value in found.items() if not name.startswith("_")}


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 3), (3, 2), (3, 3)])
def test_every_size_is_a_cluster_that_the_roles_take(lab: Lab, size: tuple[int, int]) -> None:
    cluster = declare(lab, *size)
    assert (len(cluster.zookeepers), len(cluster.brokers)) == size
    for node in cluster.brokers.values():
        assert node.kafka is not None
        assert node.kafka.default_replication_factor == min(3, size[1])
        assert node.kafka.min_insync_replicas == (2 if size[1] > 2 else 1)


def test_volumes_are_luks_on_the_disks_that_were_made_under_a_key_of_this_machines(
    lab: Lab,
) -> None:
    cluster = declare(lab, 1, 1)
    broker = cluster.brokers["kafka1"]
    assert {name: volume.device for name, volume in broker.volumes.layout.items()} == {
        name: f"/dev/disk/by-id/virtio-sb-kafka1-{name}" for name in ("main", "data1", "data2")
    }
    assert {volume.encryption for volume in broker.volumes.layout.values()} == {"luks"}
    assert not broker.volumes.unencrypted
    assert all(volume.min_gib < 4 < volume.max_gib for volume in broker.volumes.layout.values())
    assert list(cluster.zookeepers["zk1"].volumes.layout) == ["main"]
    assert broker.custody.kind == "local"
    assert Path(broker.custody.identity_file).parent == lab.folder
    assert len(broker.custody.recipients) == 1


def test_pyinfras_own_connector_is_told_the_same(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(lab, 1, 1)
    monkeypatch.setattr(declaration, "OPTIONS", tmp_path / "@vagrant.json")
    made = declaration.write(lab)
    options = json.loads(declaration.OPTIONS.read_text())
    assert options["groups"] == {"zk1": ["zookeepers", "vagrant"], "kafka1": ["brokers", "vagrant"]}
    assert options["data"] == dict(
        declaration.hosts(lab, made, "zookeepers") + declaration.hosts(lab, made, "brokers")
    )
    assert "192.168.56.101" in lab.known_hosts.read_text()
    for file in plan.records(lab.folder).iterdir():
        file.unlink()
    assert declaration.write(lab) == []
    assert not declaration.OPTIONS.exists()
    assert lab.known_hosts.read_text() == ""


def test_settings_alone_make_no_secret(lab: Lab) -> None:
    """pyinfra reads every file of group_data, whichever inventory it is given."""
    assert "custody_recipients" not in _names("group_data/vagrant.py")
    assert list(lab.folder.iterdir()) == []


def test_before_the_first_machine_it_says_how_to_make_one(lab: Lab) -> None:
    with pytest.raises(SystemExit, match="no machine was made yet: vagrant up"):
        _names("inventories/vagrant.py")
