"""What this run has read of its own host moments ago, so that it need not be asked for again.

A reading is only ever a reason to leave something as it is. What decides on a change is read again
right before it.
"""

from __future__ import annotations

import time
from typing import Any

from pyinfra import host, state

# Long enough for the seconds between planning and doing, too short to hide that something has
# changed while other hosts were worked on or the operator thought about the plan.
FRESH_S = 10.0


def _of_host() -> dict[str, tuple[float, Any]]:
    notes: dict[str, dict[str, tuple[float, Any]]] = state.__dict__.setdefault(
        "_strongbox_readings", {}
    )
    return notes.setdefault(host.name, {})


def remember(key: str, value: object) -> None:
    """Keeps what was just read of the present host."""
    _of_host()[key] = (time.monotonic(), value)


def recall(key: str) -> Any:
    """What `remember` kept of the present host, None when there is nothing or it is too old."""
    at, value = _of_host().get(key, (0.0, None))
    return value if value is not None and time.monotonic() - at <= FRESH_S else None


def forget() -> None:
    """Called by every operation that is about to change the present host."""
    _of_host().clear()
