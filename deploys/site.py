"""The whole cluster, any number of times: pyinfra INVENTORY deploys/site.py

Read from top to bottom, this is the order of work. Every host stays at a barrier until all have
come that far; a failure anywhere stops everything after it.
"""

from pyinfra import host, state

from roles.common.deploy import make_folders, prepare_host
from roles.common.operations import barrier
from roles.common.session import begin
from roles.kafka import deploy as kafka
from roles.tls.deploy import distribute_stores, remove_old_stores
from roles.volumes import deploy as volumes
from roles.volumes.boot import deploy as boot
from roles.volumes.keys import deploy as keys
from roles.volumes.operations import being_set_up
from roles.zookeeper import deploy as zookeeper
from strongbox.site import site

begin()
here = site(state.strongbox_cluster, host.name)

prepare_host(here.base)
if here.key_service:
    boot.install(here.key_service)
volumes.provision(here.volumes, here.all_volumes)
barrier(name="barrier: volumes are open", label="volumes are open")
keys.complete(here.keys, being_set_up(here.volumes))
make_folders(here.base)
if not here.key_service:
    boot.remove()
barrier(name="barrier: hosts are prepared", label="hosts are prepared")

distribute_stores(here.certificates)
barrier(name="barrier: certificates are in place", label="certificates are in place")

if here.zookeeper:
    zookeeper.configure(here.zookeeper, here.archive)
barrier(name="barrier: ZooKeeper is configured", label="ZooKeeper is configured")
zookeeper.roll(here.ensemble, lambda: kafka.have_data(here.brokers))

if here.broker:
    kafka.configure(here.broker, here.archive)
barrier(name="barrier: Kafka is configured", label="Kafka is configured")
kafka.roll(here.brokers, here.stores_due, here.stores_usable)

remove_old_stores(here.certificates)
