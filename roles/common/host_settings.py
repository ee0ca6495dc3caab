"""Settings that describe a host and its cluster, whatever it runs."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from roles.common.settings import CLUSTER_NAME, Address, Hostname, RemotePath, RoleSettings


def _cluster(value: str) -> str:
    if not CLUSTER_NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not 1-30 of a-z, 0-9 and '-', starting with a letter")
    return value


# Debian Policy 5.6.1 and 5.6.12. A last '-' is apt-get's way to say "remove".
_PACKAGE = re.compile(
    r"[a-z0-9]([a-z0-9+.-]*[a-z0-9+.])?(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?", re.ASCII
)


def _packages(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _PACKAGE.fullmatch(value):
            raise ValueError(
                f"{value[:60]!r} is not a Debian package: write NAME, NAME:ARCHITECTURE or "
                "NAME=VERSION in Debian's characters (root installs it)"
            )
    return values


class CommonSettings(RoleSettings):
    prefix: ClassVar[str] = "common"

    cluster: Annotated[str, AfterValidator(_cluster)] = Field(
        description="Name of the cluster. It is in every certificate's subject (O=) and in the "
        "names of the authorities, so it cannot change later without replacing them."
    )
    hostname: Hostname = Field(
        description="Name under which the other hosts and the clients reach this host. "
        "It is in the certificates and in advertised.listeners."
    )
    addresses: tuple[Address, ...] = Field(
        default=(),
        strict=False,
        description="IP addresses of this host that its certificates name too.",
    )
    base_dir: RemotePath = Field(
        default="/srv/strongbox",
        description="Folder on the encrypted volume that holds data, keys, logs and temporary "
        "files of each role.",
    )
    packages: Annotated[tuple[str, ...], AfterValidator(_packages)] = Field(
        default=("openjdk-17-jre-headless", "openssl", "curl"),
        strict=False,
        description="Debian packages that every host needs, as NAME, NAME:ARCHITECTURE or "
        "NAME=VERSION; missing ones are installed. curl fetches archives that are given by URL.",
    )
    java: RemotePath = Field(default="/usr/bin/java", description="The Java launcher, 17 or later.")
