"""The settings reference, made from the declarations of the roles so it is never out of date."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from roles.common.settings import RoleSettings
from strongbox.cluster import ROLES

_HEAD = """\
# Settings

Set these in an inventory (for one host) or in group_data (for a group), the pyinfra way: a host's
own value beats its group's, a group's beats `all`. A key that is not listed here is refused before
any host is contacted, unless it starts with `x_` (yours) or is one of pyinfra's.

This page is printed by `strongbox settings --markdown`.
"""


@dataclass(frozen=True)
class Row:
    key: str
    kind: str
    default: str
    meaning: str


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    arguments = [item for item in get_args(annotation) if isinstance(item, type)]
    if origin is tuple:
        return "list"
    if origin is dict:
        return "dictionary"
    if arguments and origin is not None:
        return " or ".join(_kind(item) for item in arguments if item is not type(None))
    return {str: "text", int: "number", bool: "yes/no", float: "number"}.get(
        annotation, getattr(annotation, "__name__", "text").lower()
    )


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, (tuple, list)):
        return " ".join(str(item) for item in value) or "empty"
    return str(value) if value != {} else "empty"


def _rows(role: type[RoleSettings]) -> Iterator[Row]:
    for name, field in role.model_fields.items():
        meaning = re.sub(r"\s+", " ", field.description or "")
        yield Row(f"{role.prefix}_{name}", _kind(field.annotation), _default(field), meaning)


def rows() -> list[Row]:
    return [row for role in ROLES for row in _rows(role)]


def markdown() -> str:
    parts = [_HEAD]
    for role in ROLES:
        parts.append(
            f"\n## {role.prefix}\n\n| setting | type | default | meaning |\n|---|---|---|---|\n"
        )
        for row in _rows(role):
            meaning = row.meaning.replace("|", "\\|")
            parts.append(f"| `{row.key}` | {row.kind} | {row.default} | {meaning} |\n")
    return "".join(parts)
