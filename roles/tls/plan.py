"""What a host's store needs, decided from the store it has and from nothing kept elsewhere.

Pure: certificates come as PEM, and the private key only as the SHA-256 of its public half.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID

from roles.tls import keys, stores
from roles.tls.leaf import LeafSpec, expiry, key_usage
from roles.tls.settings import TlsSettings
from roles.tls.stores import StoreError, StoreType, fingerprints


class Reason(Enum):
    """Why a store is written again."""

    MISSING = "there is no keystore"
    UNREADABLE = "the keystore cannot be read"
    STORE_TYPE_CHANGED = "the kind of store changes"
    KEY_MISMATCH = "the private key is not the certificate's"
    WRONG_ISSUER = "another authority or generation issued it"
    FOREIGN = "none of the authorities here has issued it"
    CHAIN_CHANGED = "the certificates after the first differ"
    SUBJECT_CHANGED = "the subject changes"
    NAMES_CHANGED = "the names change"
    USAGE_CHANGED = "the usages change"
    KEY_TYPE_CHANGED = "the key type changes"
    EXPIRED = "it has expired"
    NOT_YET_VALID = "it is not valid yet"
    DUE = "its renewal is due"
    FORCED = "a new one was asked for"
    TRUST_MISSING = "there is no readable truststore"
    TRUST_CHANGED = "the trusted authorities change"
    LEFT_OVER = "files of the other kind of store are left"


# These leave the key and its certificate as they are.
_KEEPS_KEY = {Reason.TRUST_MISSING, Reason.TRUST_CHANGED, Reason.LEFT_OVER}


# With these the store cannot be used for a connection now.
_UNUSABLE = {
    Reason.MISSING,
    Reason.UNREADABLE,
    Reason.KEY_MISMATCH,
    Reason.EXPIRED,
    Reason.NOT_YET_VALID,
    Reason.TRUST_MISSING,
}


@dataclass(frozen=True)
class Finding:
    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason.value} ({self.detail})" if self.detail else self.reason.value


@dataclass(frozen=True)
class StoreObservation:
    """What one store on a host holds.

    ``store_type`` is that of the key store, None when there is no key store; ``chain_pem`` its
    certificates, empty when it could not be read; ``key_spki_sha256`` of the private key, empty
    when that could not be read. ``trust_pem`` is None when there is no truststore. ``left_over``:
    files of the kind that ``store_type`` is not lie there as well.
    """

    store_type: StoreType | None = None
    chain_pem: bytes = b""
    key_spki_sha256: str = ""
    trust_type: StoreType | None = None
    trust_pem: bytes | None = None
    left_over: bool = False


@dataclass(frozen=True)
class StoreWanted:
    """What one store must hold.

    ``issuer`` is the authority's current certificate, ``known`` those of all the cluster's
    authorities and their generations, ``trusted`` what the truststore holds.
    """

    spec: LeafSpec
    issuer: x509.Certificate
    known: tuple[x509.Certificate, ...]
    trusted: tuple[x509.Certificate, ...]
    store_type: StoreType
    lifetime: datetime.timedelta
    renew_fraction: float


@dataclass(frozen=True)
class HostCertificates:
    """The stores a host has: path without ending -> what its certificate must say."""

    cluster: str
    settings: TlsSettings
    owner: str
    specs: Mapping[str, LeafSpec]


@dataclass(frozen=True)
class Decision:
    """What to do for one store.

    ``issue``: new key, certificate, truststore and password. ``write_trust``: only the truststore
    (never for PKCS#12, whose password the controller does not know: there it is a new issue).
    ``remove_left_over``: delete the files of the other kind, after the new ones are in place.
    """

    findings: tuple[Finding, ...]
    issue: bool
    write_trust: bool
    remove_left_over: bool
    old: x509.Certificate | None = None

    @property
    def nothing_to_do(self) -> bool:
        return not self.findings

    @property
    def writes(self) -> bool:
        return self.issue or self.write_trust

    @property
    def usable(self) -> bool:
        """Whether a peer would accept the store as it is now, whatever is to be done with it."""
        return not self.reasons & _UNUSABLE

    @property
    def foreign(self) -> bool:
        """Whether this cluster's authorities are perhaps not the ones that were given.

        To replace the store would take the ones that the cluster uses out of its truststores.
        """
        return Reason.FOREIGN in self.reasons

    @property
    def reasons(self) -> frozenset[Reason]:
        return frozenset(finding.reason for finding in self.findings)

    def __str__(self) -> str:
        return ", ".join(str(finding) for finding in self.findings) or "nothing to do"


def decide(
    seen: StoreObservation, wanted: StoreWanted, now: datetime.datetime, *, force: bool = False
) -> Decision:
    """Compares a store with what it must be; *force* renews it even when nothing is wrong."""
    old, findings = _leaf_findings(seen, wanted, now)
    if force and not findings:
        findings.append(Finding(Reason.FORCED))
    findings += _trust_findings(seen, wanted)
    present = {seen.store_type, seen.trust_type} - {None}
    left_over = seen.left_over or bool(present - {wanted.store_type})
    if seen.left_over and Reason.STORE_TYPE_CHANGED not in {f.reason for f in findings}:
        findings.append(Finding(Reason.LEFT_OVER))
    reasons = {finding.reason for finding in findings}
    trust = bool(reasons & {Reason.TRUST_MISSING, Reason.TRUST_CHANGED})
    issue = bool(reasons - _KEEPS_KEY) or (trust and wanted.store_type is StoreType.PKCS12)
    return Decision(tuple(findings), issue, trust and not issue, left_over, old)


def _leaf_findings(
    seen: StoreObservation, wanted: StoreWanted, now: datetime.datetime
) -> tuple[x509.Certificate | None, list[Finding]]:
    if seen.store_type is None:
        return None, [Finding(Reason.MISSING)]
    try:
        leaf, *chain = stores.read_pem(seen.chain_pem)
        findings = list(_differences(leaf, chain, wanted, now))
    # Extensions are parsed when asked for; a certificate that cannot be parsed is no certificate.
    except (StoreError, ValueError, UnsupportedAlgorithm, x509.DuplicateExtension):
        return None, [Finding(Reason.UNREADABLE)]
    if seen.key_spki_sha256 != keys.spki_sha256(leaf):
        detail = "" if seen.key_spki_sha256 else "the key cannot be read"
        findings.insert(0, Finding(Reason.KEY_MISMATCH, detail))
    if seen.store_type is not wanted.store_type:
        detail = f"{seen.store_type} -> {wanted.store_type}"
        findings.insert(0, Finding(Reason.STORE_TYPE_CHANGED, detail))
    return leaf, findings


def _differences(
    leaf: x509.Certificate,
    chain: Sequence[x509.Certificate],
    wanted: StoreWanted,
    now: datetime.datetime,
) -> Iterator[Finding]:
    spec, issuer = wanted.spec, wanted.issuer
    if not any(_signed_by(leaf, item) for item in wanted.known):
        yield Finding(Reason.FOREIGN, leaf.issuer.rfc4514_string())
    elif not _signed_by(leaf, issuer):
        yield Finding(Reason.WRONG_ISSUER, _change(leaf.issuer, issuer.subject))
    if chain:
        yield Finding(Reason.CHAIN_CHANGED, f"{len(chain)} more than wanted")
    if leaf.subject != spec.subject:
        yield Finding(Reason.SUBJECT_CHANGED, _change(leaf.subject, spec.subject))
    have, want = _names(leaf), {_name(item) for item in spec.general_names}
    if have != want:
        yield Finding(Reason.NAMES_CHANGED, _set_change(have, want))
    if _usages(leaf) != set(spec.usages) or not _is_plain_leaf(leaf, spec):
        yield Finding(
            Reason.USAGE_CHANGED,
            f"{_usage_text(_usages(leaf))} -> {_usage_text(set(spec.usages))}",
        )
    key_type = keys.type_of(leaf.public_key())
    if key_type is not spec.key_type:
        yield Finding(Reason.KEY_TYPE_CHANGED, f"{key_type or 'another'} -> {spec.key_type}")
    yield from _time_findings(leaf, wanted, now)


def _time_findings(
    leaf: x509.Certificate, wanted: StoreWanted, now: datetime.datetime
) -> Iterator[Finding]:
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now < start:
        yield Finding(Reason.NOT_YET_VALID, f"from {_time(start)} on")
    if now > end:
        yield Finding(Reason.EXPIRED, _time(end))
        return
    due = end - now < (end - start) * wanted.renew_fraction
    # Near the end of its authority a new certificate would end no later than this one.
    if due and expiry(wanted.issuer, wanted.lifetime, now) > end:
        yield Finding(Reason.DUE, f"{(end - now).days} days left, until {_time(end)}")


def _trust_findings(seen: StoreObservation, wanted: StoreWanted) -> Iterator[Finding]:
    if seen.trust_pem is None or seen.trust_type is not wanted.store_type:
        yield Finding(Reason.TRUST_MISSING)
        return
    try:
        have = stores.read_pem(seen.trust_pem)
    except StoreError:
        yield Finding(Reason.TRUST_MISSING)
        return
    # By fingerprint: PKCS#12 files differ in their salt each time they are written.
    if fingerprints(have) != fingerprints(wanted.trusted):
        before = {certificate.subject.rfc4514_string() for certificate in have}
        after = {certificate.subject.rfc4514_string() for certificate in wanted.trusted}
        detail = _set_change(before, after) if before != after else "same names, other keys"
        yield Finding(Reason.TRUST_CHANGED, detail)


def _signed_by(leaf: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_plain_leaf(leaf: x509.Certificate, spec: LeafSpec) -> bool:
    try:
        basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    # A key of another type is found as such; compare with the usage that fits the key it has.
    own_type = keys.type_of(leaf.public_key()) or spec.key_type
    return not basic.ca and usage == key_usage(own_type)


def _usages(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return set()


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {_name(item) for item in names}


_KINDS: dict[type[x509.GeneralName], str] = {x509.DNSName: "DNS", x509.IPAddress: "IP"}


def _name(item: x509.GeneralName) -> str:
    return f"{_KINDS.get(type(item), type(item).__name__)}:{item.value}"


_USAGE_NAMES = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
}


def _usage_text(usages: set[x509.ObjectIdentifier]) -> str:
    names = (_USAGE_NAMES.get(usage, usage.dotted_string) for usage in usages)
    return "+".join(sorted(names, reverse=True)) or "none"


def _change(before: x509.Name, after: x509.Name) -> str:
    return f"{before.rfc4514_string()} -> {after.rfc4514_string()}"


def _set_change(before: set[str], after: set[str]) -> str:
    signs = [f"+{item}" for item in sorted(after - before)]
    signs += [f"-{item}" for item in sorted(before - after)]
    return " ".join(signs)


def _time(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def summary(certificate: x509.Certificate) -> list[str]:
    """Lines for a diff: subject, issuer, serial, names, usages, key, expiry, fingerprint."""
    return [
        f"subject {certificate.subject.rfc4514_string()}",
        f"issuer {certificate.issuer.rfc4514_string()}",
        f"names {_lazy(lambda: ' '.join(sorted(_names(certificate))) or 'none')}",
        f"usages {_lazy(lambda: _usage_text(_usages(certificate)))}",
        f"key {_lazy(lambda: keys.type_of(certificate.public_key()) or 'another type')}",
        f"expires {_time(certificate.not_valid_after_utc)}",
        f"serial {certificate.serial_number:040x}",
        f"sha256 {stores.fingerprint(certificate)}",
    ]


def wanted_summary(wanted: StoreWanted, now: datetime.datetime) -> list[str]:
    """The same lines for the certificate that would be issued now; it has no serial yet."""
    spec = wanted.spec
    return [
        f"subject {spec.subject.rfc4514_string()}",
        f"issuer {wanted.issuer.subject.rfc4514_string()}",
        f"names {' '.join(sorted(_name(item) for item in spec.general_names)) or 'none'}",
        f"usages {_usage_text(set(spec.usages))}",
        f"key {spec.key_type}",
        f"expires {_time(expiry(wanted.issuer, wanted.lifetime, now))}",
        "serial (new)",
        "sha256 (new)",
    ]


def trust_summary(certificates: Sequence[x509.Certificate]) -> list[str]:
    """One line for each trusted authority, sorted."""
    return sorted(
        f"trusts {item.subject.rfc4514_string()} until {_time(item.not_valid_after_utc)} "
        f"sha256 {stores.fingerprint(item)}"
        for item in certificates
    )


def _lazy(text: Callable[[], str]) -> str:
    # A summary is for reading: it shows even a certificate whose extensions are broken.
    try:
        return text()
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension):
        return "unreadable"
