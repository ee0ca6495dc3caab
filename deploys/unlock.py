"""After a reboot: opens and mounts volumes whose keys custody holds, then starts what is down.

pyinfra INVENTORY deploys/unlock.py

Changes nothing else, and formats nothing. Keys travel on the standard input of the command that
opens the volume; none rests on the host.
"""

from pyinfra import host, state

from roles.common.operations import barrier
from roles.common.session import begin
from roles.kafka import deploy as kafka
from roles.volumes import deploy as volumes
from roles.zookeeper import deploy as zookeeper
from strongbox.site import site

begin()
here = site(state.strongbox_cluster, host.name)

volumes.unlock(here.volumes)
barrier(name="barrier: volumes are open", label="volumes are open")
zookeeper.start_down(
    here.ensemble,
    lambda: kafka.have_data(here.brokers) or any(map(here.was_closed, here.brokers)),
    here.was_closed,
)
kafka.start_down(here.brokers, lambda _: False, lambda _: True, here.was_closed)
