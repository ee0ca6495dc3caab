"""Writes key and trust stores to a host."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

from pyinfra import host, state
from pyinfra.api.command import QuoteString, StringCommand
from pyinfra.api.operation import operation

from roles.common.operations import (
    Commands,
    attributes_command,
    refuse,
    show_diff,
    showing_changes,
    write_command,
)
from roles.common.plan import Kind, ManagedFile
from roles.common.readings import forget
from roles.tls import authority, stores
from roles.tls.authority import AuthorityError, Keyring
from roles.tls.facts import HostStores
from roles.tls.leaf import LeafError
from roles.tls.plan import (
    Decision,
    HostCertificates,
    StoreWanted,
    decide,
    summary,
    trust_summary,
    wanted_summary,
)
from roles.tls.stores import StorePaths, StoreType

MODE = "640"  # of the service's group, whose only member it is


@operation()
def key_and_trust_stores(
    certificates: HostCertificates,
    wanted: Mapping[str, StoreWanted],
    seen: HostStores,
    keyring: Keyring,
    now: datetime.datetime,
) -> Commands:
    """
    Makes each store hold what it must, deciding from what it holds.

    A new private key is made in memory and travels to the host on the command's own stdin.

    + certificates: whose stores, and who owns the files
    + wanted: by path without ending
    + seen: what the stores hold
    + keyring: opens the authorities' keys when they are needed
    + now: the time that decides what is due
    """
    settings = certificates.settings
    decisions = {base: decide(seen.stores[base], item, now) for base, item in wanted.items()}
    loose = _loose(seen, certificates.owner)
    due = {base: item for base, item in decisions.items() if item.writes}
    if not due and not loose:
        host.noop("keys, certificates and truststores are as wanted")
        return
    forget()
    if showing_changes():
        _show(due, wanted, seen, loose, now)
    for path in loose:
        yield attributes_command(ManagedFile(path, b"", "root", certificates.owner, MODE))
    # From here on authorities' keys are used; a dry run has ended at the first command at latest.
    yield StringCommand(":")
    authorities = authority.load(settings.authority_dir, certificates.cluster)
    for base, decision in due.items():
        item, paths = wanted[base], stores.paths(base, settings.store_type)
        try:
            for path, content in _contents(decision, item, paths, authorities, keyring, now):
                yield write_command(
                    ManagedFile(path, content, "root", certificates.owner, MODE, secret=True)
                )
        except (AuthorityError, LeafError) as error:
            raise refuse(str(error)) from None


@operation()
def other_stores_absent(bases: Sequence[str], store_type: StoreType) -> Commands:
    """
    Removes the files of stores of the kind that is not wanted.

    + bases: paths without ending of the stores that have such files
    + store_type: the kind that is wanted
    """
    if not bases:
        host.noop("there are only stores of the wanted kind")
        return
    forget()
    for base in bases:
        if showing_changes():
            host.log(f"{base}: remove the files that are not {store_type}")
        paths = _other_files(base, store_type)
        yield StringCommand("rm -f", *[QuoteString(path) for path in paths])


def _contents(
    decision: Decision,
    item: StoreWanted,
    paths: StorePaths,
    authorities: authority.Authorities,
    keyring: Keyring,
    now: datetime.datetime,
) -> list[tuple[str, bytes]]:
    """Paths and what to write there, in order: a password is there before what it opens."""
    if decision.issue:
        leaf = keyring.issue(
            item.spec, authorities.current(item.spec.authority, now), item.lifetime, now
        )
        made = stores.build(item.store_type, leaf, item.trusted)
        files = [(paths.truststore, made.truststore), (paths.keystore, made.keystore)]
        return [(paths.password, made.password.encode()), *files] if paths.password else files
    if decision.write_trust:
        return [(paths.truststore, stores.pem_truststore(item.trusted))]
    return []


def _loose(seen: HostStores, owner: str) -> list[str]:
    """Files whose owner or mode is not the one they must have.

    Only regular files: to change the mode of a link is to change that of what it leads to.
    """
    right = (Kind.FILE, "root", owner, MODE)
    for path, item in seen.files.items():
        if item.kind is not Kind.FILE:
            raise refuse(
                f"{path} is a {item.kind.value} where a key or truststore should be: move it away "
                "by hand after a look at it, then run again"
            )
    return [
        path
        for path, item in seen.files.items()
        if (item.kind, item.owner, item.group, item.mode) != right
    ]


def _other_files(base: str, store_type: StoreType) -> tuple[str, ...]:
    other = StoreType.PEM if store_type is StoreType.PKCS12 else StoreType.PKCS12
    return tuple(stores.paths(base, other).all())


def _show(
    due: Mapping[str, Decision],
    wanted: Mapping[str, StoreWanted],
    seen: HostStores,
    loose: list[str],
    now: datetime.datetime,
) -> None:
    for path in loose:
        item = seen.files[path]
        host.log(f"{path}: {item.owner}:{item.group} {item.mode} -> mode {MODE}")
    for base, decision in due.items():
        host.log(f"{base}: {decision}")
        if not state.config.DIFF:
            continue
        if decision.issue:
            old = summary(decision.old) if decision.old else []
            show_diff(base, old, wanted_summary(wanted[base], now))
        if decision.issue or decision.write_trust:
            show_diff(
                f"{base}-trust",
                _trusted_now(seen.stores[base].trust_pem),
                trust_summary(wanted[base].trusted),
            )


def _trusted_now(pem: bytes | None) -> list[str]:
    try:
        return trust_summary(stores.read_pem(pem)) if pem else []
    except stores.StoreError:
        return ["unreadable"]
