"""Masks secrets in configuration text before it is shown.

The same rule runs on the host (as a sed script, so an old file's secrets never travel to the
controller, where ``-vvv`` would print them) and on the controller (for the new text).
"""

from __future__ import annotations

import re

MASK = "********"
# A key whose name says that its value is a secret, up to the separator. References to a secret
# that is kept elsewhere (`${dir:...}`, a path) are worth reading in a diff, so they stay.
_KEY = (
    r"^[[:space:]]*[^#=:[:space:]]*"
    r"(password|secret|passphrase|credential|token|jaas\.config|keystore\.key)"
    r"[^#=:[:space:]]*[[:space:]]*[=:]"
)
_REFERENCE = rf"{_KEY}[[:space:]]*(\$\{{|/)"
SED = rf"\~{_REFERENCE}~Ib;s~({_KEY}).*~\1{MASK}~I"


def _python(expression: str) -> re.Pattern[str]:
    return re.compile(expression.replace("[:space:]", r" \t\v\f\r"), re.IGNORECASE | re.ASCII)


_KEPT, _MASKED = _python(_REFERENCE), _python(f"({_KEY}).*")


def mask_line(line: str) -> str:
    """The line with the value of a secret setting replaced by ``********``."""
    return line if _KEPT.match(line) else _MASKED.sub(lambda found: found.group(1) + MASK, line)
