"""New keys for LUKS volumes while everything runs: pyinfra INVENTORY deploys/rotate_volume_keys.py

--data volumes_rotate=volume (the machine keys, unless said otherwise), recovery or all. One host
after the other; nothing is restarted. A run that was killed is finished by the next one.
"""

from pyinfra import state

from roles.common.session import begin
from roles.volumes.keys import deploy as keys
from strongbox.site import volume_keys

begin()
keys.rotate(volume_keys(state.strongbox_cluster))
