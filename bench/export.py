"""What Ansible is told: the same files, owners, modes and certificates that the roles want.

Everything is written below one folder: ``hosts.json`` (an inventory) and ``files/HOST/PATH``.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID

from lab.state import USER, Lab
from roles.common.plan import ManagedDirectory, ManagedFile
from roles.kafka import files as kafka_files
from roles.tls import stores
from roles.tls.deploy import wanted_stores
from roles.tls.operations import MODE as STORE_MODE
from roles.zookeeper import files as zookeeper_files
from strongbox.cluster import Cluster
from strongbox.site import HostSite, site

_USAGES = {
    ExtendedKeyUsageOID.SERVER_AUTH: "TLS Web Server Authentication",
    ExtendedKeyUsageOID.CLIENT_AUTH: "TLS Web Client Authentication",
}


def export(lab: Lab, cluster: Cluster, folder: Path) -> Path:
    """Writes inventory and files for the hosts of the cluster; returns the inventory."""
    hosts = {name: _host(lab, site(cluster, name), name, folder) for name in cluster.nodes}
    inventory = folder / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}, indent=1))
    return inventory


def _host(lab: Lab, here: HostSite, name: str, folder: Path) -> dict[str, Any]:
    service = _zookeeper(here) if here.zookeeper else _broker(here)
    wanted: list[ManagedDirectory | ManagedFile] = service.pop("wanted")
    files = [item for item in wanted if isinstance(item, ManagedFile)]
    trusted = _stores(here)
    for path, content in [
        *((file.path, file.content) for file in files),
        *((store["truststore"], store.pop("trusted")) for store in trusted),
    ]:
        copy = folder / "files" / name / path.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    return {
        "ansible_host": lab.host(name).address,
        "ansible_user": USER,
        "ansible_ssh_private_key_file": str(lab.key),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={lab.known_hosts} -F /dev/null",
        "packages": list(here.base.packages),
        "account": here.base.accounts[0],
        "software": here.archive.directory,
        "directories": [_attributes(item) for item in wanted if isinstance(item, ManagedDirectory)],
        "files": [_attributes(item) for item in files],
        "stores": trusted,
        **service,
    }


def _attributes(item: ManagedDirectory | ManagedFile) -> dict[str, str]:
    return {"path": item.path, "owner": item.owner, "group": item.group, "mode": f"0{item.mode}"}


def _zookeeper(here: HostSite) -> dict[str, Any]:
    node = here.zookeeper
    assert node is not None
    return {
        "unit": "zookeeper",
        "wanted": zookeeper_files.wanted(node),
        "started_with": zookeeper_files.started_with(node)["config"],
        "four_letter": zookeeper_files.four_letter_command(node, "srvr", "mntr"),
    }


def _broker(here: HostSite) -> dict[str, Any]:
    node = here.broker
    assert node is not None
    return {
        "unit": "kafka",
        "wanted": kafka_files.wanted(node),
        "started_with": kafka_files.started_with(node)["config"],
        "stores_digest": kafka_files.stores_digest_command(node),
    }


def _stores(here: HostSite) -> list[dict[str, Any]]:
    now = datetime.datetime.now(datetime.UTC)
    found: list[dict[str, Any]] = []
    for base, item in wanted_stores(here.certificates, now).items():
        paths = stores.paths(base, item.store_type)
        spec = item.spec
        names = [f"DNS:{name}" for name in spec.dns_names]
        names += [f"IP Address:{address}" for address in spec.addresses]
        entry = {
            "keystore": paths.keystore,
            "truststore": paths.truststore,
            "trusted": stores.pem_truststore(item.trusted),
            "mode": f"0{STORE_MODE}",
            "subject": spec.subject.rfc4514_string(),
            "issuer": item.issuer.subject.rfc4514_string(),
            "names": names,
            "usages": [_USAGES[usage] for usage in spec.usages],
            "due_s": int(item.lifetime.total_seconds() * item.renew_fraction),
        }
        found.append(entry)
    return found
