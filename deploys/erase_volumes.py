"""Crypto-erase of a disk that leaves: pyinfra INVENTORY deploys/erase_volumes.py

--data volumes_erase_confirm=DISK, its serial or LUKS UUID. Stop the service, unmount and close the
volume first. Afterwards no key and no backup opens it.
"""

from pyinfra import state

from roles.common.session import begin
from roles.volumes.keys import deploy as keys
from strongbox.site import volume_keys

begin()
keys.erase_volume(volume_keys(state.strongbox_cluster))
