"""Typed settings, read from pyinfra host data and checked before any host is contacted.

A role declares its keys once, as a subclass of `RoleSettings` whose `prefix` is the role's name.
In inventories and group_data each key carries that prefix (`kafka_client_port = 9094`), so hosts
and groups override it with pyinfra's own precedence.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

CLUSTER_NAME = re.compile(r"[a-z][a-z0-9-]{0,29}")
HOSTNAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)


class SettingsError(ValueError):
    """Settings that cannot be used; the message has one line for each problem."""


def _hostname(value: str) -> str:
    if not HOSTNAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a host name (lower-case letters, digits, '-' and '.')")
    return value


def _address(value: str) -> str:
    return str(ipaddress.ip_address(value))


def _absolute(value: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9._/-]*[A-Za-z0-9._-]", value) or ".." in value.split("/"):
        raise ValueError(
            f"{value!r} is not an absolute path made of letters, digits, '.', '_', '-'"
        )
    return value


Hostname = Annotated[str, AfterValidator(_hostname)]
Address = Annotated[str, AfterValidator(_address)]
RemotePath = Annotated[str, AfterValidator(_absolute)]
Port = Annotated[int, Field(ge=1, le=65535)]


class RoleSettings(BaseModel):
    """Base of each role's settings: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    prefix: ClassVar[str]

    @classmethod
    def setting_keys(cls) -> dict[str, str]:
        """Full key -> field name, e.g. ``{"kafka_client_port": "client_port"}``."""
        return {f"{cls.prefix}_{field}": field for field in cls.model_fields}

    @classmethod
    def load(cls, data: Mapping[str, Any], host: str = "") -> Self:
        """Builds the settings from host data, taking only the keys with this role's prefix.

        :raises SettingsError: one line for each problem, naming host and key.
        """
        known = cls.setting_keys()
        problems = [
            _unknown(key, known, host)
            for key in data
            if key.startswith(f"{cls.prefix}_") and key not in known
        ]
        values = {field: data[key] for key, field in known.items() if key in data}
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            problems += [_problem(cls.prefix, host, item) for item in error.errors()]
        if problems:
            raise SettingsError("\n".join(problems))
        return settings


def _where(host: str) -> str:
    return f"{host}: " if host else ""


def _unknown(key: str, known: Iterable[str], host: str) -> str:
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.6)
    hint = f"did you mean {close[0]!r}?" if close else "see docs/settings.md for the ones there are"
    return f"{_where(host)}unknown setting {key!r}: {hint}"


def _problem(prefix: str, host: str, item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"])
    reason = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "missing":
        reason = "is required and has no default"
    # A value that failed is shown only when it is a plain scalar: settings hold no secrets, but a
    # secret pasted into the wrong place must not be echoed by the message about it.
    return f"{_where(host)}{prefix}_{field}: {reason}" if field else f"{_where(host)}{reason}"


FREE_PREFIX = "x_"


def unknown_keys(
    data: Mapping[str, Any], roles: Iterable[type[RoleSettings]], allowed: Iterable[str], host: str
) -> list[str]:
    """Problems with keys of *data* that no role and no connector knows.

    Keys that start with ``x_`` are the user's own; keys that start with ``_`` are pyinfra's.
    """
    known = {key for role in roles for key in role.setting_keys()}
    accepted = known | set(allowed)
    return [
        _unknown(key, accepted, host)
        for key in data
        if key not in accepted and not key.startswith((FREE_PREFIX, "_"))
    ]
