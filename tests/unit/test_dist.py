import gzip
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lab.dist import __main__ as dist
from lab.dist import maven, pack
from lab.dist.pack import DistError

POM = dist.POM.read_text()
TOP = "kafka_2.13-3.9.2"
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-._", min_size=1, max_size=40)
MAVEN = "{http://maven.apache.org/POM/4.0.0}"


def sha512(content: bytes) -> str:
    return hashlib.sha512(content).hexdigest()


def write_jars(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def kafka_jar() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as jar:
        jar.writestr("LICENSE", "licence")
        jar.writestr("NOTICE", "notice")
        jar.writestr("kafka/Kafka.class", "code")
    return content.getvalue()


# --- packing


def test_order_times_modes_and_place_of_the_jars_do_not_change_the_bytes(tmp_path: Path) -> None:
    contents = {"b.jar": b"b" * 70_000, "a.jar": b"a", f"{TOP}.jar": kafka_jar()}
    first = write_jars(tmp_path / "one", contents)
    second = write_jars(tmp_path / "two" / "deeper", dict(reversed(contents.items())))
    for number, jar in enumerate(second):
        os.utime(jar, (number, number))
        jar.chmod(0o600)
    pack.pack(first, TOP, tmp_path / "one.tgz")
    pack.pack(second, TOP, tmp_path / "two.tgz")
    assert (tmp_path / "one.tgz").read_bytes() == (tmp_path / "two.tgz").read_bytes()


def test_the_bytes_are_these_on_every_machine(tmp_path: Path) -> None:
    pack.pack(write_jars(tmp_path, {"a.jar": b"content"}), TOP, tmp_path / "k.tgz")
    assert sha512((tmp_path / "k.tgz").read_bytes()) == (
        "40f927972aa7171a912d81d90f5dc591684b305773d1df8b8f85b865d370c86f"
        "13d851becaeda7c1005bceedc04775152621ac130be593bc3a14db902e5b6324"
    )


def test_the_archive_is_laid_out_like_apaches(tmp_path: Path) -> None:
    contents = {f"{TOP}.jar": kafka_jar(), "z.jar": b"z" * 512, "a.jar": b""}
    pack.pack(write_jars(tmp_path, contents), TOP, tmp_path / "k.tgz")
    with tarfile.open(tmp_path / "k.tgz", "r:gz") as archive:
        members = archive.getmembers()
        assert [(member.name, member.mode, member.isdir()) for member in members] == [
            (TOP, 0o755, True),
            (f"{TOP}/LICENSE", 0o644, False),
            (f"{TOP}/NOTICE", 0o644, False),
            (f"{TOP}/libs", 0o755, True),
            (f"{TOP}/libs/a.jar", 0o644, False),
            (f"{TOP}/libs/{TOP}.jar", 0o644, False),
            (f"{TOP}/libs/z.jar", 0o644, False),
        ]
        assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {
            (0, 0, "root", "root")
        }
        assert len({member.mtime for member in members}) == 1
        for name, content in contents.items():
            packed = archive.extractfile(f"{TOP}/libs/{name}")
            assert packed is not None
            assert packed.read() == content


@given(st.lists(st.binary(max_size=50), max_size=5))
@example([b"a" * 65_535, b"b" * 65_536, b"c" * 200_000])
def test_gzip_gives_back_what_was_put_in(pieces: list[bytes]) -> None:
    packed = b"".join(pack.gzipped(pieces))
    assert gzip.decompress(packed) == b"".join(pieces)


def test_an_archive_that_could_not_be_finished_does_not_appear(tmp_path: Path) -> None:
    jars = write_jars(tmp_path, {"a.jar": b"a"})
    with pytest.raises(FileNotFoundError):
        pack.pack([*jars, tmp_path / "gone.jar"], TOP, tmp_path / "k.tgz")
    assert not (tmp_path / "k.tgz").exists()


# --- digests


@pytest.mark.parametrize(
    ("bring", "refusal"),
    [
        ({"a.jar": b"a", "b.jar": b"B"}, r"^b\.jar is damaged or was tampered with"),
        ({"a.jar": b"", "b.jar": b"b"}, r"^a\.jar is damaged or was tampered with"),
        ({"a.jar": b"a"}, r"^b\.jar .*Maven did not bring it"),
        ({"a.jar": b"a", "b.jar": b"b", "c.jar": b"c"}, r"^c\.jar came along"),
    ],
)
def test_jars_other_than_the_pinned_are_refused_by_name(
    tmp_path: Path, bring: dict[str, bytes], refusal: str
) -> None:
    pins = {"a.jar": sha512(b"a"), "b.jar": sha512(b"b"), "archive.tgz": sha512(b"")}
    with pytest.raises(DistError, match=refusal) as error:
        pack.check(write_jars(tmp_path, bring), pins)
    assert "\n" not in str(error.value)


def test_the_pinned_jars_pass(tmp_path: Path) -> None:
    pins = {"a.jar": sha512(b"a"), "archive.tgz": sha512(b"")}
    pack.check(write_jars(tmp_path, {"a.jar": b"a"}), pins)


@given(st.dictionaries(NAMES, st.binary(max_size=4).map(sha512), max_size=5))
def test_checksums_are_read_as_written(digests: dict[str, str]) -> None:
    assert pack.read_checksums(pack.write_checksums(digests)) == digests


@pytest.mark.parametrize(
    "line",
    [
        "",
        "a.jar",
        f"{sha512(b'')[:-1]}  a.jar",
        f"{sha512(b'').upper()}  a.jar",
        f"{sha512(b'')} a.jar",
        f"{sha512(b'')}  ../a.jar",
        f"{sha512(b'x')}  first.jar",  # again
    ],
)
def test_other_lines_among_the_checksums_are_refused(line: str) -> None:
    with pytest.raises(DistError, match="line 2 of the checksums"):
        pack.read_checksums(f"{sha512(b'')}  first.jar\n{line}\n")


@pytest.mark.parametrize(
    ("wanted", "pinned", "refusal"),
    [
        (["a-2.jar"], ["a-1.jar"], r"a-2\.jar is in pom\.xml but has no digest"),
        (["a-1.jar"], ["a-1.jar", "b-1.jar"], r"b-1\.jar is in checksums\.sha512 but not in"),
    ],
)
def test_a_pom_and_checksums_that_disagree_are_refused(
    wanted: list[str], pinned: list[str], refusal: str
) -> None:
    with pytest.raises(DistError, match=refusal):
        pack.check_names(wanted, pinned)


# --- the POM


def pom(dependency: str) -> str:
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><properties><v>1.2</v></properties>'
        f"<dependencies><dependency>{dependency}</dependency></dependencies></project>"
    )


def test_names_of_jars_are_taken_from_a_pom() -> None:
    assert pack.wanted_jars(
        pom("<artifactId>a_2.13</artifactId><version>${v}.Final</version>")
    ) == ["a_2.13-1.2.Final.jar"]
    assert pack.wanted_jars(
        pom("<artifactId>a</artifactId><version>3</version><classifier>linux</classifier>")
    ) == ["a-3-linux.jar"]


@pytest.mark.parametrize("version", ["", "<version>${missing}</version>"])
def test_a_dependency_without_a_version_is_refused(version: str) -> None:
    with pytest.raises(DistError, match="gives a no version"):
        pack.wanted_jars(pom(f"<artifactId>a</artifactId>{version}"))


def test_every_dependency_is_pinned_and_brings_no_other() -> None:
    project = ElementTree.fromstring(POM)
    dependencies = project.findall(f"{MAVEN}dependencies/{MAVEN}dependency")
    assert len(dependencies) > 50
    for dependency in dependencies:
        excluded = dependency.find(f"{MAVEN}exclusions/{MAVEN}exclusion")
        assert excluded is not None, dependency.findtext(f"{MAVEN}artifactId")
        assert [part.text for part in excluded] == ["*", "*"]
    for plugin in project.iter(f"{MAVEN}plugin"):
        assert plugin.findtext(f"{MAVEN}version")


def test_the_committed_pom_and_checksums_agree() -> None:
    pins = pack.read_checksums(dist.CHECKSUMS.read_text())
    pack.check_names(pack.wanted_jars(POM), pins)
    assert [name for name in pins if not name.endswith(".jar")] == [f"{TOP}.tgz"]


def test_logging_has_one_binding_of_slf4js_own_line() -> None:
    jars = pack.wanted_jars(POM)
    assert [jar for jar in jars if jar.startswith(("slf4j", "logback", "log4j", "reload4j"))] == [
        "reload4j-1.2.25.jar",
        "slf4j-api-1.7.36.jar",
        "slf4j-reload4j-1.7.36.jar",
    ]


# --- Maven


@pytest.fixture
def fake_mvn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script with that body first in PATH, as mvn."""

    def put(body: str) -> None:
        script = tmp_path / "bin" / "mvn"
        script.parent.mkdir()
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")

    return put


def test_jars_come_through_maven_with_progress(
    tmp_path: Path, fake_mvn: Callable[[str], None]
) -> None:
    fake_mvn(
        'for argument; do case "$argument" in -Dlibs=*) libs=${argument#-Dlibs=};; esac; done\n'
        "for n in 0 1 2 3 4 5 6 7 8 9; do\n"
        'echo jar > "$libs/$n.jar"\n'
        'echo "[INFO] Downloaded from mirror: https://mirror.example/g/$n.jar (1 kB at 2 kB/s)"\n'
        'echo "[INFO] Downloaded from mirror: https://mirror.example/plugin.jar (1 kB at 2 kB/s)"\n'
        "done"
    )
    said: list[str] = []
    libs = tmp_path / "libs"
    libs.mkdir()
    names = [f"{number}.jar" for number in range(10)]
    assert [jar.name for jar in maven.fetch(tmp_path / "pom.xml", libs, names, said.append)] == (
        names
    )
    assert said == ["10 of at most 10 jars downloaded"]


def test_a_failing_maven_is_one_line_with_the_innermost_reason(
    tmp_path: Path, fake_mvn: Callable[[str], None]
) -> None:
    fake_mvn(
        "cat <<'END'\n"
        "[INFO] Scanning for projects...\n"
        "[ERROR] Failed to execute goal on project x: Could not resolve dependencies for project "
        "x: Failed to collect: Could not find artifact a:b:jar:1 in central -> [Help 1]\n"
        "[ERROR] \n"
        "[ERROR] Re-run Maven using the -X switch to enable full debug logging.\n"
        "END\n"
        "exit 1"
    )
    with pytest.raises(DistError) as error:
        maven.fetch(tmp_path / "pom.xml", tmp_path, [], print)
    assert str(error.value) == (
        "Maven could not bring the jars: Could not find artifact a:b:jar:1 in central"
    )


def test_a_maven_that_says_nothing_is_reported(
    tmp_path: Path, fake_mvn: Callable[[str], None]
) -> None:
    fake_mvn("exit 3")
    with pytest.raises(DistError, match="Maven could not bring the jars: it said nothing"):
        maven.fetch(tmp_path / "pom.xml", tmp_path, [], print)


def test_without_maven_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DistError, match="mvn is not installed"):
        maven.fetch(tmp_path / "pom.xml", tmp_path, [], print)


# --- building


class Project:
    """A POM with two jars, and a Maven that brings what ``brings`` holds."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.output = folder / "out"
        self.archive = self.output / f"{TOP}.tgz"
        self.brings = {"a-1.2.jar": b"a", "b-1.2.jar": b"b"}
        self.fetched = 0
        self.pom = folder / "pom.xml"
        self.pom.write_text(
            pom("<artifactId>a</artifactId><version>1.2</version>").replace(
                "</dependencies>",
                "<dependency><artifactId>b</artifactId><version>1.2</version></dependency>"
                "</dependencies>",
            )
        )
        monkeypatch.setattr(dist, "POM", self.pom)
        monkeypatch.setattr(dist, "CHECKSUMS", folder / "checksums.sha512")
        monkeypatch.setattr(dist, "fetch", self._fetch)
        dist.build(self.output, pin=True)
        self.bytes = self.archive.read_bytes()

    def _fetch(self, _pom: Path, folder: Path, *_: object) -> list[Path]:
        self.fetched += 1
        return write_jars(folder, self.brings)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)


def test_the_archives_digest_lies_beside_it(project: Project) -> None:
    beside = project.archive.with_name(f"{TOP}.tgz.sha512")
    assert beside.read_text() == f"{sha512(project.bytes)}  {TOP}.tgz\n"
    beside.unlink()
    dist.build(project.output)
    assert beside.exists()


def test_an_archive_that_is_there_stays(project: Project) -> None:
    before = project.archive.stat().st_mtime_ns
    dist.build(project.output)
    assert project.fetched == 1
    assert project.archive.stat().st_mtime_ns == before


def test_another_place_gets_the_same_bytes(project: Project, tmp_path: Path) -> None:
    assert dist.build(tmp_path / "elsewhere").read_bytes() == project.bytes


def test_a_damaged_archive_is_built_again(project: Project) -> None:
    project.archive.write_bytes(project.bytes[:-1])
    dist.build(project.output)
    assert project.archive.read_bytes() == project.bytes


def test_what_a_killed_build_left_is_cleared(project: Project) -> None:
    project.archive.unlink()
    write_jars(project.output / ".building", {"stale-1.jar": b""})
    dist.build(project.output)
    assert project.archive.read_bytes() == project.bytes
    assert not (project.output / ".building").exists()


def test_a_wrong_jar_makes_no_archive(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    project.brings["b-1.2.jar"] = b"tampered"
    other = tmp_path / "other"
    monkeypatch.setattr("sys.argv", ["lab.dist", "--output", str(other)])
    assert dist.main() == 1
    assert list(other.iterdir()) == []
    error = capsys.readouterr().err
    assert error.startswith("lab.dist: b-1.2.jar is damaged")
    assert error.count("\n") == 1


def test_a_changed_pom_is_not_answered_with_the_old_archive(project: Project) -> None:
    project.pom.write_text(project.pom.read_text().replace("1.2</version>", "1.3</version>", 1))
    with pytest.raises(DistError, match=r"a-1\.3\.jar is in pom\.xml but has no digest"):
        dist.build(project.output)


def test_another_way_of_packing_is_noticed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.archive.unlink()
    monkeypatch.setattr(pack, "_TIME", 0)
    with pytest.raises(DistError, match="the jars are right but"):
        dist.build(project.output)
    assert not project.archive.exists()


def test_a_full_disk_is_one_line(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    project.archive.unlink()
    monkeypatch.setattr(dist, "pack", full)
    monkeypatch.setattr("sys.argv", ["lab.dist", "--output", str(project.output)])
    assert dist.main() == 1
    assert capsys.readouterr().err == "lab.dist: No space left on device\n"
