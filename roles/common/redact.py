"""Masks secrets in configuration text before it is shown.

The same rule runs on the host (as a sed expression, so an old file's secrets never travel to the
controller, where ``-vvv`` would print them) and on the controller (for the new text).
"""

from __future__ import annotations

import re

MASK = "********"
# A properties key or unit setting whose name says that its value is a secret. References to a
# secret kept elsewhere (`${dir:...}`, a path) are worth reading in a diff, so they stay.
_NAME = r"[^#=[:space:]]*(password|secret|passphrase|credential|token|jaas\.config|keystore\.key)"
_REFERENCE = r"\$\{|/"
SED = (
    rf"/^[[:space:]]*{_NAME}[[:space:]]*[=:][[:space:]]*({_REFERENCE})/I!"
    rf"s~^([[:space:]]*{_NAME}[^=:]*[=:]).*~\1{MASK}~I"
)


def _python(expression: str) -> str:
    return expression.replace("[:space:]", r"\s")


_KEPT = re.compile(_python(rf"^\s*{_NAME}\s*[=:]\s*({_REFERENCE})"), re.IGNORECASE)
_MASKED = re.compile(_python(rf"^(\s*{_NAME}[^=:]*[=:]).*"), re.IGNORECASE)


def mask_line(line: str) -> str:
    """The line with the value of a secret setting replaced by ``********``."""
    if _KEPT.match(line):
        return line
    return _MASKED.sub(lambda match: match.group(1) + MASK, line)
