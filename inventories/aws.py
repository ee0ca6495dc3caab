"""A cluster on AWS, its hosts found by tags: pyinfra inventories/aws.py deploys/site.py

A worked example to copy: STRONGBOX_CLUSTER and AWS_REGION choose the cluster; credentials are those
of boto3 (AWS_PROFILE, or the role of the instance this runs on). See docs/aws.md.
"""

import os as _os
import sys as _sys

from roles.ebs import discover as _discover
from roles.ebs.aws import Aws as _Aws
from roles.ebs.errors import AwsError as _AwsError
from roles.ebs.model import Place as _Place

_CLUSTER = _os.environ.get("STRONGBOX_CLUSTER", "payments")
_REGION = _os.environ.get("AWS_REGION", "eu-central-1")
# Sizes in GiB, by the volumes' names. A broker's data lies on all but `main`.
_VOLUMES = {"zookeeper": {"main": 50}, "broker": {"main": 50, "data1": 500}}

try:
    # Nothing is ever changed while an inventory is read.
    _aws = _Aws(_REGION, dry=True)
    _account, _partition = _aws.identity()
    _found = _discover.discover(_aws, _CLUSTER)
    _disks = _aws.volumes(_CLUSTER)
except _AwsError as _error:
    # pyinfra shows any other exception with a traceback.
    _sys.exit(f"inventories/aws.py: {_error}")


def _host(item: _discover.Found) -> tuple[str, dict[str, object]]:
    sizes = _VOLUMES[item.role]
    identifier = "zookeeper_id" if item.role == "zookeeper" else "kafka_broker_id"
    return (
        item.name,
        {
            "ssh_hostname": item.address,
            "ssh_user": "admin",
            identifier: item.number,
            "common_cluster": _CLUSTER,
            "common_hostname": item.dns,
            "common_addresses": [item.address],
            "ebs_instance": item.instance,
            "ebs_region": _REGION,
            "ebs_key_administrators": [f"arn:{_partition}:iam::{_account}:role/security"],
            "ebs_key_users": [f"arn:{_partition}:iam::{_account}:role/kafka-provisioner"],
            "ebs_volumes": {name: {"size_gib": size} for name, size in sizes.items()},
            "volumes_layout": _discover.layout(
                sizes, lambda name: _disks.get(_Place(_CLUSTER, item.dns, name), [])
            ),
        },
    )


zookeepers = [_host(_item) for _item in _found if _item.role == "zookeeper"]
brokers = [_host(_item) for _item in _found if _item.role == "broker"]
