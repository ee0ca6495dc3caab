"""What the controller keeps of each volume: its wrapped recovery key and sealed header backups.

``<folder>/<host>/<volume>/recovery-<epoch>.json`` and ``header-<epoch>.sealed``. Without custody
they open nothing, so they are safe to commit. Epochs never go down.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from roles.common import files
from roles.custody import record_file
from roles.custody.protocol import Custody, KeyContext, WrappedKey
from roles.custody.record_file import HEADER, RECOVERY, Head, RecordError

__all__ = ["Header", "RecordError", "Records", "Recovery"]

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Recovery(NamedTuple):
    epoch: int
    uuid: str
    wrapped: WrappedKey


class Header(NamedTuple):
    epoch: int
    uuid: str
    path: Path


class Records:
    """
    Every method raises `RecordError` when a file is damaged, foreign or cannot be written. The
    purpose of a context that is passed does not matter: each record has its own.

    :param folder: custody_records_dir; made when the first record is put.
    """

    def __init__(self, folder: str | Path, custody: Custody) -> None:
        self._folder = Path(folder)
        self._custody = custody

    def put_recovery(self, context: KeyContext, uuid: str, epoch: int, key: bytes) -> Recovery:
        """Wraps a recovery key and keeps it; on the disk when this returns.

        :param key: exactly what LUKS has as its passphrase (`RecoveryKey.passphrase`).
        :raises CustodyError:
        """
        context = replace(context, purpose=RECOVERY)
        self._refuse_older(context, epoch)
        head = Head(context, uuid, epoch, self._custody.wrap(key, context))
        self._put(head, head.line())
        return Recovery(epoch, uuid, head.wrapped)

    def recoveries(self, context: KeyContext) -> list[Recovery]:
        """Newest first."""
        found = self._heads(replace(context, purpose=RECOVERY))
        return [Recovery(head.epoch, head.uuid, head.wrapped) for _, head in found]

    def put_header(self, context: KeyContext, uuid: str, epoch: int, header: bytes) -> Header:
        """Seals a header backup and keeps it; on the disk when this returns.

        :param header: as ``cryptsetup luksHeaderBackup`` writes it.
        :raises CustodyError:
        """
        context = replace(context, purpose=HEADER)
        self._refuse_older(context, epoch)
        key, wrapped = self._custody.new_key(context)
        head, content = record_file.seal(header, key, Head(context, uuid, epoch, wrapped))
        return Header(epoch, uuid, self._put(head, content))

    def headers(self, context: KeyContext) -> list[Header]:
        """Newest first."""
        found = self._heads(replace(context, purpose=HEADER))
        return [Header(head.epoch, head.uuid, path) for path, head in found]

    def open_header(self, context: KeyContext, path: Path) -> bytes:
        """The header backup in clear, as ``cryptsetup luksHeaderRestore`` takes it.

        :raises CustodyError:
        """
        head, body = record_file.read(path)
        _same(path, head, replace(context, purpose=HEADER))
        return record_file.unseal(
            path, head, body, self._custody.unwrap(head.wrapped, head.context)
        )

    def forget_before(self, context: KeyContext, epoch: int, kind: str = "") -> None:
        """Removes records older than *epoch*: an old header with an old key undoes a rotation.

        Of each kind only when one of that epoch or a newer one is there: the last one never goes.

        :param kind: ``recovery`` or ``header``, when only those.
        """
        for each in (kind,) if kind else (RECOVERY, HEADER):
            found = self._heads(replace(context, purpose=each))
            if found and found[0][1].epoch >= epoch:
                self._remove([path for path, head in found if head.epoch < epoch])

    def forget(self, context: KeyContext) -> None:
        """Removes all records of a volume, for its crypto-erase; does nothing without any."""
        for kind in (RECOVERY, HEADER):
            self._remove([path for path, _ in self._heads(replace(context, purpose=kind))])
        folder = self._volume_folder(context)
        if folder.exists():
            with self._locked(context):
                _sweep(folder)
            with suppress(OSError):
                folder.rmdir()

    def contexts(self, cluster: str) -> list[KeyContext]:
        """Of every volume of the cluster that has a record, with an empty purpose."""
        found = set()
        for path in sorted(self._folder.glob("[!.]*/[!.]*/[!.]*")):
            context = self._checked_head(path).context
            if context.cluster == cluster:
                found.add(replace(context, purpose=""))
        return sorted(found, key=str)

    def rewrap(self, context: KeyContext) -> int:
        """Wraps what is not under the present recipients or KMS key anew; how many those were.

        Each file is replaced at once, so whenever this ends it can be run again.

        :raises CustodyError:
        """
        changed = 0
        for kind in (RECOVERY, HEADER):
            for path, head in self._heads(replace(context, purpose=kind)):
                if self._custody.is_current(head.wrapped):
                    continue
                wrapped = self._custody.rotate(head.wrapped, head.context)
                with self._locked(head.context):
                    present, body = record_file.read(path)
                    if present != head:
                        raise RecordError(f"record {path} was changed meanwhile: run it again")
                    self._write(path, replace(head, wrapped=wrapped).line() + body)
                changed += 1
        return changed

    def is_current(self, context: KeyContext) -> bool:
        """Whether `rewrap` would change nothing; asks nobody."""
        return all(
            self._custody.is_current(head.wrapped)
            for kind in (RECOVERY, HEADER)
            for _, head in self._heads(replace(context, purpose=kind))
        )

    def _volume_folder(self, context: KeyContext) -> Path:
        for part in (context.host, context.volume):
            if not _SAFE.fullmatch(part):
                raise RecordError(f"{part!r} cannot be the name of a record's folder")
        return self._folder / context.host / context.volume

    def _heads(self, context: KeyContext) -> list[tuple[Path, Head]]:
        """Of one kind, newest first."""
        folder = self._volume_folder(context)
        try:
            paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RecordError(f"{folder}: {error.strerror}") from None
        found = []
        for path in paths:
            match = record_file.NAME.fullmatch(path.name)
            if not match:
                raise record_file.damaged(path)
            if (match[1] or match[3]) == context.purpose:
                head = record_file.read_head(path)
                _same(path, head, context)
                found.append((path, head))
        return sorted(found, key=lambda item: item[1].epoch, reverse=True)

    def _checked_head(self, path: Path) -> Head:
        head = record_file.read_head(path)
        if path.parent != self._volume_folder(head.context):
            raise RecordError(
                f"record {path} is of the {head.context}: move it to "
                f"{self._volume_folder(head.context)}"
            )
        return head

    def _refuse_older(self, context: KeyContext, epoch: int) -> None:
        found = self._heads(context)
        if found and epoch < found[0][1].epoch:
            raise RecordError(
                f"epoch {epoch} of the {context} is older than {found[0][0]}: the records or the "
                "volume's header were restored from a backup; see docs/custody.md"
            )

    def _put(self, head: Head, content: bytes) -> Path:
        record_file.check(head)
        path = self._volume_folder(head.context) / head.file_name
        try:
            _make_folders(path.parent)
        except OSError as error:
            raise RecordError(f"{error.filename or path}: {error.strerror}") from None
        with self._locked(head.context):
            self._refuse_older(head.context, head.epoch)
            _sweep(path.parent)
            self._write(path, content)
        return path

    def _write(self, path: Path, content: bytes) -> None:
        try:
            files.write(path, content)
        except OSError as error:
            raise RecordError(f"record {path}: {error.strerror}") from None

    def _remove(self, paths: list[Path]) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
                files.sync_folder(path.parent)
            except OSError as error:
                raise RecordError(f"record {path}: {error.strerror}") from None

    @contextmanager
    def _locked(self, context: KeyContext) -> Iterator[None]:
        """Against another process; nothing inside may wait for a person or a service."""
        folder = self._volume_folder(context)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise RecordError(f"{folder}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            # Said here, as gevent, under which pyinfra runs, closes a folder's descriptor later.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Removes what a killed run left half written; only while the folder is locked."""
    for pattern in (f".{RECOVERY}-*", f".{HEADER}-*"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _same(path: Path, head: Head, context: KeyContext) -> None:
    if head.context != context:
        raise RecordError(
            f"record {path} is of the {head.context}, not of the {context}: move it away and "
            "restore the right one from version control or a backup"
        )


def _make_folders(folder: Path) -> None:
    """Makes it and what is missing above, 0700, on the disk when this returns."""
    missing = [item for item in (folder, *folder.parents) if not item.exists()]
    for item in reversed(missing):
        item.mkdir(mode=0o700, exist_ok=True)
        files.sync_folder(item.parent)
