"""Moves brokers onto encrypted EBS volumes: pyinfra INVENTORY deploys/ebs_reencrypt.py

One broker at a time, and only while the cluster can spare it. The old volume is kept until it is
named in a run of its own: --data ebs_delete_old=vol-… See docs/aws.md.
"""

from functools import partial

from pyinfra import host, state

from roles.common.session import begin
from roles.ebs.deploy import reencrypt
from roles.ebs.operations import Service
from roles.kafka.operations import come_up, gate, in_sync_command
from strongbox.site import ebs_hosts, site

begin()
cluster = state.strongbox_cluster
brokers = site(cluster, host.name).brokers
reencrypt(
    ebs_hosts(cluster),
    {
        name: Service(
            unit="kafka",
            gate=partial(gate, name, brokers),
            come_up=partial(come_up, node, "start"),
            in_sync=in_sync_command(node),
        )
        for name, node in brokers.items()
    },
    cluster.nodes[host.name].ebs.delete_old,
)
