"""What is done to the keys of volumes that are set up: completed, rotated, restored, erased."""

from __future__ import annotations

from collections.abc import Mapping

from pyinfra import host
from pyinfra.api.exceptions import OperationError
from rich.console import Console
from rich.table import Table

from roles.common.operations import barrier, once
from roles.volumes.keys import erase, plan
from roles.volumes.keys.header import Header
from roles.volumes.keys.host import HostKeys
from roles.volumes.keys.life import ERRORS, VolumeKeys
from roles.volumes.keys.operations import (
    changed_keys,
    confirmed_keyslots,
    erased_volume,
    observe,
    planned,
    reencrypted_volume,
    restored_header,
)
from roles.volumes.keys.plan import Purpose
from roles.volumes.keys.reencrypt import begun
from roles.volumes.plan import Action

Hosts = Mapping[str, HostKeys]
_ROTATED = {
    "volume": frozenset({Purpose.VOLUME}),
    "recovery": frozenset({Purpose.RECOVERY}),
    "all": frozenset(Purpose),
}


def complete(keys: HostKeys, set_up: Mapping[str, Action]) -> None:
    """Adds what a volume that was just formatted, or changed, has not: recovery key, escrow, header
    backup. Called when volumes are open.

    :param set_up: what this run does before to the header of a volume, by the volume's name:
        `Action.FORMAT` or `Action.REPAIR`.
    """
    for volume in keys.volumes:
        changed_keys(
            name=f"Keys: volume {volume.volume}",
            volume=volume,
            keys=keys,
            set_up=set_up.get(volume.volume),
        )


def rotate(hosts: Hosts) -> None:
    """Called by every host: new keys, one host after the other, while services run."""
    mine = hosts[host.name]
    headers = _headers(hosts)
    once("keys: table", lambda: _show(hosts, headers))
    for name in host.loop(sorted(hosts)):  # type: ignore[no-untyped-call]
        if host.name == name:
            for volume in mine.volumes:
                changed_keys(
                    name=f"Keys: rotate those of {volume.name}",
                    volume=volume,
                    keys=mine,
                    rotate=_ROTATED[mine.settings.rotate],
                )
        barrier(name=f"barrier: keys of {name} are rotated", label=f"keys of {name}")


def reencrypt(hosts: Hosts) -> None:
    """Called by every host: one volume gets a new volume key while it is used."""
    volume = _named(hosts, hosts[host.name].settings.reencrypt_confirm, "reencrypt_confirm")
    headers = _headers(hosts)
    elsewhere = [item.name for item in headers if item != volume and begun(headers[item])]
    if elsewhere:
        raise OperationError(
            f"{', '.join(elsewhere)} is being re-encrypted: finish that first, with --data "
            f"volumes_reencrypt_confirm={elsewhere[0]}"
        )
    for keys in _with(hosts, volume):
        reencrypted_volume(name=f"Keys: re-encrypt {volume.name}", volume=volume, keys=keys)


def restore(hosts: Hosts) -> None:
    """Called by every host: one volume gets its header back."""
    volume = _named(hosts, hosts[host.name].settings.restore, "restore")
    for keys in _with(hosts, volume):
        restored_header(name=f"Keys: restore header of {volume.name}", volume=volume, keys=keys)


def erase_volume(hosts: Hosts) -> None:
    """Called by every host: one volume becomes unreadable for ever."""
    confirm = hosts[host.name].settings.erase_confirm
    try:
        volume = erase.named(confirm, _headers(hosts))
    except ERRORS as error:
        raise OperationError(str(error)) from None
    for keys in _with(hosts, volume):
        erased_volume(name=f"Keys: erase {volume.name}", volume=volume, keys=keys)


def _headers(hosts: Hosts) -> dict[VolumeKeys, Header]:
    """Of every volume of every host."""
    if host.name in hosts:
        # Each host reads its own at the same time as the others; then one puts them together.
        _read(hosts, host.name)
    return {
        volume: _read(hosts, name)[volume.device]
        for name, keys in sorted(hosts.items())
        for volume in keys.volumes
    }


def _read(hosts: Hosts, name: str) -> dict[str, Header]:
    return once(f"keys on {name}", lambda: observe(name, hosts[name]))


def _with(hosts: Hosts, volume: VolumeKeys) -> list[HostKeys]:
    """The present host's keys if the volume is one of its own."""
    mine = hosts[host.name]
    return [mine] if volume in mine.volumes else []


def _named(hosts: Hosts, name: str, setting: str) -> VolumeKeys:
    volumes = {volume.name: volume for keys in hosts.values() for volume in keys.volumes}
    if name not in volumes:
        there = ", ".join(sorted(volumes)) or "there are none"
        raise OperationError(
            f"volumes_{setting} is {name!r}, which names no LUKS volume: give one run --data "
            f"volumes_{setting}=HOST/VOLUME ({there})"
        )
    return volumes[name]


def _show(hosts: Hosts, headers: Mapping[VolumeKeys, Header]) -> bool:
    """Prints what a rotation will do, before any of it is done.

    A refusal of any volume ends the run here.
    """
    table = Table("volume", "keyslots now", "what will be done", title="Rotation of volume keys")
    named = set()
    for keys in hosts.values():
        for volume in keys.volumes:
            if confirmed_keyslots(volume, keys):
                named.add(keys.settings.keyslot_confirm)
            try:
                seen, _, steps = planned(
                    volume, headers[volume], keys, _ROTATED[keys.settings.rotate]
                )
            except ERRORS as error:
                raise OperationError(f"{volume.name}: {error}") from None
            now = "\n".join(f"{slot}: {what}" for slot, what in plan.by_slot(seen).items())
            table.add_row(volume.name, now, "\n".join(map(str, steps)), end_section=True)
    asked = {keys.settings.keyslot_confirm for keys in hosts.values()} - {"", *named}
    if asked:
        raise OperationError(
            f"volumes_keyslot_confirm: {', '.join(sorted(asked))} names no keyslot of a volume: it "
            "is HOST/VOLUME/NUMBER"
        )
    Console().print(table)
    return True
