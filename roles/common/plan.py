"""What a host's files and folders should be, and the steps from what was observed to that.

Pure: no pyinfra, no host. `operations.py` turns the steps into commands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class PlanError(Exception):
    """A state that must not be changed automatically; the message says what to do."""


@dataclass(frozen=True)
class ManagedDirectory:
    """A folder with exactly this owner, group and mode (octal digits, such as ``"700"``)."""

    path: str
    owner: str
    group: str
    mode: str = "700"


@dataclass(frozen=True)
class ManagedFile:
    """A file with exactly this content, owner, group and mode (octal digits).

    ``secret`` content is never shown in a diff and never fetched from a host.
    """

    path: str
    content: bytes
    owner: str
    group: str
    mode: str = "640"
    secret: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def __repr__(self) -> str:
        # The content may be secret, and pyinfra prints the repr of arguments in places.
        return f"ManagedFile({self.path!r}, {self.owner}:{self.group} {self.mode})"


class Kind(Enum):
    FILE = "regular file"
    DIRECTORY = "directory"
    LINK = "symbolic link"
    OTHER = "other"
    ABSENT = "absent"


@dataclass(frozen=True)
class Observed:
    """What lies at a path. ``sha256`` only for regular files."""

    kind: Kind
    owner: str = ""
    group: str = ""
    mode: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Step:
    """One change to one path: a reason for the operator and what has to be done."""

    path: str
    reason: str
    write: bool = False
    attributes: bool = False


def _attributes_differ(seen: Observed, wanted: ManagedFile | ManagedDirectory) -> str:
    differences = []
    if (seen.owner, seen.group) != (wanted.owner, wanted.group):
        differences.append(f"owner {seen.owner}:{seen.group} -> {wanted.owner}:{wanted.group}")
    if seen.mode != wanted.mode:
        differences.append(f"mode {seen.mode} -> {wanted.mode}")
    return ", ".join(differences)


def plan_paths(
    wanted: Sequence[ManagedDirectory | ManagedFile], observed: Mapping[str, Observed]
) -> list[Step]:
    """Steps that make each wanted path so, in the order given (folders before their files).

    :raises PlanError: for a path that was not observed, or that is of another kind: replacing a
        link or a device by a file could write outside the encrypted volume.
    """
    steps = []
    for item in wanted:
        seen = observed.get(item.path)
        if seen is None:
            raise PlanError(f"{item.path}: could not be read, so nothing is decided about it")
        is_file = isinstance(item, ManagedFile)
        expected = Kind.FILE if is_file else Kind.DIRECTORY
        if seen.kind is Kind.ABSENT:
            steps.append(Step(item.path, "create", write=True, attributes=True))
            continue
        if seen.kind is not expected:
            raise PlanError(
                f"{item.path} is a {seen.kind.value}, a {expected.value} is wanted there: "
                "move it away by hand after a look at it, then run again"
            )
        reason = _attributes_differ(seen, item)
        if isinstance(item, ManagedFile) and seen.sha256 != item.sha256:
            steps.append(Step(item.path, ", ".join(filter(None, ("content", reason))), True, True))
        elif reason:
            steps.append(Step(item.path, reason, attributes=True))
    return steps
