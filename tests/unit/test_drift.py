import json

import pytest

from strongbox.drift import Drift, DriftUnknown, parse_plan


def plan(*operations: dict[str, object]) -> str:
    return json.dumps({"plan": list(operations), "results": None})


def test_only_operations_that_change_something_are_drift() -> None:
    text = plan(
        {"name": "a", "hosts_with_change": []},
        {"name": "b", "hosts_with_change": ["k2", "k1"], "hosts_with_conditional_change": ["k3"]},
    )
    assert parse_plan(text) == [Drift("b", ("k1", "k2"))]


@pytest.mark.parametrize("text", ["", "{", '{"plan": [{}]}', "{}", '{"plan": null}', "[]"])
def test_an_incomplete_answer_is_never_no_drift(text: str) -> None:
    with pytest.raises(DriftUnknown):
        parse_plan(text)
