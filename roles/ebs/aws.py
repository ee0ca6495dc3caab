"""EC2 and KMS through boto3: what there is, and every change in one place.

A dry run is given a client that cannot change anything: botocore is stopped before any request
whose name does not begin with Describe, Get or List. Every error is one line with what to do.
"""

from __future__ import annotations

import datetime
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from roles.ebs.errors import DENIED, AwsError, DryRunError, code_of, error_of
from roles.ebs.model import (
    CLUSTER,
    COPY_OF,
    HOST,
    STATE,
    VOLUME,
    EbsDisk,
    Instance,
    Key,
    Place,
    Snapshot,
    Stage,
    client_token,
)
from roles.ebs.plan import DEFAULT_ROTATION_DAYS
from roles.ebs.settings import EbsVolume

_READING = ("Describe", "Get", "List")
_POLL_S = 3.0
# EC2 may not yet know what it has just answered with.
_SETTLE_S = 60.0
_CONFIG = Config(
    retries={"mode": "standard", "max_attempts": 6}, connect_timeout=10, read_timeout=60
)


def _guard(model: Any, **_more: Any) -> None:
    if not model.name.startswith(_READING):
        raise DryRunError(f"AWS: {model.name} was asked for in a dry run: nothing was sent")


class Aws:
    """
    :param dry: let no request through that could change anything.
    :param wait_s: seconds that a volume may take to come to a state.
    """

    def __init__(
        self,
        region: str,
        *,
        dry: bool,
        wait_s: float = 600,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
        clients: Mapping[str, Any] | None = None,
    ) -> None:
        self.region = region
        self.dry = dry
        self._wait_s = wait_s
        self._sleep = sleep
        self._clock = clock
        self._clients = dict(clients or {})
        for client in self._clients.values():
            self._arm(client)

    def _arm(self, client: Any) -> None:
        if self.dry:
            client.meta.events.register_first("before-call", _guard)

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            session: Any = boto3.session.Session(region_name=self.region)
            client = session.client(service, config=_CONFIG)
            self._arm(client)
            self._clients[service] = client
        return self._clients[service]

    def _call(self, service: str, operation: str, **arguments: Any) -> Any:
        try:
            return getattr(self._client(service), operation)(**arguments)
        except (ClientError, BotoCoreError) as error:
            raise error_of(f"{service} {operation}", error) from error

    def _pages(self, service: str, operation: str, **arguments: Any) -> Iterator[Any]:
        try:
            yield from self._client(service).get_paginator(operation).paginate(**arguments)
        except (ClientError, BotoCoreError) as error:
            raise error_of(f"{service} {operation}", error) from error

    def _change(self, service: str, operation: str, **arguments: Any) -> Any:
        """Every request that changes something comes through here."""
        if self.dry:
            raise DryRunError(f"AWS: {operation} was asked for in a dry run: nothing was sent")
        return self._call(service, operation, **arguments)

    # What there is

    def identity(self) -> tuple[str, str]:
        """Account number and partition of the credentials."""
        found = self._call("sts", "get_caller_identity")
        return str(found["Account"]), str(found["Arn"]).split(":")[1]

    def key(self, name: str, cluster: str) -> Key | None:
        """
        :param name: ARN or ``alias/…``.
        """
        try:
            metadata = self._call("kms", "describe_key", KeyId=name)["KeyMetadata"]
        except AwsError as error:
            if code_of(error) == "NotFoundException":
                return None
            raise
        arn = str(metadata["Arn"])
        customer = metadata["KeyManager"] == "CUSTOMER"
        ours = customer and self._key_tags(arn).get(CLUSTER) == cluster
        enabled = customer and metadata["KeyState"] == "Enabled"
        return Key(
            arn=arn,
            state=str(metadata["KeyState"]),
            manager=str(metadata["KeyManager"]),
            spec=str(metadata["KeySpec"]),
            usage=str(metadata["KeyUsage"]),
            ours=ours,
            rotation_days=self._rotation(arn) if enabled else None,
            policy=self._policy(arn) if enabled and ours else {},
        )

    def _key_tags(self, arn: str) -> dict[str, str]:
        return {
            tag["TagKey"]: tag["TagValue"]
            for page in self._pages("kms", "list_resource_tags", KeyId=arn)
            for tag in page["Tags"]
        }

    def _rotation(self, arn: str) -> int | None:
        found = self._call("kms", "get_key_rotation_status", KeyId=arn)
        if not found["KeyRotationEnabled"]:
            return None
        return int(found.get("RotationPeriodInDays", DEFAULT_ROTATION_DAYS))

    def _policy(self, arn: str) -> dict[str, object]:
        text = self._call("kms", "get_key_policy", KeyId=arn, PolicyName="default")["Policy"]
        policy: dict[str, object] = json.loads(text)
        return policy

    def keys_of(self, cluster: str) -> tuple[Key, ...]:
        """Keys with the cluster's tag that are not about to be deleted; asks for each key there is.

        One whose tags may not be read is none of ours: those let their managers read them.
        """
        found = []
        for page in self._pages("kms", "list_keys"):
            for item in page["Keys"]:
                try:
                    tags = self._key_tags(item["KeyArn"])
                except AwsError as error:
                    if code_of(error) in DENIED:
                        continue
                    raise
                if tags.get(CLUSTER) == cluster:
                    found.append(self.key(item["KeyArn"], cluster))
        return tuple(key for key in found if key is not None and key.state != "PendingDeletion")

    def account_default(self) -> tuple[bool, str]:
        """Whether EBS encryption is on by default in this region, and under which key."""
        on = self._call("ec2", "get_ebs_encryption_by_default")["EbsEncryptionByDefault"]
        return bool(on), str(self._call("ec2", "get_ebs_default_kms_key_id")["KmsKeyId"])

    def volumes(self, cluster: str) -> dict[Place, list[EbsDisk]]:
        """Every volume with the cluster's tag, by the place that its tags name."""
        filters = [{"Name": f"tag:{CLUSTER}", "Values": [cluster]}]
        found: dict[Place, list[EbsDisk]] = defaultdict(list)
        for page in self._pages("ec2", "describe_volumes", Filters=filters):
            for item in page["Volumes"]:
                tags = _tags(item)
                place = Place(cluster, tags.get(HOST, ""), tags.get(VOLUME, ""))
                found[place].append(_disk(item))
        return found

    def volume(self, name: str) -> EbsDisk | None:
        filters = [{"Name": "volume-id", "Values": [name]}]
        found = [
            _disk(item)
            for page in self._pages("ec2", "describe_volumes", Filters=filters)
            for item in page["Volumes"]
        ]
        return found[0] if found else None

    def snapshots(self, cluster: str) -> dict[Place, list[Snapshot]]:
        """This account's snapshots with the cluster's tag, oldest first."""
        filters = [{"Name": f"tag:{CLUSTER}", "Values": [cluster]}]
        items = [
            item
            for page in self._pages("ec2", "describe_snapshots", OwnerIds=["self"], Filters=filters)
            for item in page["Snapshots"]
        ]
        found: dict[Place, list[Snapshot]] = defaultdict(list)
        for item in sorted(items, key=lambda item: (item["StartTime"], item["SnapshotId"])):
            tags = _tags(item)
            place = Place(cluster, tags.get(HOST, ""), tags.get(VOLUME, ""))
            found[place].append(_snapshot(item))
        return found

    def instances(self, names: Sequence[str]) -> dict[str, Instance]:
        """Those of the instances that there are; one that is terminated counts as there."""
        filters = [{"Name": "instance-id", "Values": list(names)}]
        return {
            item["InstanceId"]: Instance(
                id=item["InstanceId"],
                state=item["State"]["Name"],
                zone=item["Placement"]["AvailabilityZone"],
                devices=tuple(
                    mapping["DeviceName"] for mapping in item.get("BlockDeviceMappings", [])
                ),
            )
            for page in self._pages("ec2", "describe_instances", Filters=filters)
            for reservation in page["Reservations"]
            for item in reservation["Instances"]
        }

    def tagged_instances(self, cluster: str) -> list[tuple[str, dict[str, str], str, str]]:
        """Id, tags, private address and private DNS name of the cluster's running instances."""
        filters = [
            {"Name": f"tag:{CLUSTER}", "Values": [cluster]},
            {"Name": "instance-state-name", "Values": ["running"]},
        ]
        return [
            (
                str(item["InstanceId"]),
                _tags(item),
                str(item.get("PrivateIpAddress", "")),
                str(item.get("PrivateDnsName", "")),
            )
            for page in self._pages("ec2", "describe_instances", Filters=filters)
            for reservation in page["Reservations"]
            for item in reservation["Instances"]
        ]

    # Changes

    def create_key(
        self, cluster: str, policy: Mapping[str, Any], more_tags: Mapping[str, str]
    ) -> str:
        """Makes a key and returns its ARN; its tags come with it, so it is found again."""
        made = self._change(
            "kms",
            "create_key",
            Description=f"EBS volumes of the Kafka cluster {cluster}",
            KeyUsage="ENCRYPT_DECRYPT",
            KeySpec="SYMMETRIC_DEFAULT",
            Policy=json.dumps(policy),
            Tags=[
                {"TagKey": name, "TagValue": value}
                for name, value in {**more_tags, CLUSTER: cluster}.items()
            ],
        )
        return str(made["KeyMetadata"]["Arn"])

    def create_alias(self, alias: str, key: str) -> None:
        self._change("kms", "create_alias", AliasName=alias, TargetKeyId=key)

    def put_policy(self, key: str, policy: Mapping[str, Any]) -> None:
        self._change(
            "kms", "put_key_policy", KeyId=key, PolicyName="default", Policy=json.dumps(policy)
        )

    def rotate_every(self, key: str, days: int) -> None:
        self._change("kms", "enable_key_rotation", KeyId=key, RotationPeriodInDays=days)

    def set_default_key(self, key: str) -> None:
        self._change("ec2", "modify_ebs_default_kms_key_id", KmsKeyId=key)

    def encrypt_by_default(self) -> None:
        self._change("ec2", "enable_ebs_encryption_by_default")

    def create_volume(
        self,
        place: Place,
        wanted: EbsVolume,
        key: str,
        zone: str,
        *,
        more_tags: Mapping[str, str],
        stage: Stage = Stage.CURRENT,
        copy_of: str = "",
        snapshot: str = "",
    ) -> str:
        """Makes an encrypted volume and returns its id. That it became what was asked for is not
        known before `wait_volume`: AWS accepts a key that it then cannot use."""
        tags = {**more_tags, "Name": f"{place.cluster} {place.host} {place.volume}"}
        tags |= {**place.tags(), STATE: stage.value, **({COPY_OF: copy_of} if copy_of else {})}
        token = client_token(place, f"{snapshot}/{zone}/{key}", wanted, self._clock())
        arguments: dict[str, Any] = {
            "AvailabilityZone": zone,
            "Size": wanted.size_gib,
            "VolumeType": wanted.type,
            "Iops": wanted.iops,
            "Encrypted": True,
            "KmsKeyId": key,
            "ClientToken": token,
            "TagSpecifications": [_specification("volume", tags)],
        }
        if wanted.type == "gp3":
            arguments["Throughput"] = wanted.throughput_mib
        if snapshot:
            arguments["SnapshotId"] = snapshot
        return str(self._change("ec2", "create_volume", **arguments)["VolumeId"])

    def attach(self, volume: str, instance: str, device: str) -> None:
        self._change("ec2", "attach_volume", VolumeId=volume, InstanceId=instance, Device=device)

    def detach(self, volume: str, instance: str, device: str) -> None:
        self._change("ec2", "detach_volume", VolumeId=volume, InstanceId=instance, Device=device)

    def create_snapshot(self, place: Place, volume: str) -> str:
        tags = {**place.tags(), COPY_OF: volume}
        made = self._change(
            "ec2",
            "create_snapshot",
            VolumeId=volume,
            Description=f"{volume} of {place.host}, to be encrypted",
            TagSpecifications=[_specification("snapshot", tags)],
        )
        return str(made["SnapshotId"])

    def copy_snapshot(self, place: Place, snapshot: str, of_volume: str, key: str) -> str:
        tags = {**place.tags(), COPY_OF: of_volume}
        made = self._change(
            "ec2",
            "copy_snapshot",
            SourceRegion=self.region,
            SourceSnapshotId=snapshot,
            Encrypted=True,
            KmsKeyId=key,
            Description=f"{of_volume} of {place.host}, encrypted",
            TagSpecifications=[_specification("snapshot", tags)],
        )
        return str(made["SnapshotId"])

    def mark(self, volume: str, stage: Stage) -> None:
        self._change(
            "ec2", "create_tags", Resources=[volume], Tags=[{"Key": STATE, "Value": stage.value}]
        )

    def delete_volume(self, volume: str) -> None:
        self._change("ec2", "delete_volume", VolumeId=volume)

    def delete_snapshot(self, snapshot: str) -> None:
        self._change("ec2", "delete_snapshot", SnapshotId=snapshot)

    # Waiting

    def wait_volume(self, volume: str, state: str, key: str | None = None) -> EbsDisk:
        """Polls until the volume is in that state, ``in-use`` being fully attached.

        :param key: ARN that it must then be encrypted under; None for one that is not ours to ask.
        :raises AwsError: when it fails, vanishes, is not encrypted as asked, or takes too long.
        """
        seen, waited = False, 0.0
        while True:
            disk = self.volume(volume)
            if disk is None and (seen or waited >= min(_SETTLE_S, self._wait_s)):
                raise AwsError(
                    f"AWS: {volume} was accepted and then given up: this is what happens when EC2 "
                    "may not use the KMS key: check ebs_key_users, then run again"
                )
            if disk is not None:
                seen = True
                if disk.state == "error":
                    raise AwsError(
                        f"AWS: {volume} went to state error: EC2 could not use the KMS key, or "
                        "lost the volume: see its events, delete it, then run again"
                    )
                attached = disk.attachment == "attached" or state != "in-use"
                if disk.state == state and attached:
                    break
            if waited >= self._wait_s:
                now = disk.state if disk else "not there"
                raise AwsError(
                    f"AWS: {volume} did not become {state} within {self._wait_s:g} s, it is {now}: "
                    "run again to wait for longer"
                )
            self._sleep(_POLL_S)
            waited += _POLL_S
        if key is not None and not disk.is_under(key):
            under = f"encrypted under {disk.key or 'no key'}" if disk.encrypted else "not encrypted"
            raise AwsError(
                f"AWS: {volume} is {under}, not under {key}: it is not used; find out what "
                "changed it, delete it, then run again"
            )
        return disk

    def wait_snapshot(self, snapshot: str, patience_s: float) -> None:
        """Polls until the snapshot is complete."""
        waited = 0.0
        while True:
            filters = [{"Name": "snapshot-id", "Values": [snapshot]}]
            found = [
                _snapshot(item)
                for page in self._pages("ec2", "describe_snapshots", Filters=filters)
                for item in page["Snapshots"]
            ]
            if found and found[0].state == "completed":
                return
            if found and found[0].state == "error":
                raise AwsError(
                    f"AWS: {snapshot} failed: EC2 could not use one of the two keys, or read its "
                    "source: delete it, then run again"
                )
            if waited >= (patience_s if found else min(_SETTLE_S, patience_s)):
                progress = found[0].progress if found else "not there"
                raise AwsError(
                    f"AWS: {snapshot} is not complete after {waited:g} s ({progress}): run again "
                    "to wait for longer"
                )
            self._sleep(_POLL_S)
            waited += _POLL_S


def _tags(item: Mapping[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in item.get("Tags", [])}


def _specification(kind: str, tags: Mapping[str, str]) -> dict[str, Any]:
    return {
        "ResourceType": kind,
        "Tags": [{"Key": name, "Value": value} for name, value in tags.items()],
    }


def _disk(item: Mapping[str, Any]) -> EbsDisk:
    tags, attachments = _tags(item), item.get("Attachments", [])
    stage = tags.get(STATE, Stage.CURRENT.value)
    return EbsDisk(
        id=str(item["VolumeId"]),
        state=str(item["State"]),
        zone=str(item["AvailabilityZone"]),
        encrypted=bool(item.get("Encrypted")),
        key=str(item.get("KmsKeyId") or ""),
        size_gib=int(item["Size"]),
        type=str(item["VolumeType"]),
        iops=int(item.get("Iops") or 0),
        throughput_mib=int(item.get("Throughput") or 0),
        attached_to=tuple(str(part.get("InstanceId", "")) for part in attachments),
        attachment=str(attachments[0]["State"]) if attachments else "",
        device=str(attachments[0].get("Device", "")) if attachments else "",
        stage=Stage(stage) if stage in {known.value for known in Stage} else None,
        copy_of=tags.get(COPY_OF, ""),
    )


def _snapshot(item: Mapping[str, Any]) -> Snapshot:
    return Snapshot(
        id=str(item["SnapshotId"]),
        state=str(item["State"]),
        copy_of=_tags(item).get(COPY_OF, ""),
        encrypted=bool(item.get("Encrypted")),
        key=str(item.get("KmsKeyId") or ""),
        progress=str(item.get("Progress", "")),
    )
