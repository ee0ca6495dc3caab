import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.facts import END, PathStates, complete, parse_paths
from roles.common.plan import (
    Kind,
    ManagedDirectory,
    ManagedFile,
    Observed,
    PlanError,
    plan_paths,
)

FILE = ManagedFile("/etc/x/a", b"content", "root", "kafka", "640")
FOLDER = ManagedDirectory("/etc/x", "root", "root", "755")


def as_wanted(item: ManagedFile | ManagedDirectory) -> Observed:
    kind = Kind.FILE if isinstance(item, ManagedFile) else Kind.DIRECTORY
    digest = item.sha256 if isinstance(item, ManagedFile) else ""
    return Observed(kind, item.owner, item.group, item.mode, digest)


observations = st.builds(
    Observed,
    st.sampled_from(Kind),
    st.sampled_from(["root", "kafka"]),
    st.sampled_from(["root", "kafka"]),
    st.sampled_from(["640", "644", "755"]),
    st.sampled_from(["", FILE.sha256, hashlib.sha256(b"other").hexdigest()]),
)


@given(file=observations, folder=observations)
def test_a_plan_leads_to_what_was_wanted_or_refuses(file: Observed, folder: Observed) -> None:
    observed = {FILE.path: file, FOLDER.path: folder}
    try:
        steps = plan_paths([FOLDER, FILE], observed)
    except PlanError:
        assert file.kind not in (Kind.FILE, Kind.ABSENT) or folder.kind not in (
            Kind.DIRECTORY,
            Kind.ABSENT,
        )
        return
    for step in steps:
        item = FILE if step.path == FILE.path else FOLDER
        assert step.write or step.attributes
        if not step.write and isinstance(item, ManagedFile):
            assert observed[step.path].sha256 == item.sha256
        observed[step.path] = as_wanted(item)
    assert plan_paths([FOLDER, FILE], observed) == []


def test_a_path_that_was_not_read_is_not_taken_as_absent() -> None:
    with pytest.raises(PlanError, match="could not be read"):
        plan_paths([FILE], {})


@pytest.mark.parametrize("kind", [Kind.LINK, Kind.DIRECTORY, Kind.OTHER])
def test_something_else_in_the_place_of_a_file_is_refused(kind: Kind) -> None:
    with pytest.raises(PlanError, match=f"/etc/x/a is a {kind.value}"):
        plan_paths([FILE], {FILE.path: Observed(kind)})


def test_the_reason_names_what_differs() -> None:
    seen = Observed(Kind.FILE, "kafka", "kafka", "666", FILE.sha256)
    (step,) = plan_paths([FILE], {FILE.path: seen})
    assert step.reason == "owner kafka:kafka -> root:kafka, mode 666 -> 640"
    assert not step.write


def test_repr_of_a_file_never_shows_its_content() -> None:
    canary = "CANARY-file-content"
    assert canary not in repr(ManagedFile("/x", canary.encode(), "a", "b", secret=True))


def test_output_without_its_end_is_unknown() -> None:
    assert complete(["/etc/x\t-"]) is None
    assert complete([]) is None
    assert complete(["/etc/x\t-", END]) == ["/etc/x\t-"]
    assert PathStates().process(["/etc/x\t-"]) is None


def test_paths_are_parsed_by_kind() -> None:
    digest = "a" * 64
    seen = parse_paths(
        [
            f"/f\t81a0\troot\tkafka\t640\t{digest}",
            "/d\t41c0\tkafka\tkafka\t700\t",
            "/l\ta1ff\troot\troot\t777\t",
            "/s\tc1ff\troot\troot\t777\t",
            "/none\t-",
        ]
    )
    assert seen["/f"] == Observed(Kind.FILE, "root", "kafka", "640", digest)
    assert [seen[path].kind for path in ("/d", "/l", "/s", "/none")] == [
        Kind.DIRECTORY,
        Kind.LINK,
        Kind.OTHER,
        Kind.ABSENT,
    ]
