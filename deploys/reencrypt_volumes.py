"""A new volume key for one volume, online: pyinfra INVENTORY deploys/reencrypt_volumes.py

--data volumes_reencrypt_confirm=HOST/VOLUME. All its data is written anew, which takes long; after
a power cut run deploys/unlock.py, then this again.
"""

from pyinfra import state

from roles.common.session import begin
from roles.volumes.keys import deploy as keys
from strongbox.site import volume_keys

begin()
keys.reencrypt(volume_keys(state.strongbox_cluster))
