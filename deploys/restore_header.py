"""A damaged LUKS header from its sealed backup: pyinfra INVENTORY deploys/restore_header.py

--data volumes_restore=HOST/VOLUME. Refuses when the header is intact.
"""

from pyinfra import state

from roles.common.session import begin
from roles.volumes.keys import deploy as keys
from strongbox.site import volume_keys

begin()
keys.restore(volume_keys(state.strongbox_cluster))
