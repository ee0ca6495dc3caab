"""How a process on the controller keeps the authorities' passphrase and keys to itself."""

from __future__ import annotations

import resource

from roles.tls import passphrase
from strongbox.cluster import Cluster


def no_core_dumps() -> None:
    """A core of this process, or of a child, would hold whatever key was open."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def take_passphrase(cluster: Cluster) -> None:
    """Takes the passphrase out of the environment, whether or not it will be used."""
    sources = {node.tls.passphrase_source.variable for node in cluster.nodes.values()}
    for variable in {passphrase.DEFAULT_VARIABLE, *sources} - {""}:
        passphrase.take(variable)
