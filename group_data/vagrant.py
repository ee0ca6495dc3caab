"""Settings of the machines under Vagrant (inventories/vagrant.py)."""

import os as _os

from lab import state as _state
from lab.vagrant import plan as _plan

_lab = _plan.lab()

common_cluster = "vagrant"
tls_authority_dir = str(_lab.authority_dir)
if "STRONGBOX_CA_PASSPHRASE" not in _os.environ:
    tls_passphrase_file = str(_lab.passphrase)
custody_kind = "local"
if _lab.recipient:
    custody_recipients = [_lab.recipient]
custody_identity_file = str(_lab.identity)
custody_records_dir = str(_lab.records)
zookeeper_archive = str(_state.PROJECT / ".lab" / "dist" / "kafka_2.13-3.9.2.tgz")
kafka_archive = zookeeper_archive
zookeeper_heap = "128m"
kafka_heap = "384m"
# An emulated processor takes its time to start a Java runtime.
zookeeper_start_timeout_s = 600
kafka_start_timeout_s = 600
