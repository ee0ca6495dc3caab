"""The key service alone, for one host: what site.py does in boot mode, without the cluster.

``--data x_key_service=…`` is JSON with the fields of `KeyService`, or ``remove``.
"""

from pyinfra import host

from roles.common.session import begin
from roles.volumes.boot import deploy as boot
from roles.volumes.boot.files import KeyService

begin()
wanted = host.data.x_key_service
if wanted == "remove":
    boot.remove()
else:
    boot.install(KeyService(**wanted))
