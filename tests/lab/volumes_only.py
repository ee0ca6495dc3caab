"""A deploy for tests: only the volumes of a host and their keys, without any service.

--data x_step=set-up (unless said otherwise) or unlock.
"""

from pyinfra import host, state

from roles.common.operations import barrier
from roles.common.session import begin
from roles.volumes.deploy import provision, unlock
from roles.volumes.keys.deploy import complete
from roles.volumes.operations import being_set_up
from strongbox.site import site

begin()
here = site(state.strongbox_cluster, host.name)
if host.data.get("x_step") == "unlock":
    unlock(here.volumes)
else:
    provision(here.volumes, here.all_volumes)
    barrier(name="barrier: volumes are open", label="volumes are open")
    complete(here.keys, being_set_up(here.volumes))
