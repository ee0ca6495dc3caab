"""What a host has, read with one remote command for each fact.

Every fact ends its output with a sentinel. Without it the answer is `None`, which means "could not
look" and never "not there": pyinfra returns a fact's default when the connection or sudo failed.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.facts import FactBase
from typing_extensions import override

from roles.common.plan import Kind, Observed
from roles.common.redact import SED

END = "--end--"


def complete(output: list[str]) -> list[str] | None:
    """The lines before the sentinel, or None when the command did not reach its end."""
    lines = [line.rstrip("\r") for line in output]
    return lines[:-1] if lines and lines[-1] == END else None


def shell_words(words: Sequence[str]) -> list[QuoteString]:
    return [QuoteString(word) for word in words]


_KINDS = {0o10: Kind.FILE, 0o04: Kind.DIRECTORY, 0o12: Kind.LINK}

_STAT = (
    'for p; do if [ -L "$p" ] || [ -e "$p" ]; then '
    "stat --printf '%n\\t%f\\t%U\\t%G\\t%a\\t' \"$p\" || exit; "
    'if [ -f "$p" ] && [ ! -L "$p" ]; then sha256sum <"$p" | cut -c1-64; else echo; fi; '
    "else printf '%s\\t-\\n' \"$p\"; fi; done"
)


def parse_paths(lines: list[str]) -> dict[str, Observed]:
    """Reads tab-separated path, raw mode (hex), owner, group, mode, SHA-256; ``-`` if absent."""
    seen = {}
    for line in lines:
        path, *rest = line.split("\t")
        if rest == ["-"]:
            seen[path] = Observed(Kind.ABSENT)
            continue
        raw, owner, group, mode, sha256 = rest
        kind = _KINDS.get(int(raw, 16) >> 12, Kind.OTHER)
        seen[path] = Observed(kind, owner, group, mode, sha256)
    return seen


class PathStates(FactBase[dict[str, Observed] | None]):
    """Kind, owner, group, mode and SHA-256 of each path."""

    @override
    def command(self, paths: Sequence[str]) -> StringCommand:
        return StringCommand("set --", *shell_words(paths), ";", _STAT, "; echo", END)

    @override
    def process(self, output: list[str]) -> dict[str, Observed] | None:
        lines = complete(output)
        return None if lines is None else parse_paths(lines)


class TextContents(FactBase[dict[str, list[str]] | None]):
    """Lines of text files with the values of secret settings masked on the host."""

    @override
    def command(self, paths: Sequence[str]) -> StringCommand:
        return StringCommand(
            "set --",
            *shell_words(paths),
            '; for p; do printf "%s\\t" "$p"; LC_ALL=C sed -E',
            QuoteString(SED),
            '"$p" | base64 -w0; echo; done; echo',
            END,
        )

    @override
    def process(self, output: list[str]) -> dict[str, list[str]] | None:
        lines = complete(output)
        if lines is None:
            return None
        texts = {}
        for line in lines:
            path, _, encoded = line.partition("\t")
            texts[path] = base64.b64decode(encoded).decode(errors="replace").splitlines()
        return texts


@dataclass(frozen=True)
class HostBase:
    """Packages that are missing, service accounts that exist, and what lies at the paths."""

    missing_packages: tuple[str, ...]
    accounts: frozenset[str]
    paths: Mapping[str, Observed]


class HostBaseState(FactBase[HostBase | None]):
    """Which of the packages are not installed, which of the accounts exist, and the paths."""

    @override
    def command(
        self, packages: Sequence[str], accounts: Sequence[str], paths: Sequence[str]
    ) -> StringCommand:
        return StringCommand(
            "set --",
            *shell_words(packages),
            # NAME=VERSION is installed when that version is.
            '; for p; do v=${p#"${p%%=*}"}; case $(dpkg-query -W -f',
            "'${db:Status-Abbrev}=${Version}=' \"${p%%=*}\" 2>/dev/null) in",
            '"ii $v="*) ;; *) echo "missing $p" ;; esac; done; set --',
            *shell_words(accounts),
            '; for a; do if getent passwd "$a" >/dev/null; then echo "account $a"; fi; done;',
            "set --",
            *shell_words(paths),
            ";",
            _STAT,
            "; echo",
            END,
        )

    @override
    def process(self, output: list[str]) -> HostBase | None:
        lines = complete(output)
        if lines is None:
            return None
        found = [line.split(" ", 1) for line in lines if "\t" not in line]
        return HostBase(
            tuple(value for kind, value in found if kind == "missing"),
            frozenset(value for kind, value in found if kind == "account"),
            parse_paths([line for line in lines if "\t" in line]),
        )
