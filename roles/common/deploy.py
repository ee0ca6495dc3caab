"""Prepares a host for any role: packages, service accounts, folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from roles.common.operations import host_base, managed_paths
from roles.common.plan import ManagedDirectory


@dataclass(frozen=True)
class HostBase:
    packages: Sequence[str]
    accounts: Sequence[str]
    directories: Sequence[ManagedDirectory]
    paths: Sequence[str]  # everything that later operations of the run look at


def prepare_host(base: HostBase) -> None:
    """Packages and accounts: what volumes, and the folders on them, need to be there before."""
    host_base(
        name="Host: packages and service accounts",
        packages=base.packages,
        accounts=base.accounts,
        paths=base.paths,
    )


def make_folders(base: HostBase) -> None:
    """The folders on the volumes, which are mounted by now."""
    managed_paths(name="Host: folders", wanted=base.directories)
