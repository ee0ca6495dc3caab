"""How much a test tries: little in every run, all of it with STRONGBOX_THOROUGH=1."""

from __future__ import annotations

import os

from hypothesis import settings

THOROUGH = bool(os.environ.get("STRONGBOX_THOROUGH"))


def examples(count: int) -> settings:
    """A decorator beside ``@given``: 10,000 examples in a thorough run.

    :param count: examples in the normal run, which has to stay short.
    """
    return settings(max_examples=10_000 if THOROUGH else count, deadline=None)
