"""Has systemd listen for those who want a volume's key, or ends that."""

from __future__ import annotations

import shlex

from pyinfra import host
from pyinfra.api.command import StringCommand
from pyinfra.api.operation import operation

from roles.common.operations import Commands, observed, showing_changes
from roles.common.readings import forget
from roles.volumes.boot import files

_REMOVE = f"""\
set -eu
if grep -qsE '^[^#]*[[:space:]]{files.SOCKET}([[:space:]]|$)' /etc/crypttab; then
  echo "$(uname -n): /etc/crypttab still has volumes that are opened through {files.SOCKET}: \
they would stay closed after a reboot, so the key service was left as it is" >&2
  exit 1
fi
systemctl disable --now --quiet strongbox-key.socket 2>/dev/null || :
systemctl stop 'strongbox-key@*.service'
rm -f {shlex.join(files.OWN_PATHS)}
systemctl daemon-reload"""


@operation()
def listening() -> Commands:
    """
    Has systemd listen for systemd-cryptsetup, now and after each boot.
    """
    if files.is_listening(observed(files.STATE_PATHS)):
        host.noop("the key service listens")
        return
    forget()
    if showing_changes():
        host.log(f"listen on {files.SOCKET}")
    yield StringCommand(
        "systemctl enable --quiet strongbox-key.socket remote-cryptsetup.target "
        "&& systemctl restart strongbox-key.socket"
    )


@operation()
def removed() -> Commands:
    """
    Removes the key service; refuses while a volume is opened through it.
    """
    rest = files.remains(observed(files.STATE_PATHS))
    if not rest:
        host.noop("there is no key service")
        return
    forget()
    if showing_changes():
        for path in rest:
            host.log(f"{path}: remove")
    yield StringCommand(_REMOVE)
