from collections.abc import Mapping
from typing import Any

import pytest

from roles.common.settings import SettingsError
from roles.zookeeper.settings import ZookeeperSettings, problems

MINIMAL: Mapping[str, Any] = {"zookeeper_id": 1, "zookeeper_archive": "kafka.tgz"}


def load(**changes: Any) -> ZookeeperSettings:
    return ZookeeperSettings.load({**MINIMAL, **changes})


def ensemble(count: int, **changes: Any) -> dict[str, ZookeeperSettings]:
    return {f"zk{n}": load(zookeeper_id=n, **changes) for n in range(1, count + 1)}


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("id", 0, "greater than or equal to 1"),
        ("id", 256, "less than or equal to 255"),
        ("purge_interval_hours", 0, "secrets that were deleted"),
        ("snap_retain_count", 2, "at least 3"),
        ("heap", "512", "followed by m or g"),
        ("heap", "64m", "between"),
        ("heap", "32g", "between"),
        ("heap", "512m -XX:+HeapDumpOnOutOfMemoryError", "followed by m or g"),
        ("quorum_port", 2182, "must differ"),
        ("archive", "", "path or URL"),
        ("archive_sha512", "a b", "128 hex digits or a path"),
    ],
)
def test_refused_with_a_reason(key: str, value: object, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        load(**{f"zookeeper_{key}": value})


def test_defaults_are_an_ensemble_that_works() -> None:
    assert problems(ensemble(3)) == []
    assert problems(ensemble(1)) == []


@pytest.mark.parametrize("count", [2, 4])
def test_an_even_ensemble_is_refused(count: int) -> None:
    assert "even number of servers" in problems(ensemble(count))[0]


def test_duplicate_ids_name_both_hosts() -> None:
    hosts = {**ensemble(3), "zk3": load(zookeeper_id=1)}
    assert problems(hosts) == ["zookeeper_id: zk1 and zk3 both have 1"]


@pytest.mark.parametrize("field", ["client_port", "quorum_port", "election_port", "tick_time_ms"])
def test_what_the_ensemble_shares_must_be_equal(field: str) -> None:
    hosts = {**ensemble(3), "zk2": load(zookeeper_id=2, **{f"zookeeper_{field}": 5001})}
    assert [field in line and "zk1 and zk2" in line for line in problems(hosts)] == [True]


def test_members_need_addresses_unless_reverse_dns_is_trusted() -> None:
    addresses = {"zk1": ["10.0.0.1"], "zk2": [], "zk3": ["10.0.0.3"]}
    (line,) = problems(ensemble(3), addresses)
    assert line.startswith("zk2: common_addresses is empty")
    assert problems(ensemble(3, zookeeper_quorum_reverse_dns=True), addresses) == []
    assert problems(ensemble(1), {"zk1": []}) == []
