"""Small clients that run in the lab's network."""

from __future__ import annotations

import json
import sys

from tests.lab.conftest import Cluster

_LIST = """
import json, sys
from confluent_kafka.admin import AdminClient
client = AdminClient(json.loads(sys.argv[1]))
print(json.dumps(sorted(client.list_topics(timeout=30).topics)))
"""


def list_topics(cluster: Cluster, identity: str, ca: str) -> list[str]:
    """Topics that the owner of that PEM file may see through the CLIENT listener."""
    settings = {
        "bootstrap.servers": cluster.info["listeners"]["CLIENT"],
        "security.protocol": "ssl",
        "ssl.ca.location": ca,
        "ssl.certificate.location": identity,
        "ssl.key.location": identity,
    }
    result = cluster.within(sys.executable, "-c", _LIST, json.dumps(settings))
    assert result.returncode == 0, result.stderr
    return list(json.loads(result.stdout))
