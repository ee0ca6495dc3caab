"""Builds the archive when it is not there: ``python -m lab.dist [--output DIR] [--pin]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from lab.dist.pack import DistError, check, digest, pack, read_checksums
from lab.state import PROJECT

HERE = Path(__file__).parent
TOP = "kafka_2.13-3.9.2"
CHECKSUMS = HERE / "checksums.sha512"


def fetch(folder: Path) -> list[Path]:
    """The jars that the POM lists, through Maven.

    :raises DistError: with Maven's own last words.
    """
    command = [
        "mvn", "--quiet", "--batch-mode", "--file", str(HERE / "pom.xml"),
        "dependency:copy-dependencies", f"-DoutputDirectory={folder}",
    ]  # fmt: skip
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise DistError("mvn is not installed: 'make prerequisites' installs it") from None
    if result.returncode != 0:
        lines = [line for line in result.stdout.splitlines() if line.startswith("[ERROR]")]
        raise DistError(f"Maven could not fetch the jars: {lines[0] if lines else 'see mvn'}")
    return sorted(folder.glob("*.jar"))


def build(output: Path, pin: bool) -> Path:
    archive = output / f"{TOP}.tgz"
    recorded = archive.with_name(f"{archive.name}.sha512")
    stamp = output / ".built-from"
    recipe = f"{digest(HERE / 'pom.xml')} {digest(CHECKSUMS) if CHECKSUMS.exists() else '-'}"
    if (
        not pin
        and archive.is_file()
        and recorded.is_file()
        and stamp.is_file()
        and stamp.read_text() == recipe
        and read_checksums(recorded.read_text()).get(archive.name) == digest(archive)
    ):
        print(f"{archive} is there")
        return archive
    output.mkdir(parents=True, exist_ok=True)
    print("fetching Kafka's jars through Maven (about a minute the first time)", flush=True)
    with tempfile.TemporaryDirectory(dir=output) as folder:
        jars = fetch(Path(folder))
        if pin:
            CHECKSUMS.write_text("".join(f"{digest(jar)}  {jar.name}\n" for jar in jars))
            print(f"pinned {len(jars)} jars in {CHECKSUMS.name}")
        check(jars, read_checksums(CHECKSUMS.read_text()))
        pack(jars, TOP, archive)
    recorded.write_text(f"{digest(archive)}  {archive.name}\n")
    recipe = f"{digest(HERE / 'pom.xml')} {digest(CHECKSUMS)}"
    stamp.write_text(recipe)
    print(f"{archive}: {len(jars)} jars, {archive.stat().st_size >> 20} MiB")
    return archive


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=PROJECT / ".lab" / "dist")
    parser.add_argument("--pin", action="store_true", help="record the jars' digests as right")
    arguments = parser.parse_args()
    try:
        build(arguments.output, arguments.pin)
    except DistError as error:
        print(f"lab.dist: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
