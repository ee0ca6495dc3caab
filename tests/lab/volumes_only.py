"""A deploy for tests: only the volumes of a host and their keys, without any service.

--data x_step=set-up (unless said otherwise) or unlock.
"""

from functools import cache

from pyinfra import host, state

from roles.common.operations import barrier
from roles.common.session import begin
from roles.custody import build
from roles.volumes.deploy import provision, unlock
from roles.volumes.files import VolumesHost, known_volumes
from roles.volumes.keys.deploy import complete
from strongbox.site import volume_keys

begin()
cluster = state.strongbox_cluster
node = cluster.nodes[host.name]
volumes = VolumesHost(
    cluster.name,
    node.common.hostname,
    node.common.base_dir,
    node.volumes,
    cache(lambda: build.custody(node.custody)),
    known_volumes(cluster.name, {node.common.hostname: node.volumes}),
)
if host.data.get("x_step") == "unlock":
    unlock(volumes)
else:
    provision(volumes)
    barrier(name="barrier: volumes are open", label="volumes are open")
    complete(volume_keys(cluster)[host.name])
