"""Builds Kafka's archive when it is not there: ``python -m lab.dist [--output DIR] [--pin]``."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.dist.maven import fetch
from lab.dist.pack import (
    DistError,
    check,
    check_names,
    digest,
    pack,
    read_checksums,
    wanted_jars,
    write_checksums,
)
from lab.state import PROJECT

HERE = Path(__file__).parent
TOP = "kafka_2.13-3.9.2"
POM = HERE / "pom.xml"
CHECKSUMS = HERE / "checksums.sha512"
OUTPUT = PROJECT / ".lab" / "dist"


def build(output: Path = OUTPUT, pin: bool = False) -> Path:
    """The archive in *output*, with its SHA-512 beside it in sha512sum's format.

    An archive that is there with the pinned digest stays as it is.

    :param pin: takes what Maven brings as right, and records its digests.
    :raises DistError: when a jar or the archive is not what is pinned; no archive appears then.
    """
    archive = output / f"{TOP}.tgz"
    jars = wanted_jars(POM.read_text())
    pins = {} if pin else read_checksums(CHECKSUMS.read_text())
    if not pin:
        check_names(jars, pins)
    output.mkdir(parents=True, exist_ok=True)
    with _alone(output):
        if archive.is_file() and digest(archive) == pins.get(archive.name):
            _say(f"{archive} is there, with the pinned digest")
        else:
            pins = _assemble(archive, jars, pins)
        beside = write_checksums({archive.name: pins[archive.name]})
        recorded = archive.with_name(f"{archive.name}.sha512")
        if not recorded.is_file() or recorded.read_text() != beside:
            recorded.write_text(beside)
    return archive


def _assemble(archive: Path, wanted: list[str], pins: dict[str, str]) -> dict[str, str]:
    """Makes the archive; returns the pins, which are taken from what came when there are none."""
    work = archive.with_name(".building")
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    work.mkdir()
    try:
        _say(f"fetching {len(wanted)} jars through Maven (about a minute the first time)")
        jars = fetch(POM, work, wanted, _say)
        pinning = not pins
        if pinning:
            pins = {jar.name: digest(jar) for jar in jars}
            check_names(wanted, pins)
        else:
            check(jars, pins)
            _say(f"{len(jars)} jars have the pinned digests; packing")
        built = work / archive.name
        pack(jars, TOP, built)
        if pinning:
            pins[archive.name] = digest(built)
            CHECKSUMS.write_text(write_checksums(pins))
            _say(
                f"pinned {len(jars)} jars and the archive in {CHECKSUMS.name}: look at its changes"
            )
        elif digest(built) != pins.get(archive.name):
            raise DistError(
                f"the jars are right but {archive.name} is not: after a change to how it is packed "
                "run 'python -m lab.dist --pin'"
            )
        built.replace(archive)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _say(f"{archive}: {archive.stat().st_size / 1e6:.0f} MB")
    return pins


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While it lasts, no other build writes into *folder*."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another build is under way: waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab.dist",
        description="Builds Kafka's archive from Maven Central, unless it is there.",
    )
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, metavar="DIR", help="where the archive goes"
    )
    parser.add_argument(
        "--pin",
        action="store_true",
        help="after a change to pom.xml: take the jars that Maven brings as right and record "
        "their digests in checksums.sha512",
    )
    arguments = parser.parse_args()
    try:
        build(arguments.output, arguments.pin)
    except DistError as error:
        print(f"lab.dist: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"lab.dist: {where}{error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab.dist: stopped; nothing was left behind", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
