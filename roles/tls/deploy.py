"""Gives every store of a host the key, certificate and trusted authorities it must have."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyinfra import host, inventory
from pyinfra.api.exceptions import PyinfraError

from roles.common.operations import known, once
from roles.common.session import options
from roles.tls import authority, passphrase
from roles.tls.authority import AuthorityError, Keyring
from roles.tls.facts import HostStores, StoresState
from roles.tls.leaf import LeafError
from roles.tls.operations import key_and_trust_stores, other_stores_absent
from roles.tls.passphrase import Passphrase, PassphraseError
from roles.tls.plan import Decision, HostCertificates, StoreWanted, decide
from roles.tls.settings import TlsSettings


class CertificateError(PyinfraError):
    """An authority that cannot be used; the message says what to do."""


def wanted_stores(certificates: HostCertificates, now: datetime.datetime) -> dict[str, StoreWanted]:
    """What each store must hold, from the authorities on this machine; needs no passphrase.

    :raises CertificateError: when an authority is missing, damaged or expired.
    """
    settings = certificates.settings
    try:
        authorities = authority.load(settings.authority_dir, certificates.cluster)
        return {
            base: StoreWanted(
                spec=spec,
                issuer=authorities.current(spec.authority, now).certificate,
                known=authorities.known(),
                trusted=authorities.trusted(spec.authority, now),
                store_type=settings.store_type,
                lifetime=datetime.timedelta(days=settings.leaf_days),
                renew_fraction=settings.renew_fraction,
            )
            for base, spec in certificates.specs.items()
        }
    except AuthorityError as error:
        raise CertificateError(str(error)) from None


def _now() -> datetime.datetime:
    return once("now", lambda: datetime.datetime.now(datetime.UTC))


@dataclass(frozen=True)
class Reading:
    """A host's stores as they were before the run changed any, and what is to be done with them."""

    seen: HostStores
    decisions: Mapping[str, Decision]


def _decide(name: str, certificates: HostCertificates) -> Reading:
    seen = known(
        inventory.get_host(name).get_fact(
            StoresState,
            bases=list(certificates.specs),
            store_type=str(certificates.settings.store_type),
        ),
        f"the key stores on {name}",
    )
    wanted = wanted_stores(certificates, _now())
    return Reading(
        seen, {base: decide(seen.stores[base], item, _now()) for base, item in wanted.items()}
    )


def reading(name: str, certificates: HostCertificates) -> Reading:
    """The stores of the host of that name; read once in a run, as nobody else may write them."""
    return once(f"stores of {name}", lambda: _decide(name, certificates))


def stores_due(name: str, certificates: HostCertificates) -> bool:
    """Whether this run writes new stores on the host of that name."""
    return any(item.writes for item in reading(name, certificates).decisions.values())


def stores_usable(name: str, certificates: HostCertificates) -> bool:
    """Whether the host of that name can use its stores for connections now, before this run."""
    return all(item.usable for item in reading(name, certificates).decisions.values())


def distribute_stores(certificates: HostCertificates) -> None:
    """Writes what is missing, wrong or due.

    An authority's key is opened before anything is changed on any host, and only when a certificate
    must be issued: a run that changes nothing, and a dry run, need no passphrase.
    """
    keyring = once("keyring", lambda: Keyring(_reader(certificates.settings)))
    wanted = wanted_stores(certificates, _now())
    found = reading(host.name, certificates)
    _refuse_foreign(certificates, found.decisions)
    if not options().dry:
        _open_keys(certificates, found.decisions, wanted, keyring)
    key_and_trust_stores(
        name="TLS: keys, certificates and truststores",
        certificates=certificates,
        wanted=wanted,
        seen=found.seen,
        keyring=keyring,
        now=_now(),
    )


def remove_old_stores(certificates: HostCertificates) -> None:
    """Removes stores of the kind that is no longer wanted; called when nothing uses them any more.

    A process that still runs with the old ones reads them again whenever it reconnects.
    """
    found = reading(host.name, certificates).decisions
    other_stores_absent(
        name="TLS: remove stores of the other kind",
        bases=[base for base, item in found.items() if item.remove_left_over],
        store_type=certificates.settings.store_type,
    )


def _refuse_foreign(certificates: HostCertificates, due: Mapping[str, Decision]) -> None:
    for base, decision in due.items():
        if decision.foreign and decision.old:
            folder = authority.folder_of(certificates.settings.authority_dir, certificates.cluster)
            raise CertificateError(
                f"{host.name}: the certificate in {base} was issued by "
                f"{decision.old.issuer.rfc4514_string()}, which is none of the authorities in "
                f"{folder}: put the ones of this cluster there. If this host shall leave another "
                f"cluster for this one, remove {base}* there first. Nothing was changed on any host"
            )


def _reader(settings: TlsSettings) -> Callable[[], Passphrase]:
    return lambda: passphrase.read(settings.passphrase_source)


def _open_keys(
    certificates: HostCertificates,
    due: Mapping[str, Decision],
    wanted: Mapping[str, StoreWanted],
    keyring: Keyring,
) -> None:
    authorities = authority.load(certificates.settings.authority_dir, certificates.cluster)
    try:
        for base, decision in due.items():
            if decision.issue:
                keyring.key(authorities.current(wanted[base].spec.authority, _now()))
    except (AuthorityError, PassphraseError, LeafError) as error:
        raise CertificateError(f"{error}; nothing was changed on any host") from None
