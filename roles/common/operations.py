"""Operations that every role uses: managed files and folders, accounts, archives, the barrier."""

from __future__ import annotations

import base64
import difflib
import secrets
import shlex
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from gevent.lock import RLock
from pyinfra import host, logger, state
from pyinfra.api.command import (
    FileUploadCommand,
    FunctionCommand,
    QuoteString,
    StringCommand,
)
from pyinfra.api.exceptions import OperationError
from pyinfra.api.operation import operation
from pyinfra.api.output import format_text

from roles.common.archive import DIST_DIR, Archive, ArchiveError, check_local
from roles.common.facts import HostBaseState, PathStates, TextContents
from roles.common.plan import (
    Kind,
    ManagedDirectory,
    ManagedFile,
    Observed,
    PlanError,
    Step,
    plan_paths,
)
from roles.common.readings import forget, recall, remember
from roles.common.redact import mask

T = TypeVar("T")
Commands = Generator[StringCommand | FunctionCommand | FileUploadCommand, None, None]


def refuse(reason: str) -> OperationError:
    """An error that stops the whole run, naming the host."""
    return OperationError(f"{host.name}: {reason}")


def known(value: T | None, what: str) -> T:
    """The value of a fact, or an error: unknown is not absent."""
    if value is None:
        raise refuse(f"{what} could not be read, so nothing was changed here; see the error above")
    return value


def showing_changes() -> bool:
    """Whether this pass tells the operator what changes: prepare, or with ``-y`` the run itself."""
    return not state.is_executing or not bool(state.should_check_for_changes())  # type: ignore[no-untyped-call]


def write_command(file: ManagedFile) -> StringCommand:
    """Writes a file so that it is never readable by anyone else and never half there.

    The content travels on the command's own stdin; the new file has its owner and mode before it
    takes the place of the old one. On a full disk, or when the connection ends before all has
    come, the old file stays as it was.

    A file of a service lies in a folder that the service can write to, so it is written with the
    service's rights: root would follow any link that is put in its way there.
    """
    temporary = f"{file.path}.strongbox-new"
    new, final = QuoteString(temporary), QuoteString(file.path)
    owner = QuoteString(f"{file.owner}:{file.group}")
    script = StringCommand(
        "umask 077 && rm -f", new, "&& { base64 -d >", new,
        '&& [ "$(stat -c %s', new, f')" = {len(file.content)} ]',
        *(("&& chown", owner, new) if file.owner == "root" else ()),
        "&& chmod", file.mode, new, "&& sync", new, "&& mv -fT", new, final,
        "|| { rm -f", new, "; exit 1; }; }",
    )  # fmt: skip
    return _as_owner(file, script, base64.b64encode(file.content).decode())


def _as_owner(item: ManagedFile, script: StringCommand, stdin: str) -> StringCommand:
    if item.owner == "root":
        return StringCommand(script, _stdin=stdin)
    return StringCommand(
        "setpriv",
        QuoteString(f"--reuid={item.owner}"),
        QuoteString(f"--regid={item.group}"),
        "--clear-groups -- sh -c",
        QuoteString(script),
        _stdin=stdin,
    )


def directory_command(directory: ManagedDirectory) -> StringCommand:
    """Makes a folder; those above it are there before, and belong to root."""
    path = QuoteString(directory.path)
    return StringCommand(
        "umask 077 && mkdir", path,
        "&& chown -h", QuoteString(f"{directory.owner}:{directory.group}"), path,
        "&& chmod", f"0{directory.mode}", path,
    )  # fmt: skip


def attributes_command(item: ManagedFile | ManagedDirectory) -> StringCommand:
    """Gives owner and mode to what lies in a folder of root's; see `write_command`."""
    path = QuoteString(item.path)
    return StringCommand(
        "chown -h", QuoteString(f"{item.owner}:{item.group}"), path,
        "&& chmod", f"0{item.mode}", path,
    )  # fmt: skip


def show_diff(path: str, old: list[str], new: list[str]) -> None:
    for line in difflib.unified_diff(old, new, f"{path} (now)", f"{path} (wanted)", lineterm=""):
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        logger.info(f"{host.print_prefix}{format_text(line, colour) if colour else line}")


def _describe(steps: list[Step], files: dict[str, ManagedFile]) -> None:
    for step in steps:
        host.log(f"{step.path}: {step.reason}")
    if not state.config.DIFF:
        return
    changed = [files[step.path] for step in steps if step.write and step.path in files]
    present = [step.path for step in steps if step.write and step.reason != "create"]
    readable = [file.path for file in changed if not file.secret and file.path in present]
    old = host.get_fact(TextContents, paths=readable) if readable else {}
    for file in changed:
        if file.secret:
            logger.info(f"{host.print_prefix}{file.path}: secret content differs (not shown)")
            continue
        new = mask(file.content).decode(errors="replace").splitlines()
        show_diff(file.path, known(old, file.path).get(file.path, []), new)


_PATHS = "paths"


def _just_read(paths: Sequence[str]) -> dict[str, Observed] | None:
    """What `host_base` read of these paths moments ago, None when it did not read all of them."""
    seen: dict[str, Observed] = recall(_PATHS) or {}
    return {path: seen[path] for path in paths} if seen.keys() >= set(paths) else None


def observed(paths: Sequence[str]) -> dict[str, Observed]:
    """What lies at these paths; asks the host only when `host_base` did not just do so."""
    read = _just_read(paths)
    if read is None:
        read = known(host.get_fact(PathStates, paths=list(paths)), ", ".join(paths[:3]))
    return read


@operation()
def managed_paths(
    wanted: Sequence[ManagedDirectory | ManagedFile], after: Sequence[str] = ()
) -> Commands:
    """
    Makes files and folders exactly as wanted: content, owner, group and mode.

    + wanted: folders before the files in them
    + after: commands that run when anything was changed, such as ``systemctl daemon-reload``
    """
    paths = [item.path for item in wanted]
    read = _just_read(paths)
    try:
        steps = plan_paths(wanted, read) if read is not None else None
        if steps != []:
            read = known(host.get_fact(PathStates, paths=paths), ", ".join(paths[:3]))
            steps = plan_paths(wanted, read)
    except PlanError as error:
        raise refuse(str(error)) from None
    if not steps:
        host.noop("files and folders are as wanted")
        return
    forget()
    by_path = {item.path: item for item in wanted}
    if showing_changes():
        files = {item.path: item for item in wanted if isinstance(item, ManagedFile)}
        _describe(steps, files)
    for step in steps:
        item = by_path[step.path]
        if isinstance(item, ManagedFile):
            rewrite = step.write or item.owner != "root"
            yield write_command(item) if rewrite else attributes_command(item)
        else:
            yield directory_command(item) if step.write else attributes_command(item)
    for command in after:
        yield StringCommand(command)


@operation()
def host_base(
    packages: Sequence[str], accounts: Sequence[str], paths: Sequence[str] = ()
) -> Commands:
    """
    Installs missing Debian packages and makes locked system accounts for the services.

    + packages: package names
    + accounts: user names, each with a group of the same name, no shell and no home
    + paths: what later operations will look at; read with the same command, for them to skip
    """
    seen = known(
        host.get_fact(HostBaseState, packages=packages, accounts=accounts, paths=paths),
        "installed packages",
    )
    remember(_PATHS, seen.paths)
    missing = seen.missing_packages
    absent = [account for account in accounts if account not in seen.accounts]
    if not missing and not absent:
        host.noop("packages and accounts are there")
        return
    forget()
    if missing:
        if showing_changes():
            host.log(f"install {' '.join(missing)}")
        names = " ".join(shlex.quote(name) for name in missing)
        yield StringCommand(
            f"export DEBIAN_FRONTEND=noninteractive; apt-get install -y --no-install-recommends "
            f"-- {names} || {{ apt-get update && "
            f"apt-get install -y --no-install-recommends -- {names}; }}"
        )
    for account in absent:
        if showing_changes():
            host.log(f"make system account {account}")
        yield StringCommand(
            "useradd --system --user-group --no-create-home --home-dir /nonexistent "
            f"--shell /usr/sbin/nologin {account}"
        )


def lock_lost(of: Any) -> bool:
    """Whether the process that holds the host's lock for this run has ended."""
    lock = getattr(of.connector, "strongbox_lock", None)
    return lock is not None and (lock.closed or lock.exit_status_ready())


def stop_run(state: Any, host: Any, why: str) -> bool:
    """For FunctionCommand: says why and fails the operation on this host.

    pyinfra passes the first two only to functions whose arguments have these names.
    """
    host.log(why, logger.error)
    return False


@operation()
def barrier(label: str) -> Commands:
    """
    Keeps every host here until all have arrived, and stops all of them when one has failed.

    pyinfra otherwise interleaves the operations of different groups.

    + label: what has been reached, for the message
    """
    failed = sorted(item.name for item in state.failed_hosts)
    why = ""
    if lock_lost(host):
        why = (
            f"this run's lock on {host.name} is gone, so another may be at work here: look for it, "
            "then run again"
        )
    elif failed:
        why = f"{', '.join(failed)} failed"
    if state.is_executing and why:
        yield FunctionCommand(stop_run, (f"stopped before {label!r}: {why}",), {})
    else:
        host.noop(f"barrier {label!r} open")


def once(key: str, compute: Callable[[], T]) -> T:
    """Computes a value that must be the same for every host of a run, once.

    Deploy code runs in one greenlet for each host; the first to come computes, the others wait.
    """
    shared: dict[str, Any] = state.__dict__.setdefault("_strongbox_shared", {})
    locks: dict[str, RLock] = state.__dict__.setdefault("_strongbox_locks", {})
    with locks.setdefault(key, RLock()):
        if key not in shared:
            shared[key] = compute()
    value: T = shared[key]
    return value


_UNPACK = """\
set -eu; umask 022
mkdir -p {base}; rm -rf {base}/.incoming.*
work=$(mktemp -d {base}/.incoming.XXXXXX); trap 'rm -rf "$work" {upload}' EXIT
{fetch}
echo '{sha512}  '"$work/archive" | sha512sum --check --quiet - || {{ \
echo 'SHA-512 is not the expected one: nothing was installed' >&2; exit 1; }}
mkdir "$work/dist"
tar --extract --gzip --no-same-owner --no-same-permissions --strip-components=1 \
--directory "$work/dist" --file "$work/archive"
test -d "$work/dist/libs" || {{ echo 'the archive has no libs/ folder' >&2; exit 1; }}
chmod 755 "$work/dist"; sync -f "$work/dist"
mv -T "$work/dist" {target}"""


@operation()
def installed_archive(archive: Archive) -> Commands:
    """
    Unpacks a software archive into a folder named by its digest; a wrong digest installs nothing.

    + archive: local path or URL, and the SHA-512 expected of it
    """
    libs = archive.libs
    seen = _just_read([libs]) or {}
    if libs not in seen or seen[libs].kind is not Kind.DIRECTORY:
        seen = known(host.get_fact(PathStates, paths=[libs]), libs)
    # The folder appears by one rename after the digest was checked, so being there is being whole.
    if seen[libs].kind is Kind.DIRECTORY:
        host.noop(f"{archive.directory} is installed")
        return
    if not archive.is_url:
        try:
            once(f"digest of {archive.source}", lambda: check_local(archive))
        except ArchiveError as error:
            raise refuse(str(error)) from None
    if showing_changes():
        host.log(f"install {archive.source} into {archive.directory}")
    forget()
    # A random name, and root checks the digest of its own copy: nobody can swap it in between.
    upload = f"/tmp/strongbox-{secrets.token_hex(8)}"  # noqa: S108
    if archive.is_url:
        url = shlex.quote(archive.source)
        # Redirects too stay on https.
        options = "--proto =https --fail --silent --show-error --location"
        fetch = f'curl {options} -o "$work/archive" {url}'
    else:
        yield FileUploadCommand(archive.source, upload)
        fetch = f'cp --no-preserve=all {upload} "$work/archive"; rm -f {upload}'
    script = _UNPACK.format(
        base=DIST_DIR, upload=upload, fetch=fetch, sha512=archive.sha512, target=archive.directory
    )
    yield StringCommand(script)
