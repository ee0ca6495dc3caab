"""Formats, opens and mounts volumes: the plan's steps as commands on the host."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping

from pyinfra import host, inventory, state
from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.exceptions import OperationError
from pyinfra.api.operation import operation

from roles.common.operations import Commands, known, once, refuse, show_diff, showing_changes
from roles.common.readings import forget, recall, remember
from roles.custody.protocol import CustodyError
from roles.volumes import files, plan, scripts
from roles.volumes.facts import VolumesState
from roles.volumes.files import VolumesHost
from roles.volumes.look import Looked
from roles.volumes.plan import Action, Refusal, Seen, Step, Wanted, Why
from roles.volumes.token import Token

_WHY = {Why.EMPTY: "empty", Why.INTERRUPTED: "interrupted", Why.WIPE_CONFIRMED: "wipe"}
# As cryptsetup's options name what crypttab's options do.
_OPEN_OPTIONS = {
    "discard": "--allow-discards",
    "no-read-workqueue": "--perf-no_read_workqueue",
    "no-write-workqueue": "--perf-no_write_workqueue",
}
_STATE = "volumes"


def observe(volumes: VolumesHost) -> Looked:
    """All that the present host tells of its volumes."""
    looked = known(host.get_fact(VolumesState, volumes=_asked(volumes)), "the state of the volumes")
    remember(_STATE, looked)
    return looked


def _asked(volumes: VolumesHost) -> list[tuple[str, str, str, str]]:
    return [(item.name, item.settings.device, item.mapping, item.mount) for item in volumes.wanted]


def _answers(volumes: VolumesHost, looked: Looked) -> dict[str, list[Step] | Refusal]:
    return plan.plan_host(
        volumes.wanted,
        looked.volumes,
        volumes.ours,
        looked.verified_ebs,
        volumes.settings.wipe_confirm,
    )


def planned(volumes: VolumesHost, looked: Looked) -> dict[str, list[Step]]:
    """Steps for each volume; stops the run when any of them is refused."""
    found = _answers(volumes, looked)
    refusals = [str(item) for item in found.values() if isinstance(item, Refusal)]
    if refusals:
        raise refuse("; ".join(refusals))
    return {name: item for name, item in found.items() if not isinstance(item, Refusal)}


Hosts = Mapping[str, VolumesHost]


def refuse_while_locked(hosts: Hosts) -> None:
    """While a run is planned: data that cannot be seen must not be taken for data that is gone.

    Of all hosts, with ``--limit`` too: what may be started on one depends on what others have.

    :param hosts: every host's volumes, by host name.
    """
    # Each host reads its own at the same time as the others; then one puts them together.
    _answers_of(host.name, hosts)
    answers = once("volumes", lambda: {name: _answers_of(name, hosts) for name in sorted(hosts)})
    refused = [
        f"{name}: {answer}"
        for name, found in answers.items()
        for answer in found.values()
        if isinstance(answer, Refusal)
    ]
    if refused:
        raise OperationError("\n    ".join([*refused, "Nothing was changed."]))
    locked = [name for name in sorted(hosts) if was_closed(name, hosts)]
    if locked:
        raise OperationError(
            f"{', '.join(locked)}: closed: volumes that were set up before, so what is on them "
            "cannot be seen: run pyinfra INVENTORY deploys/unlock.py first"
        )


def was_closed(name: str, hosts: Hosts) -> bool:
    """Whether, when the run was planned, a volume of the host of that name was set up but closed,
    or could not be told to be anything else.

    :param hosts: every host's volumes, by host name.
    """
    return any(
        isinstance(answer, Refusal) or plan.needs_unlocking(answer)
        for answer in _answers_of(name, hosts).values()
    )


def _answers_of(name: str, hosts: Hosts) -> dict[str, list[Step] | Refusal]:
    """What the plan says of a host's volumes, read once for each host of a run."""
    volumes = hosts[name]
    if volumes.settings.unencrypted:
        return {}

    def look() -> dict[str, list[Step] | Refusal]:
        looked = known(
            inventory.get_host(name).get_fact(VolumesState, volumes=_asked(volumes)),
            f"the state of the volumes of {name}",
        )
        if name == host.name:
            remember(_STATE, looked)
        return _answers(volumes, looked)

    return once(f"volumes of {name}", look)


def being_set_up(volumes: VolumesHost) -> dict[str, Action]:
    """Volumes of the present host whose header a planned run will write first: FORMAT or REPAIR.

    Until then their disks say nothing of the keys that they will have.
    """
    if volumes.settings.unencrypted:
        return {}
    steps = planned(volumes, recall(_STATE) or observe(volumes))
    return {
        name: action
        for name, found in steps.items()
        for action in (Action.REPAIR, Action.FORMAT)
        if action in {step.action for step in found}
    }


@operation()
def mounted_volumes(volumes: VolumesHost, set_up: bool = True) -> Commands:
    """
    Brings every declared volume to be open and mounted, and what is to happen at boot up to date.

    A disk is formatted only when it is unmistakably empty; see `roles.volumes.plan`. Custody is
    asked for keys only while this runs, never while it is planned.

    + volumes: the host's volumes
    + set_up: whether new volumes may be set up; otherwise only those that are there are opened
    """
    looked = recall(_STATE)
    steps = planned(volumes, looked) if looked else {}
    blocks = _blocks(volumes, looked) if looked else {}
    if not looked or any(steps.values()) or blocks:
        looked = observe(volumes)
        steps, blocks = planned(volumes, looked), _blocks(volumes, looked)
    new = [name for name, found in steps.items() if plan.is_first_setup(found)]
    if not set_up:
        blocks = {}
        for name in new:
            host.log(f"volume {name!r} was never set up: left alone, run deploys/site.py for it")
            steps[name] = []
    if not any(steps.values()) and not blocks:
        host.noop("volumes are mounted")
        return
    forget()
    if showing_changes():
        _describe(volumes, looked, steps, blocks)
    if not state.is_executing:
        yield StringCommand("true")  # that something changes is all that planning needs to know
        return
    if set_up and new:
        # It would start with the next boot, on a volume that is empty, without anyone's leave.
        yield StringCommand(
            f"! systemctl is-enabled --quiet {volumes.unit} 2>/dev/null || "
            f"systemctl disable --quiet {volumes.unit}"
        )
    early = _without_new(volumes, looked, steps)
    for path, lines in early.items():
        yield _script("block", path, stdin="\n".join(lines))
    for item in volumes.wanted:
        yield from _do(volumes, item, looked.volumes[item.name], steps[item.name])
    blocks |= {path: lines for path, lines in _lines(volumes, looked).items() if path in early}
    for path, lines in blocks.items():
        yield _script("block", path, stdin="\n".join(lines))


def _describe(
    volumes: VolumesHost,
    looked: Looked,
    steps: Mapping[str, list[Step]],
    blocks: Mapping[str, list[str]],
) -> None:
    for item in volumes.wanted:
        for line in plan.described(item, steps[item.name], looked.volumes[item.name]):
            host.log(line)
    for path, lines in blocks.items():
        host.log(f"{path}: the lines of the volumes")
        if state.config.DIFF:
            show_diff(path, looked.blocks.get(path, []), lines)


def _blocks(volumes: VolumesHost, looked: Looked) -> dict[str, list[str]]:
    """New lines of our block of fstab and crypttab, where they differ."""
    lines = _lines(volumes, looked)
    return {path: new for path, new in lines.items() if new != looked.blocks.get(path, [])}


def _lines(volumes: VolumesHost, looked: Looked) -> dict[str, list[str]]:
    rotational = {name: seen.rotational for name, seen in looked.volumes.items()}
    return {
        files.FSTAB: files.fstab(volumes),
        files.CRYPTTAB: files.crypttab(volumes, rotational),
    }


def _without_new(
    volumes: VolumesHost, looked: Looked, steps: Mapping[str, list[Step]]
) -> dict[str, list[str]]:
    """Our blocks without the lines of volumes that are set up now, where there are such lines.

    They are those of a disk that was replaced, and name the new one too. After a reboot in the
    middle they would open and mount what may still be formatted.
    """
    new = {
        source
        for item in volumes.wanted
        if item.is_luks and plan.is_first_setup(steps[item.name])
        for source in (item.mapping, f"/dev/mapper/{item.mapping}")
    }
    kept = {
        path: [line for line in lines if line.split(" ")[0] not in new]
        for path, lines in looked.blocks.items()
    }
    return {path: lines for path, lines in kept.items() if lines != looked.blocks[path]}


def _do(
    volumes: VolumesHost, item: Wanted, seen: Seen, steps: list[Step]
) -> Iterator[StringCommand]:
    key: str | None = None  # of a volume that is formatted in this run, base64
    device = item.settings.device
    new_label = plan.new_label(item.name)
    for step in steps:
        match step.action:
            case Action.REPAIR:
                yield _script("repair", device, item.uuid)
            case Action.CLOSE:
                yield _script("close", device, item.uuid, new_label, item.mapping)
            case Action.FORMAT:
                key, token = _new_key(volumes, item)
                low, high = item.settings.min_gib * plan.GIB, item.settings.max_gib * plan.GIB
                yield _script(
                    "format", _WHY[step.why], device, item.uuid, new_label, item.mapping,
                    seen.serial, str(round(low)), str(round(high)),
                    stdin=f"{key}\n{token.to_json()}",
                )  # fmt: skip
            case Action.OPEN:
                key = key or _key(volumes, item, step.token)
                flags = plan.flags(item.settings, seen.rotational)
                options = [_OPEN_OPTIONS[flag] for flag in flags]
                yield _script("open", device, item.uuid, item.mapping, *options, stdin=key)
            case Action.MAKE_FILESYSTEM:
                luks = (new_label, item.mapping, item.settings.filesystem, "-")
                ebs = ("-", "-", item.settings.filesystem, item.uuid)
                yield _script("mkfs", device, item.uuid, *(luks if item.is_luks else ebs))
            case Action.MOUNT | Action.REMOUNT:
                source = f"/dev/mapper/{item.mapping}" if item.is_luks else device
                yield _script("mount", item.name, source, item.mount, item.settings.filesystem)
            case Action.FINISH:
                kind = item.settings.filesystem
                yield _script("finish", device, item.uuid, item.label, item.mapping, kind)


def _new_key(volumes: VolumesHost, item: Wanted) -> tuple[str, Token]:
    try:
        key, wrapped = volumes.custody().new_key(volumes.context(item.name))
    except CustodyError as error:
        raise refuse(f"volume {item.name!r}: no key for it: {error}") from None
    return base64.b64encode(key).decode(), Token(0, 1, wrapped)


def _key(volumes: VolumesHost, item: Wanted, token: Token | None) -> str:
    assert token is not None and token.wrapped is not None
    try:
        key = volumes.custody().unwrap(token.wrapped, volumes.context(item.name))
    except CustodyError as error:
        raise refuse(f"volume {item.name!r} stays closed: {error}") from None
    return base64.b64encode(key).decode()


def _script(name: str, *arguments: str, stdin: str = "") -> StringCommand:
    """Secrets are given as *stdin* only: it is in no list of processes and in no output."""
    return StringCommand(
        "sh -c",
        QuoteString(scripts.text(name)),
        name,
        *(QuoteString(argument) for argument in arguments),
        _stdin=stdin,
    )
