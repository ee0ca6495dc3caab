"""What makes a copy of the image a certain host: name, address, keys. The same for any driver."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from lab.state import PREFIX_LENGTH, USER, Host, Lab


def configure(lab: Lab, host: Host, root: Path, interface: str) -> None:
    """Writes the host's own files into its root.

    :param interface: its network device as the host sees it.
    """
    _put(root / "etc/hostname", f"{host.name}\n")
    names(lab, root)
    # Sorts before the distribution's own file for containers, which would ask for DHCP. No gateway:
    # what tries to leave the lab fails at once instead of after a timeout.
    _put(
        root / "etc/systemd/network/10-lab.network",
        f"[Match]\nName={interface}\n[Network]\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"
        f"Address={host.address}/{PREFIX_LENGTH}\n",
    )
    key = lab.host_key(host.name)
    _put(root / "etc/ssh" / key.name, key.read_text(), 0o600)
    public = key.with_suffix(".pub")
    _put(root / "etc/ssh" / public.name, public.read_text())
    home = root / f"home/{USER}"
    owner = home.stat()
    _put(
        home / ".ssh/authorized_keys",
        lab.key.with_suffix(".pub").read_text(),
        0o600,
        (owner.st_uid, owner.st_gid),
    )


def names(lab: Lab, root: Path) -> None:
    _put(root / "etc/hosts", lab.etc_hosts.read_text())


def _put(path: Path, text: str, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
    """Replaces the file in one step; a link that the host has put there is replaced, not followed.

    :param mode: holds from the file's first byte.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            os.fchown(handle, *owner)
            os.fchmod(handle, mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise
