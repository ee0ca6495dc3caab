"""Runs the steps of a volume's keys on its host.

The steps need answers from the host and keys from custody, one after the other, and a header backup
comes back. So they run inside one function of pyinfra's, through the connection of the host, and
nothing of what travels there is printed at any verbosity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pyinfra import host, inventory, logger, state
from pyinfra.api.command import FunctionCommand, StringCommand
from pyinfra.api.operation import operation

from roles.common.operations import Commands, known, refuse, showing_changes
from roles.common.readings import forget, recall, remember
from roles.volumes.keys import erase as erasing
from roles.volumes.keys import plan, reencrypt, restore
from roles.volumes.keys.facts import KeysState
from roles.volumes.keys.header import Header
from roles.volumes.keys.host import HostKeys
from roles.volumes.keys.life import ERRORS, Life, VolumeKeys, formatted, keys_seen
from roles.volumes.keys.plan import Goal, KeysSeen, Purpose
from roles.volumes.keys.script import Result, Runner, Script
from roles.volumes.plan import Action

_STATE = "keys"
_STATUS = "--status "
Act = Callable[[Runner], Iterable[str]]


def observe(name: str, keys: HostKeys) -> dict[str, Header]:
    """The headers of the host of that name, by device."""
    if not keys.volumes:
        return {}
    found = known(
        inventory.get_host(name).get_fact(KeysState, devices=keys.devices),
        f"the LUKS headers on {name}",
    )
    if name == host.name:
        remember(_STATE, found)
    return found


def on_host(of: Any) -> Runner:
    """Runs scripts on a host of pyinfra's, as root, and prints neither what goes in nor out."""

    def runner(script: Script) -> Result:
        # pyinfra tells only whether a command succeeded.
        command = StringCommand(f"{script.command}; echo {_STATUS}$?")
        _, output = of.run_shell_command(
            command, print_output=False, print_input=False, _sudo=True, _stdin=script.input or None
        )
        lines = output.stdout_lines
        if not lines or not lines[-1].startswith(_STATUS):
            said = "; ".join(output.stderr_lines) or "the connection ended"
            return Result(1, (), [f"{of.name}: {script.name} did not end: {said}"])
        return Result(int(lines[-1].removeprefix(_STATUS)), lines[:-1], output.stderr_lines)

    return runner


def _carry_out(state: Any, host: Any, act: Act) -> bool:
    """For FunctionCommand: pyinfra passes the first two to functions whose arguments have these
    names, and takes False for a failure."""
    try:
        for line in act(on_host(host)):
            host.log(line)
    except ERRORS as error:
        host.log(str(error), logger.error)
        return False
    return True


def _does(lines: Sequence[str], act: Act) -> Commands:
    forget()
    if showing_changes():
        for line in lines:
            host.log(line)
    yield FunctionCommand(_carry_out, (act,), {})


def planned(
    volume: VolumeKeys,
    found: Header,
    keys: HostKeys,
    rotate: frozenset[Purpose],
    before: Action | None = None,
) -> tuple[KeysSeen, Goal, list[plan.Step]]:
    """
    :param before: what will be done to the header before these steps are.
    :raises Refusal, RecordError: when nothing may be changed.
    """
    if before is Action.FORMAT:
        seen = formatted(volume, keys.records)
    else:
        header = found.repaired if before is Action.REPAIR else found
        seen = keys_seen(volume, header, keys.records)
    goal = plan.goal(seen, rotate, confirmed_keyslots(volume, keys))
    return seen, goal, list(plan.steps(seen, goal))


def confirmed_keyslots(volume: VolumeKeys, keys: HostKeys) -> frozenset[int]:
    name, _, slot = keys.settings.keyslot_confirm.rpartition("/")
    return frozenset({int(slot)}) if name == volume.name and slot.isdigit() else frozenset()


@operation()
def changed_keys(
    volume: VolumeKeys,
    keys: HostKeys,
    rotate: frozenset[Purpose] = frozenset(),
    set_up: Action | None = None,
) -> Commands:
    """
    Gives a volume all keys and records that it must have, and finishes what was begun.

    + volume: one of the present host
    + keys: those of the host
    + rotate: keys that are made anew
    + set_up: what the run does to the volume's header before, FORMAT or REPAIR
    """
    # When the keys' turn has come, that is done, and only the header itself counts.
    before = None if state.is_executing else set_up
    found: dict[str, Header] | None = recall(_STATE)
    try:
        steps = planned(volume, found[volume.device], keys, rotate, before)[2] if found else None
        if steps != []:
            found = observe(host.name, keys)
        assert found is not None
        seen, goal, steps = planned(volume, found[volume.device], keys, rotate, before)
    except ERRORS as error:
        raise refuse(str(error)) from None
    if showing_changes():
        for note in plan.notes(seen, goal):
            host.log(f"{volume.name}: {note}", logger.warning)
    if not steps:
        host.noop("keys, escrow and header backup are as they must be")
        return

    def act(runner: Runner) -> Iterable[str]:
        life = Life(volume, runner, keys.custody(), keys.records)
        return (f"{volume.name}: done: {step}" for step in life.reach(goal))

    yield from _does([f"{volume.name}: {step}" for step in steps], act)


@operation()
def reencrypted_volume(volume: VolumeKeys, keys: HostKeys) -> Commands:
    """
    Gives a volume a new volume key and writes all its data anew, or goes on with that.

    + volume: one of the present host, which is open
    + keys: those of the host
    """
    try:
        found = observe(host.name, keys)[volume.device]
        lines = reencrypt.steps(volume, found)
    except ERRORS as error:
        raise refuse(str(error)) from None

    def act(runner: Runner) -> Iterable[str]:
        again = reencrypt.Reencryption(volume, runner, keys.custody(), keys.records)
        return (f"{volume.name}: done: {line}" for line in again.reach())

    yield from _does([f"{volume.name}: {line}" for line in lines], act)


@operation()
def restored_header(volume: VolumeKeys, keys: HostKeys) -> Commands:
    """
    Puts a damaged header back from the newest sealed backup, and proves that the machine key opens.

    + volume: one of the present host
    + keys: those of the host
    """
    try:
        found = observe(host.name, keys)[volume.device]
        action = restore.decide(volume, found, keys.records)
    except ERRORS as error:
        raise refuse(str(error)) from None

    def act(runner: Runner) -> Iterable[str]:
        life = Life(volume, runner, keys.custody(), keys.records)
        yield f"{volume.name}: {restore.restore(volume, runner, life, keys.records)[1]}"

    yield from _does([f"{volume.name}: {action.value}"], act)


@operation()
def erased_volume(volume: VolumeKeys, keys: HostKeys) -> Commands:
    """
    Makes a volume unreadable for ever and forgets its records.

    + volume: one of the present host, which is closed
    + keys: those of the host
    """
    try:
        found = observe(host.name, keys)[volume.device]
        if erasing.done(volume, found, keys.records):
            host.noop(f"{volume.name} is erased")
            return
        erasing.check(volume, found)
    except ERRORS as error:
        raise refuse(str(error)) from None

    def act(runner: Runner) -> Iterable[str]:
        erasing.erase(volume, runner, keys.records)
        yield f"{volume.name}: erased; no key opens it, and the records have none of it"

    yield from _does([f"{volume.name}: erase the header with all keyslots, forget records"], act)
