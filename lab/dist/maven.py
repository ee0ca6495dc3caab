"""Brings the jars that a POM lists: from the local Maven repository, or from where the user's Maven
settings say, by default Maven Central."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Collection
from pathlib import Path

from lab.dist.pack import DistError

# Milliseconds. Maven's own is half an hour; the first is for Maven 3.8, the second since 3.9.
_READ_TIMEOUT = ("-Dmaven.wagon.rto=60000", "-Daether.connector.requestTimeout=60000")


def fetch(
    pom: Path, folder: Path, names: Collection[str], say: Callable[[str], None]
) -> list[Path]:
    """The jars, copied into *folder*.

    :param names: the jars' file names, for the progress that *say* gets while they are downloaded.
    :raises DistError: with the reason that Maven gives.
    """
    command = [
        "mvn", "--batch-mode", "--strict-checksums", "-Dstyle.color=never", *_READ_TIMEOUT,
        f"--file={pom}", f"-Dlibs={folder}", "package",
    ]  # fmt: skip
    try:
        maven = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        raise DistError("mvn is not installed: 'make prerequisites' installs it") from None
    downloaded, lines = 0, []
    with maven:
        try:
            assert maven.stdout is not None
            for line in maven.stdout:
                lines.append(line.rstrip())
                if downloaded_jar(line) in names:
                    downloaded += 1
                    if downloaded % 10 == 0:
                        say(f"{downloaded} of at most {len(names)} jars downloaded")
        except BaseException:
            maven.terminate()
            raise
    if maven.returncode != 0:
        raise DistError(f"Maven could not bring the jars: {reason(lines)}")
    return sorted(folder.glob("*.jar"))


def downloaded_jar(line: str) -> str:
    """The name of the jar whose download this line of Maven's output reports, or ``""``."""
    match = re.search(r"\bDownloaded from \S+: \S*/(\S+\.jar)\b", line)
    return match[1] if match else ""


def reason(lines: list[str]) -> str:
    """The part of Maven's output that says why it failed, in one line."""
    errors = [line.removeprefix("[ERROR]").strip() for line in lines if line.startswith("[ERROR]")]
    text = next(filter(None, errors), "") or next(filter(None, reversed(lines)), "it said nothing")
    text = re.sub(r"\s*-> \[Help \d+\]$", "", text)
    # Maven nests the reasons: what could not be done because of what, down to the artifact.
    start = max(text.rfind("Could not transfer artifact"), text.rfind("Could not find artifact"))
    return text[max(start, 0) :]
