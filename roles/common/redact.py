"""Masks secrets in configuration text before it is shown.

The same rules run on the host (as a sed script, so an old file's secrets never travel to the
controller, where ``-vvv`` would print them) and on the controller (for the new text). What follows
the name of a secret is masked to the end of its line, whatever stands between the two, and through
all lines that backslashes continue: masking too much costs a line of a diff.
"""

from __future__ import annotations

import re

MASK = "********"

_NAME = "[A-Za-z0-9_./-]"
# With one of these in its name, a value is a secret. `user_NAME` is how Kafka's PLAIN login module
# spells the password of NAME.
_HIDDEN = (
    "(pass|pwd|secret|token|credential|jaas[._]config|keystore[._]key|key[._-]?material"
    "|(private|access|api)[._-]?key|user_)"
)
_ASSIGNED = "[[:blank:]]*[=:][[:blank:]]*"
# Where a secret is kept is worth reading in a diff: a reference that Kafka resolves, or a path
# under a name that says so. Any other value that starts with '/' may well be base64.
_REFERENCE = rf"({_HIDDEN}{_NAME}*)({_ASSIGNED}[$]\{{(dir|env|file):{_NAME}*)(:{_NAME}*)?\}}$"
_PATH = rf"(path|location|file|dir|folder)({_ASSIGNED}/{_NAME}*)([[:space:]\"']|$)"
# Set behind each name in both, so that the rule for values finds no separator there.
_KEPT = r"\x01"
_VALUE = rf"({_HIDDEN}{_NAME}*)([\"']?{_ASSIGNED}|[[:blank:]]+|[^A-Za-z0-9_./{_KEPT}-]).*"
_CONTINUED = r"\\$"
_KEY_BEGINS = "-----BEGIN [A-Z0-9 ]*PRIVATE KEY"
_KEY_ENDS = r"-----END [A-Z0-9 ]*PRIVATE KEY[^\n]*$"
# What is replaced by what. In the numbers the groups within _HIDDEN count.
_RULES = (
    (_KEPT, ""),
    (_REFERENCE, rf"\1{_KEPT}\4{_KEPT}\6{_KEPT}}}"),
    (_PATH, rf"\1{_KEPT}\2{_KEPT}\3"),
    (rf"({_KEY_BEGINS}).*", rf"\1{MASK}"),
    (_VALUE, rf"\1\4{MASK}"),
    (_KEPT, ""),
)
# On hosts it needs LC_ALL=C: with UTF-8, '.' would stop at a byte that is none.
SED = (
    rf":a;/{_CONTINUED}/{{$!{{N;ba;}};}};"
    rf"/{_KEY_BEGINS}/I{{/{_KEY_ENDS}/I!{{$!{{N;ba;}};}};}};"
) + ";".join(f"s~{pattern}~{replacement}~Ig" for pattern, replacement in _RULES)


def _python(expression: str) -> re.Pattern[bytes]:
    translated = (
        re.sub(r"(?<!\[)\$", r"\\Z", expression)
        .replace("[:blank:]", r" \t")
        .replace("[:space:]", r"\s")
    )
    return re.compile(translated.encode(), re.IGNORECASE | re.DOTALL)


_continued, _key_begins, _key_ends = map(_python, (_CONTINUED, _KEY_BEGINS, _KEY_ENDS))
_rules = [
    (_python(pattern), replacement.replace(_KEPT, "\x01").encode())
    for pattern, replacement in _RULES
]


def _unfinished(lines: bytes) -> bool:
    """Whether the next line belongs to the same value."""
    if _continued.search(lines):
        return True
    return bool(_key_begins.search(lines)) and not _key_ends.search(lines)


def mask(text: bytes) -> bytes:
    """The text with the value of each secret replaced by ``********``."""
    if not text:
        return text
    masked = []
    lines = iter(text.removesuffix(b"\n").split(b"\n"))
    for line in lines:
        while _unfinished(line) and (following := next(lines, None)) is not None:
            line += b"\n" + following
        for pattern, replacement in _rules:
            line = pattern.sub(replacement, line)
        masked.append(line)
    return b"\n".join(masked) + (b"\n" if text.endswith(b"\n") else b"")
