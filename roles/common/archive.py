"""Software archives: where they come from and how their SHA-512 is established.

Pure: no pyinfra, no host.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

DIST_DIR = "/opt/strongbox/dist"
_HEX = re.compile(r"[0-9a-f]{128}")


class ArchiveError(ValueError):
    """An archive or digest that cannot be used."""


def is_url(source: str) -> bool:
    return "://" in source


def check_source(source: str) -> str:
    """A validator of a setting that names an archive; no message shows a URL, as it may hold a
    password.

    The digest would find what is altered on the way over http, but only after root's curl has
    talked to whoever answered; and there is always the path on the controller.

    :raises ValueError: with the remedy.
    """
    if not source or re.search(r"\s", source) or not source.isprintable():
        raise ValueError("must be a path or URL without blanks")
    if not is_url(source):
        return source
    fetch = "fetch the archive to the controller and give its path"
    try:
        url = urlsplit(source)
        host = url.hostname if url.port is None or url.port else None
    except ValueError:
        host = None
    if not source.startswith("https://") or not host:
        raise ValueError(f"must be a URL that starts with https://HOST/, or a path: {fetch}")
    if "@" in url.netloc:
        raise ValueError(
            "has a user or password in the URL, which every user of the hosts could read in the "
            f"arguments of curl: {fetch}"
        )
    if "?" in source or "#" in source:
        raise ValueError(
            "has a query or fragment in the URL; it may hold a token, which every user of the "
            f"hosts could read in the arguments of curl: {fetch}"
        )
    return source


def check_digest(text: str) -> str:
    """A validator of the setting beside it, which `resolve` reads.

    :raises ValueError: with the remedy.
    """
    if not text or re.search(r"\s", text):
        raise ValueError("must be 128 hex digits or a path without blanks")
    return text


@dataclass(frozen=True)
class Archive:
    """A gzipped tar file with one top folder that holds ``libs/``."""

    source: str
    sha512: str

    @property
    def is_url(self) -> bool:
        return is_url(self.source)

    @property
    def directory(self) -> str:
        """Where it lies on a host. The digest in the name makes each build a folder of its own."""
        return f"{DIST_DIR}/{self.sha512[:16]}"

    @property
    def libs(self) -> str:
        """There once the archive is installed."""
        return f"{self.directory}/libs"


def parse_sha512(text: str, where: str) -> str:
    """The digest in *text*: bare hex, ``sha512sum`` output, or the ``gpg --print-md`` format
    that Apache publishes (``name: D78ABB05 42736865 …`` over several lines).

    :raises ArchiveError: when there is not exactly one SHA-512 in it.
    """
    candidates = {text.strip().lower()}
    candidates.add(text.strip().split(maxsplit=1)[0].lower() if text.strip() else "")
    if ":" in text:
        candidates.add(re.sub(r"\s", "", text.split(":", 1)[1]).lower())
    found = [candidate for candidate in candidates if _HEX.fullmatch(candidate)]
    if len(found) != 1:
        raise ArchiveError(
            f"{where}: no SHA-512 in it (128 hex digits, sha512sum's or Apache's .sha512 format)"
        )
    return found[0]


def resolve(source: str, sha512: str | None) -> Archive:
    """The archive with its digest: given, in the file named, or beside a local archive.

    :raises ArchiveError: with the remedy, when archive or digest cannot be found.
    """
    if not is_url(source) and not Path(source).is_file():
        raise ArchiveError(f"{source} does not exist on this machine: correct the path")
    if sha512 is None:
        beside = Path(f"{source}.sha512")
        if is_url(source) or not beside.is_file():
            raise ArchiveError(
                f"{source} has no digest: give its SHA-512"
                + ("" if is_url(source) else f", or put {beside.name} beside it")
            )
        sha512 = str(beside)
    if _HEX.fullmatch(sha512.strip().lower()):
        return Archive(source, sha512.strip().lower())
    file = Path(sha512)
    if not file.is_file():
        raise ArchiveError(f"{sha512!r} is neither a SHA-512 (128 hex digits) nor a file with one")
    try:
        text = file.read_text(errors="replace")
    except OSError as error:
        raise ArchiveError(f"{file}: {error.strerror}") from None
    return Archive(source, parse_sha512(text, str(file)))


def check_local(archive: Archive) -> None:
    """Refuses a local archive whose bytes are not the ones expected.

    :raises ArchiveError: naming both digests.
    """
    with Path(archive.source).open("rb") as file:
        actual = hashlib.file_digest(file, "sha512").hexdigest()
    if actual != archive.sha512:
        raise ArchiveError(
            f"archive {archive.source} has SHA-512 {actual[:16]}…, expected "
            f"{archive.sha512[:16]}…: fetch it again or correct the digest; nothing was installed"
        )
