"""Checks the jars against their pinned digests and packs them into an archive of always the same
bytes. Pure but for the files it reads and writes."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

_EPOCH = 1_577_836_800  # 2020-01-01; any fixed time makes the same bytes


class DistError(Exception):
    """One line: what is wrong with the archive's parts, and what to do."""


def digest(path: Path) -> str:
    """SHA-512 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()


def read_checksums(text: str) -> dict[str, str]:
    """File name -> SHA-512, from sha512sum's format."""
    return {line.split()[1]: line.split()[0] for line in text.splitlines() if line.strip()}


def check(jars: Iterable[Path], expected: Mapping[str, str]) -> None:
    """Refuses jars that are not exactly the pinned ones.

    :raises DistError: naming the jar.
    """
    found = {jar.name: jar for jar in jars}
    for name in sorted(found.keys() - expected.keys()):
        raise DistError(f"{name} is not in checksums.sha512: 'python -m lab.dist --pin' after a look")
    for name in sorted(expected.keys() - found.keys()):
        raise DistError(f"{name} is in checksums.sha512 but Maven did not bring it")
    for name, jar in sorted(found.items()):
        if digest(jar) != expected[name]:
            raise DistError(
                f"{name} has another SHA-512 than the pinned one: a damaged or tampered download; "
                "remove it from the local Maven repository and run again"
            )


def pack(jars: Iterable[Path], top: str, target: Path) -> None:
    """Writes ``top/libs/*.jar`` as a gzipped tar; it appears at *target* when it is complete."""
    temporary = target.with_name(f"{target.name}.new")
    with (
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=_EPOCH) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for folder in (top, f"{top}/libs"):
            archive.addfile(_entry(folder, tarfile.DIRTYPE, 0o755))
        for jar in sorted(jars, key=lambda item: item.name):
            content = jar.read_bytes()
            entry = _entry(f"{top}/libs/{jar.name}", tarfile.REGTYPE, 0o644)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    temporary.replace(target)


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, _EPOCH
    entry.uname = entry.gname = "root"
    return entry
