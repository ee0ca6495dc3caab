"""How many examples a property test tries: few in every run, 10,000 with STRONGBOX_THOROUGH=1."""

from __future__ import annotations

import os

from hypothesis import settings


def examples(count: int) -> settings:
    """A decorator beside ``@given``.

    :param count: examples in the normal run, which has to stay short.
    """
    thorough = os.environ.get("STRONGBOX_THOROUGH")
    return settings(max_examples=10_000 if thorough else count, deadline=None)
