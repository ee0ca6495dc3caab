"""The root image of the lab's hosts: Debian with systemd, sshd and a Java runtime, made once."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from lab.state import PROJECT, USER, LabError

PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "iproute2", "procps", "openssl",
    "ca-certificates", "curl", "netcat-openbsd", "openjdk-17-jre-headless",
)  # fmt: skip
# Hosts have no way out, so nothing may try; what is not needed must not take CPU from the brokers.
_SETUP = f"""
set -eu
useradd --create-home --shell /bin/bash {USER}
install -d -m 700 -o {USER} -g {USER} /home/{USER}/.ssh
echo '{USER} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{USER}
chmod 440 /etc/sudoers.d/{USER}
rm -f /etc/ssh/ssh_host_*
cat >/etc/ssh/sshd_config.d/lab.conf <<'END'
UseDNS no
PasswordAuthentication no
PermitRootLogin no
MaxSessions 50
MaxStartups 100
END
mkdir -p /var/log/journal
systemctl enable -q systemd-networkd ssh
systemctl mask -q apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer dpkg-db-backup.timer motd-news.timer getty.target console-getty.service \
  systemd-resolved.service systemd-timesyncd.service systemd-networkd-wait-online.service \
  systemd-logind.service systemd-homed.service
: >/etc/machine-id
rm -rf /var/cache/apt/* /var/lib/apt/lists/* /usr/share/doc /usr/share/man
"""


def key() -> str:
    return hashlib.sha256(f"{PACKAGES}{_SETUP}".encode()).hexdigest()[:12]


def build(say: Callable[[str], None]) -> Path:
    """The image's folder; made when this recipe has none yet. A broken build leaves nothing."""
    cache = PROJECT / ".lab" / "image"
    image = cache / key()
    if image.is_dir():
        return image
    say("building the hosts' Debian image (once, about two minutes)")
    cache.mkdir(parents=True, exist_ok=True)
    temporary = cache / f"{key()}.new"
    shutil.rmtree(temporary, ignore_errors=True)
    setup = cache / "setup.sh"
    setup.write_text(_SETUP)
    command = [
        "mmdebstrap", "--variant=minbase", "--mode=root", "--quiet",
        f"--include={','.join(PACKAGES)}",
        f"--customize-hook=copy-in {setup} /root",
        '--customize-hook=chroot "$1" sh /root/setup.sh',
        '--customize-hook=rm "$1/root/setup.sh"',
        "bookworm", str(temporary),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    setup.unlink()
    if result.returncode != 0:
        shutil.rmtree(temporary, ignore_errors=True)
        raise LabError(f"mmdebstrap failed:\n{result.stderr[-2000:]}")
    temporary.rename(image)
    return image
