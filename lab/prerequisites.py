"""Debian packages that the machine with the lab needs: ``python3 lab/prerequisites.py``.

Standard library only, as it runs before the virtual environment exists.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

# Program -> package that has it.
PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "openssl": "openssl",
    "tcpdump": "tcpdump",
    "strace": "strace",
    "keytool": "default-jre-headless",
    "java": "default-jre-headless",
    "mvn": "maven",
}


def missing() -> list[str]:
    """Packages to install, each once, in order."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    wanted = [
        package for program, package in PROGRAMS.items() if not shutil.which(program, path=path)
    ]
    return list(dict.fromkeys(wanted))


def main() -> int:
    packages = missing()
    if not packages:
        return 0
    if os.geteuid() != 0:
        print(f"the lab needs these packages: {' '.join(packages)}; install them, or run as root",
              file=sys.stderr)  # fmt: skip
        return 1
    print(f"--> installing {' '.join(packages)}", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages],
    ):
        result = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False,
        )  # fmt: skip
        if result.returncode != 0:
            print(result.stdout[-2000:], file=sys.stderr)
            print(f"{' '.join(command[:2])} failed", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
