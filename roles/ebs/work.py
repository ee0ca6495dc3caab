"""Brings the key and one volume to what is declared, step by step, looking again before each.

Takes an AWS client as an argument and knows nothing of pyinfra.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from roles.ebs.aws import Aws
from roles.ebs.errors import AwsError
from roles.ebs.host import EbsHost, key_wanted
from roles.ebs.model import EbsDisk, Instance, Place, Snapshot, Stage
from roles.ebs.plan import (
    KeysSeen,
    KeyStep,
    KeyWanted,
    Refusal,
    VolumePlan,
    VolumeStep,
    free_device,
    plan_key,
    plan_volume,
)
from roles.ebs.swap import Step, Swap

# A snapshot's first copy moves the whole volume; everything else takes seconds.
SNAPSHOT_PATIENCE = 12
Log = Callable[[str], None]


@dataclass(frozen=True)
class KeyPlan:
    wanted: KeyWanted
    seen: KeysSeen
    steps: list[KeyStep] | Refusal

    @property
    def arn(self) -> str | None:
        """The key that is there and may be used, None when it is yet to be made."""
        if isinstance(self.steps, Refusal) or KeyStep.CREATE in self.steps:
            return None
        found = self.seen.by_pin or self.seen.by_alias or self.seen.orphans[0]
        return found.arn


def look_at_key(aws: Aws, host: EbsHost) -> KeyPlan:
    """
    :raises AwsError: when it could not be looked at, or the declared key does not exist.
    """
    wanted = key_wanted(host, *aws.identity())
    by_alias = aws.key(wanted.alias, host.cluster)
    by_pin = aws.key(wanted.pinned, host.cluster) if wanted.pinned else None
    if wanted.pinned and by_pin is None:
        raise AwsError(
            f"ebs_kms_key: {wanted.pinned} does not exist in {aws.region}: correct it, or leave it "
            "out to have one made"
        )
    orphans = () if by_alias or by_pin else aws.keys_of(host.cluster)
    default_on, default_key = aws.account_default() if wanted.account_default else (False, "")
    seen = KeysSeen(by_alias, orphans, by_pin, default_on, default_key)
    return KeyPlan(wanted, seen, plan_key(wanted, seen))


def settle_key(aws: Aws, host: EbsHost, log: Log) -> str:
    """Makes the key what is declared, and returns its ARN.

    :raises AwsError: when it may not be made so, or a change had no effect.
    """
    taken: list[KeyStep] = []
    while True:
        plan = look_at_key(aws, host)
        if isinstance(plan.steps, Refusal):
            raise AwsError(str(plan.steps))
        if not plan.steps:
            assert plan.arn
            return plan.arn
        step = plan.steps[0]
        if step in taken:
            raise AwsError(f"AWS: could not {step.value}: it was done and has had no effect")
        taken.append(step)
        log(step.value)
        _take_key_step(aws, host, plan, step)


def _take_key_step(aws: Aws, host: EbsHost, plan: KeyPlan, step: KeyStep) -> None:
    if step is KeyStep.CREATE:
        aws.create_key(host.cluster, plan.wanted.policy, host.settings.tags)
        return
    if step is KeyStep.DEFAULT_ON:
        aws.encrypt_by_default()
        return
    assert plan.arn
    match step:
        case KeyStep.ALIAS:
            aws.create_alias(plan.wanted.alias, plan.arn)
        case KeyStep.POLICY:
            aws.put_policy(plan.arn, plan.wanted.policy)
        case KeyStep.ROTATION:
            aws.rotate_every(plan.arn, plan.wanted.rotation_days)
        case KeyStep.DEFAULT_KEY:
            aws.set_default_key(plan.arn)


def plan_host(
    host: EbsHost,
    key: str | None,
    instance: Instance | None,
    tagged: Callable[[Place], Sequence[EbsDisk]],
) -> dict[str, VolumePlan | Refusal]:
    """Plans of the host's volumes by name."""
    return {
        name: plan_volume(
            host.place(name),
            wanted,
            key,
            instance,
            host.settings.instance,
            tagged(host.place(name)),
        )
        for name, wanted in host.settings.volumes.items()
    }


def look_at_volume(aws: Aws, host: EbsHost, name: str, key: str) -> tuple[VolumePlan, Instance]:
    """
    :raises AwsError: when the volume cannot be used as it is.
    """
    settings, place = host.settings, host.place(name)
    instance = aws.instances([settings.instance]).get(settings.instance)
    tagged = aws.volumes(host.cluster).get(place, [])
    plan = plan_volume(place, settings.volumes[name], key, instance, settings.instance, tagged)
    if isinstance(plan, Refusal) or instance is None:
        raise AwsError(str(plan))
    return plan, instance


def settle_volume(aws: Aws, host: EbsHost, name: str, key: str, log: Log) -> EbsDisk:
    """Makes and attaches the volume if it is not there, and returns it as it was last seen:
    attached, and encrypted under the key."""
    place = host.place(name)
    while True:
        plan, instance = look_at_volume(aws, host, name, key)
        if plan.verified:
            assert plan.disk
            return plan.disk
        step = plan.steps[0]
        if step is VolumeStep.CREATE:
            made = aws.create_volume(
                place, host.settings.volumes[name], key, instance.zone, more_tags=host.settings.tags
            )
            log(f"volume {name!r}: {made} is made")
            aws.wait_volume(made, "available", key)
            continue
        assert plan.disk
        disk = plan.disk
        if step is VolumeStep.ATTACH:
            aws.attach(disk.id, instance.id, _device(place, instance))
            log(f"volume {name!r}: {disk.id} is attached")
        state = "available" if disk.state == "creating" else "in-use"
        aws.wait_volume(disk.id, state, key)


def _device(place: Place, instance: Instance) -> str:
    device = free_device(instance.devices)
    if device is None:
        raise AwsError(f"{place}: {instance.id} has no attachment name left: detach what is unused")
    return device


def take_swap_step(aws: Aws, host: EbsHost, now: Swap, step: Step) -> None:
    """The steps of a re-encryption that are AWS's.

    :raises AwsError: when it did not succeed; run again, it goes on there.
    """
    settings, place, key = host.settings, now.place, now.key
    patience = settings.wait_s * SNAPSHOT_PATIENCE
    old, new = now.old, now.new
    match step:
        case Step.DETACH | Step.WAIT_DETACHED if old:
            if step is Step.DETACH:
                aws.detach(old.id, now.instance.id, old.device)
            aws.wait_volume(old.id, "available")
        case Step.SNAPSHOT if old:
            aws.wait_snapshot(aws.create_snapshot(place, old.id), patience)
        case Step.WAIT_SNAPSHOT if now.plain:
            aws.wait_snapshot(now.plain.id, patience)
        case Step.SEAL if old and now.plain:
            aws.wait_snapshot(aws.copy_snapshot(place, now.plain.id, old.id, key), patience)
        case Step.WAIT_SEALED if now.sealed:
            aws.wait_snapshot(now.sealed.id, patience)
        case Step.CREATE if old and now.sealed:
            made = aws.create_volume(
                place,
                settings.volumes[place.volume],
                key,
                now.instance.zone,
                more_tags=settings.tags,
                stage=Stage.COPY,
                copy_of=old.id,
                snapshot=now.sealed.id,
            )
            aws.wait_volume(made, "available", key)
        case Step.WAIT_NEW if new:
            aws.wait_volume(new.id, "available", key)
        case Step.ATTACH | Step.WAIT_ATTACHED if new:
            if step is Step.ATTACH:
                aws.attach(new.id, now.instance.id, _device(place, now.instance))
            aws.wait_volume(new.id, "in-use", key)
        case Step.RETIRE if old:
            aws.mark(old.id, Stage.REPLACED)
        case Step.SWAP if new:
            aws.mark(new.id, Stage.SWAPPED)
        case Step.FINISH if new:
            aws.mark(new.id, Stage.CURRENT)
        case _:
            raise AssertionError(f"{step} is not AWS's")


def delete_old(aws: Aws, volume: str, snapshots: Sequence[str]) -> None:
    """Snapshots first: a volume that is still there is found again when this is interrupted."""
    for snapshot in snapshots:
        aws.delete_snapshot(snapshot)
    aws.delete_volume(volume)


def snapshots_at(aws: Aws, place: Place) -> list[Snapshot]:
    return aws.snapshots(place.cluster).get(place, [])
