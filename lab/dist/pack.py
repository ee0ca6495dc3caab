"""Checks the jars against their pinned digests and packs them into an archive of always the same
bytes. Pure but for the files it reads and writes."""

from __future__ import annotations

import hashlib
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

_TIME = 1_577_836_800  # 2020-01-01; any fixed time makes the same bytes
_LINE = re.compile(r"([0-9a-f]{128})  ([^/\s]+)")
_MAVEN = "{http://maven.apache.org/POM/4.0.0}"
_BLOCK = 0xFFFF  # the longest stored block of deflate (RFC 1951, 3.2.4)


class DistError(Exception):
    """One line: what is wrong with the archive or its parts, and what to do."""


def digest(path: Path) -> str:
    """SHA-512 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()


def read_checksums(text: str) -> dict[str, str]:
    """File name -> SHA-512, from sha512sum's format.

    :raises DistError: for any other line, and for a name that comes twice.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in found:
            raise DistError(f"line {number} of the checksums is not a SHA-512 and a new file name")
        found[match[2]] = match[1]
    return found


def write_checksums(digests: Mapping[str, str]) -> str:
    """What :func:`read_checksums` reads, ordered by name."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))


def wanted_jars(pom: str) -> list[str]:
    """The file names of a POM's dependencies, in order.

    :raises DistError: for a dependency that does not say its version, or that a version's property
        is missing.
    """
    project = ElementTree.fromstring(pom)
    properties = {
        entry.tag.removeprefix(_MAVEN): entry.text or ""
        for entry in project.iterfind(f"{_MAVEN}properties/*")
    }
    names = []
    for dependency in project.iterfind(f"{_MAVEN}dependencies/{_MAVEN}dependency"):
        artifact, version, classifier = (
            re.sub(
                r"\$\{([^}]+)\}",
                lambda reference: properties.get(reference[1], ""),
                dependency.findtext(_MAVEN + part, ""),
            )
            for part in ("artifactId", "version", "classifier")
        )
        if not version:
            raise DistError(f"pom.xml gives {artifact} no version")
        names.append("-".join(filter(None, (artifact, version, classifier))) + ".jar")
    return sorted(names)


def check_names(wanted: Iterable[str], pinned: Iterable[str]) -> None:
    """Refuses a POM and checksums that do not list the same jars.

    :raises DistError: naming the jar.
    """
    jars, pins = set(wanted), {name for name in pinned if name.endswith(".jar")}
    for name in sorted(jars - pins):
        raise DistError(
            f"{name} is in pom.xml but has no digest in checksums.sha512: run "
            "'python -m lab.dist --pin', then look at what changed in that file"
        )
    for name in sorted(pins - jars):
        raise DistError(
            f"{name} is in checksums.sha512 but not in pom.xml: run 'python -m lab.dist --pin', "
            "then look at what changed in that file"
        )


def check(jars: Iterable[Path], pins: Mapping[str, str]) -> None:
    """Refuses jars that are not exactly the pinned ones.

    :raises DistError: naming the jar.
    """
    found = {jar.name: jar for jar in jars}
    pinned = {name for name in pins if name.endswith(".jar")}
    for name in sorted(found.keys() - pinned):
        raise DistError(f"{name} came along, but has no digest in checksums.sha512")
    for name in sorted(pinned - found.keys()):
        raise DistError(f"{name} has a digest in checksums.sha512, but Maven did not bring it")
    for name, jar in sorted(found.items()):
        actual = digest(jar)
        if actual != pins[name]:
            raise DistError(
                f"{name} is damaged or was tampered with: its SHA-512 is {actual[:16]}…, pinned is "
                f"{pins[name][:16]}…. Delete {name} from the local Maven repository "
                "(~/.m2/repository) and run again"
            )


def pack(jars: Iterable[Path], top: str, target: Path) -> None:
    """Writes ``top/libs/*.jar`` as a gzipped tar; it appears at *target* when it is complete.

    Kafka's own LICENSE and NOTICE, which its jars carry, lie beside ``libs/`` as in Apache's.
    """
    temporary = target.with_name(f"{target.name}.new")
    with temporary.open("wb") as file:
        for piece in gzipped(_tar(sorted(jars, key=lambda jar: jar.name), top)):
            file.write(piece)
    temporary.replace(target)


def _tar(jars: Iterable[Path], top: str) -> Iterator[bytes]:
    """A tar file (ustar): owner root, modes and times that are always the same."""
    yield _header(f"{top}/", 0)
    for name, content in _notices(jars, f"{top}.jar").items():
        yield from (_header(f"{top}/{name}", len(content)), content, bytes(-len(content) % 512))
    yield _header(f"{top}/libs/", 0)
    for jar in jars:
        content = jar.read_bytes()
        yield from (_header(f"{top}/libs/{jar.name}", len(content)), content)
        yield bytes(-len(content) % 512)
    yield bytes(1024)


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    folder = name.endswith("/")
    entry.type, entry.mode = (tarfile.DIRTYPE, 0o755) if folder else (tarfile.REGTYPE, 0o644)
    entry.size, entry.mtime = size, _TIME
    entry.uname = entry.gname = "root"
    return entry.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _notices(jars: Iterable[Path], name: str) -> dict[str, bytes]:
    for jar in jars:
        if jar.name == name:
            with zipfile.ZipFile(jar) as content:
                present = content.namelist()
                return {
                    part: content.read(part) for part in ("LICENSE", "NOTICE") if part in present
                }
    return {}


def gzipped(content: Iterable[bytes]) -> Iterator[bytes]:
    """A gzip file of *content* that compresses nothing (RFC 1951 and 1952).

    Jars are compressed already: this costs 6 % in size. In return the bytes don't depend on the
    zlib that this Python has, and they do differ between zlib, its forks and versions.
    """
    yield b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # deflate, no name, no time, any system
    crc = size = 0
    for piece in content:
        crc, size = zlib.crc32(piece, crc), size + len(piece)
        for start in range(0, len(piece), _BLOCK):
            yield _block(piece[start : start + _BLOCK], last=False)
    yield _block(b"", last=True) + struct.pack("<II", crc, size & 0xFFFFFFFF)


def _block(content: bytes, *, last: bool) -> bytes:
    return struct.pack("<BHH", last, len(content), len(content) ^ 0xFFFF) + content
