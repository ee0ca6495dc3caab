"""The dry run as a check for CI and cron: what is not as declared?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from roles.common.settings import SettingsError
from strongbox.inventory import read_cluster
from strongbox.process import take_passphrase


class DriftUnknown(Exception):
    """The dry run did not come to an answer."""


@dataclass(frozen=True)
class Drift:
    operation: str
    hosts: tuple[str, ...]


def parse_plan(text: str) -> list[Drift]:
    """Operations that would change something, from pyinfra's ``--dry --json`` output.

    :raises DriftUnknown: when it is not a complete plan, whatever pyinfra's exit code was: an
        interrupted pyinfra can exit with 0.
    """
    try:
        plan = json.loads(text)["plan"]
        return [
            Drift(item["name"], tuple(sorted(item["hosts_with_change"])))
            for item in plan
            if item["hosts_with_change"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise DriftUnknown(f"pyinfra printed no complete plan ({type(error).__name__})") from None


def detect(inventory: str, deploy: str, quiet: bool = False) -> list[Drift]:
    """Runs the deploy dry against the inventory, in the present folder.

    pyinfra's messages go to standard error as they come; when *quiet* only those of a dry run that
    came to no answer do.

    :raises DriftUnknown: when a host could not be read or the declaration was refused.
    """
    try:
        # A dry run opens no key, so nothing that it starts needs the passphrase.
        take_passphrase(read_cluster(inventory))
    except SettingsError as error:
        raise DriftUnknown(f"the inventory was refused:\n{error}") from None
    # With PYINFRA_YES set pyinfra would skip change detection and report "no change".
    environment = {key: value for key, value in os.environ.items() if key != "PYINFRA_YES"}
    environment["PYINFRA_PROGRESS"] = "off"
    command = [sys.executable, "-m", "pyinfra", inventory, deploy, "--dry", "--json"]
    result = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if quiet else None,
        text=True,
        check=False,
    )
    try:
        if result.returncode != 0:
            raise DriftUnknown(f"the dry run failed with exit code {result.returncode}, see above")
        return parse_plan(result.stdout)
    except DriftUnknown:
        sys.stderr.write(result.stderr or "")
        raise
