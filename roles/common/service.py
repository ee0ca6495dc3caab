"""A systemd service: what runs, what it was started with, and the commands that change that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyinfra.api.command import StringCommand

from roles.common.operations import Commands

_PROPERTIES = "ActiveState,UnitFileState,MainPID,NRestarts"


@dataclass(frozen=True)
class Service:
    """State of a unit. ``started_with`` is what its ExecStartPre recorded: name -> digest."""

    active: str
    enabled: bool
    pid: int
    started_with: Mapping[str, str]

    @property
    def running(self) -> bool:
        return self.active in ("active", "reloading")


def service_script(unit: str) -> str:
    """Shell that prints the unit's state; `parse_service` reads it."""
    return (
        f"systemctl show -p {_PROPERTIES} {unit}.service; "
        # The service can write that file, so nothing but what it should hold is passed on.
        f"timeout 5 sed -nE 's/^[a-z]+ [0-9a-f]{{64}}$/started-with &/p' "
        f"/run/strongbox-{unit}/started-with 2>/dev/null || :"
    )


def parse_service(lines: list[str]) -> Service:
    properties: dict[str, str] = {}
    started_with: dict[str, str] = {}
    for line in lines:
        if line.startswith("started-with "):
            name, _, digest = line.removeprefix("started-with ").partition(" ")
            started_with[name] = digest
        elif "=" in line:
            key, _, value = line.partition("=")
            properties[key] = value
    return Service(
        active=properties.get("ActiveState", "inactive"),
        enabled=properties.get("UnitFileState") == "enabled",
        pid=int(properties.get("MainPID") or 0),
        started_with=started_with,
    )


def start_commands(unit: str, verb: str, ready: str, timeout_s: int, hint: str) -> Commands:
    """Starts or restarts the unit and waits until the *ready* command succeeds.

    :param verb: ``start`` or ``restart``.
    :param ready: shell command, tried about twice a second; it must not hang.
    :param timeout_s: seconds until the unit counts as not having come back.
    :param hint: where the operator looks next, for the error.
    """
    # A unit whose condition is not met is skipped without an error, and would be waited for.
    yield StringCommand(
        f"systemctl enable --quiet {unit}.service && systemctl {verb} {unit}.service && "
        f'if [ "$(systemctl show -P ConditionResult {unit}.service)" = no ]; then '
        f'echo "$(uname -n): {unit} is not started, as a volume it needs is not mounted: '
        'run deploys/unlock.py, or deploys/site.py when it is new" >&2; exit 1; fi'
    )
    yield StringCommand(
        f"deadline=$(($(date +%s) + {timeout_s})); "
        f"until {ready}; do "
        f"if systemctl is-failed --quiet {unit}.service || [ $(date +%s) -ge $deadline ]; then "
        f'echo "$(uname -n): {unit} did not come back within {timeout_s} s: {hint}" >&2; '
        f"systemctl status --no-pager --lines 5 {unit}.service >&2; exit 1; fi; "
        "sleep 0.4; done"
    )
