"""What a store needs: each reason by a store that has just that fault, and that plans converge."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field, replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.tls import keys, leaf, stores
from roles.tls.authority import Authority
from roles.tls.keys import KeyType, PrivateKey
from roles.tls.leaf import Leaf, LeafSpec
from roles.tls.names import AuthorityName
from roles.tls.plan import (
    Decision,
    Reason,
    StoreObservation,
    StoreWanted,
    decide,
    summary,
    trust_summary,
    wanted_summary,
)
from roles.tls.stores import StoreError, StoreType

from .tls_support import CLUSTER, NOW, YEAR, canary, make_authority, pem

DAY = datetime.timedelta(days=1)
FIRST, FIRST_KEY = make_authority(AuthorityName.CLUSTER, 1)
SECOND, SECOND_KEY = make_authority(AuthorityName.CLUSTER, 2)
# The same subject as the first, made a second time: only the signature tells.
AGAIN, AGAIN_KEY = make_authority(AuthorityName.CLUSTER, 1)
ENDING, ENDING_KEY = make_authority(AuthorityName.CLUSTER, 1, days=40)
SPEC = leaf.broker_internal(CLUSTER, "kafka1", ["10.0.0.1"])
WANTED = StoreWanted(
    SPEC,
    FIRST.certificate,
    (FIRST.certificate,),
    (FIRST.certificate,),
    StoreType.PEM,
    YEAR,
    1 / 3,
)


def issue(
    spec: LeafSpec = SPEC,
    issuer: x509.Certificate = FIRST.certificate,
    key: PrivateKey = FIRST_KEY,
    now: datetime.datetime = NOW,
    lifetime: datetime.timedelta = YEAR,
) -> Leaf:
    return leaf.issue(spec, issuer, key, lifetime, now)


def observe(
    made: Leaf, *trusted: x509.Certificate, store_type: StoreType = StoreType.PEM
) -> StoreObservation:
    return StoreObservation(
        store_type,
        pem(made.certificate),
        keys.spki_sha256(made.key),
        store_type,
        pem(*(trusted or (FIRST.certificate,))),
    )


GOOD = issue()


def reasons(
    seen: StoreObservation, wanted: StoreWanted = WANTED, now: datetime.datetime = NOW
) -> set[Reason]:
    return set(decide(seen, wanted, now).reasons)


def test_a_good_store_is_left_alone() -> None:
    decision = decide(observe(GOOD), WANTED, NOW)
    assert decision.nothing_to_do
    assert (decision.issue, decision.write_trust, decision.remove_left_over) == (False,) * 3
    assert str(decision) == "nothing to do"


def test_an_empty_host_gets_everything() -> None:
    decision = decide(StoreObservation(), WANTED, NOW)
    assert decision.reasons == {Reason.MISSING, Reason.TRUST_MISSING}
    assert decision.issue and not decision.write_trust and not decision.remove_left_over


@pytest.mark.parametrize(
    "chain", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_unreadable(chain: bytes) -> None:
    assert reasons(replace(observe(GOOD), chain_pem=chain)) == {Reason.UNREADABLE}


def test_a_certificate_with_unparsable_names_is_unreadable() -> None:
    made = issue()
    builder = x509.CertificateBuilder(
        SPEC.subject, SPEC.subject, made.key.public_key(), 7, NOW, NOW + DAY
    ).add_extension(
        x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x05broken"), False
    )
    broken = builder.sign(made.key, hashes.SHA256())
    seen = replace(observe(made), chain_pem=pem(broken))
    assert reasons(seen) == {Reason.UNREADABLE}
    assert any("unreadable" in line for line in summary(broken))


def test_key_of_another_certificate() -> None:
    seen = replace(observe(GOOD), key_spki_sha256=keys.spki_sha256(issue().key))
    assert reasons(seen) == {Reason.KEY_MISMATCH}
    assert decide(seen, WANTED, NOW).issue


def test_unreadable_key() -> None:
    decision = decide(replace(observe(GOOD), key_spki_sha256=""), WANTED, NOW)
    assert decision.reasons == {Reason.KEY_MISMATCH}
    assert "the key cannot be read" in str(decision)


def test_older_generation() -> None:
    known = (FIRST.certificate, SECOND.certificate)
    wanted = replace(WANTED, issuer=SECOND.certificate, known=known)
    decision = decide(observe(GOOD), wanted, NOW)
    assert decision.reasons == {Reason.WRONG_ISSUER}
    assert "CA g1,O=payments -> CN=payments cluster CA g2" in str(decision)
    assert not decision.foreign


def test_an_authority_that_is_not_here() -> None:
    """Its name may be the same: authorities made anew for a cluster that has some."""
    for known in ((FIRST.certificate,), (FIRST.certificate, SECOND.certificate)):
        made = issue(issuer=AGAIN.certificate, key=AGAIN_KEY)
        decision = decide(observe(made), replace(WANTED, known=known), NOW)
        assert decision.reasons == {Reason.FOREIGN}
        assert decision.foreign
    assert decide(observe(GOOD), replace(WANTED, known=(SECOND.certificate,)), NOW).foreign


def test_more_certificates_than_wanted() -> None:
    seen = replace(observe(GOOD), chain_pem=pem(GOOD.certificate, FIRST.certificate))
    assert reasons(seen) == {Reason.CHAIN_CHANGED}


def with_spec(spec: LeafSpec) -> set[Reason]:
    return reasons(observe(issue(spec)))


def test_subject() -> None:
    other = replace(SPEC, common_name="kafka2")
    assert with_spec(other) == {Reason.SUBJECT_CHANGED}
    assert with_spec(replace(SPEC, unit="operators")) == {Reason.SUBJECT_CHANGED}


@pytest.mark.parametrize(
    "change",
    [
        {"addresses": ()},
        {"addresses": ("10.0.0.2",)},
        {"addresses": ("10.0.0.1", "10.0.0.2")},
        {"dns_names": ("kafka1", "lb")},
        {"dns_names": (), "addresses": ()},
    ],
)
def test_names(change: dict[str, tuple[str, ...]]) -> None:
    assert with_spec(replace(SPEC, **change)) == {Reason.NAMES_CHANGED}  # type: ignore[arg-type]


def test_the_order_of_names_does_not_matter() -> None:
    spec = replace(SPEC, dns_names=("kafka1", "lb"))
    made = issue(replace(spec, dns_names=("lb", "kafka1")))
    assert reasons(observe(made), replace(WANTED, spec=spec)) == set()


def test_names_tell_what_is_added_and_removed() -> None:
    made = issue(replace(SPEC, addresses=("10.0.0.9",)))
    assert "+IP:10.0.0.1 -IP:10.0.0.9" in str(decide(observe(made), WANTED, NOW))


@pytest.mark.parametrize("usages", [(leaf.SERVER_AUTH,), (leaf.CLIENT_AUTH,)])
def test_usages(usages: tuple[x509.ObjectIdentifier, ...]) -> None:
    assert with_spec(replace(SPEC, usages=usages)) == {Reason.USAGE_CHANGED}


def test_an_authority_is_not_a_leaf() -> None:
    builder = x509.CertificateBuilder(
        FIRST.certificate.subject, SPEC.subject, GOOD.key.public_key(), 7, NOW, NOW + YEAR
    )
    builder = builder.add_extension(x509.BasicConstraints(True, None), True)
    for extension in GOOD.certificate.extensions:
        if not isinstance(extension.value, x509.BasicConstraints):
            builder = builder.add_extension(extension.value, extension.critical)
    made = Leaf(GOOD.key, builder.sign(FIRST_KEY, hashes.SHA256()))
    assert reasons(observe(made)) == {Reason.USAGE_CHANGED}


def test_key_type() -> None:
    rsa = replace(SPEC, key_type=KeyType.RSA_3072)
    assert with_spec(rsa) == {Reason.KEY_TYPE_CHANGED}
    assert reasons(observe(issue(rsa)), replace(WANTED, spec=rsa)) == set()


def test_times() -> None:
    seen = observe(GOOD)
    # A third of 365 days and 5 minutes is left after 243 days and 8 hours.
    assert reasons(seen, now=NOW + 243 * DAY) == set()
    assert reasons(seen, now=NOW + 244 * DAY) == {Reason.DUE}
    assert reasons(seen, now=NOW + 365 * DAY) == {Reason.DUE}
    assert reasons(seen, now=NOW + 366 * DAY) == {Reason.EXPIRED}
    assert reasons(seen, now=NOW - DAY) == {Reason.NOT_YET_VALID}


def test_renewal_is_not_due_when_a_new_one_would_end_no_later() -> None:
    made = issue(issuer=ENDING.certificate, key=ENDING_KEY)
    only = (ENDING.certificate,)
    wanted = replace(WANTED, issuer=ENDING.certificate, known=only, trusted=only)
    seen = observe(made, ENDING.certificate)
    assert made.certificate.not_valid_after_utc == ENDING.certificate.not_valid_after_utc
    assert reasons(seen, wanted, NOW + 39 * DAY) == set()


def test_force() -> None:
    decision = decide(observe(GOOD), WANTED, NOW, force=True)
    assert decision.reasons == {Reason.FORCED}
    assert decision.issue


@pytest.mark.parametrize(
    ("trusted", "seen"),
    [
        ((FIRST, SECOND), (FIRST,)),
        ((SECOND,), (FIRST, SECOND)),
        ((FIRST,), (AGAIN,)),
    ],
)
def test_trust_changes_keep_the_key(
    trusted: tuple[Authority, ...], seen: tuple[Authority, ...]
) -> None:
    wanted = replace(WANTED, trusted=tuple(item.certificate for item in trusted))
    decision = decide(observe(GOOD, *(item.certificate for item in seen)), wanted, NOW)
    assert decision.reasons == {Reason.TRUST_CHANGED}
    assert decision.write_trust and not decision.issue


def test_trust_order_does_not_matter() -> None:
    wanted = replace(WANTED, trusted=(SECOND.certificate, FIRST.certificate))
    assert reasons(observe(GOOD, FIRST.certificate, SECOND.certificate), wanted) == set()


@pytest.mark.parametrize("trust", [None, b"", b"garbage"])
def test_truststore_missing(trust: bytes | None) -> None:
    decision = decide(replace(observe(GOOD), trust_pem=trust), WANTED, NOW)
    assert decision.reasons == {Reason.TRUST_MISSING}
    assert decision.write_trust and not decision.issue


def test_with_pkcs12_a_trust_change_is_a_new_issue() -> None:
    wanted = replace(WANTED, store_type=StoreType.PKCS12, trusted=(SECOND.certificate,))
    decision = decide(observe(GOOD, store_type=StoreType.PKCS12), wanted, NOW)
    assert decision.reasons == {Reason.TRUST_CHANGED}
    assert decision.issue and not decision.write_trust


def test_another_kind_of_store_is_replaced_and_removed() -> None:
    wanted = replace(WANTED, store_type=StoreType.PKCS12)
    decision = decide(observe(GOOD), wanted, NOW)
    assert decision.reasons == {Reason.STORE_TYPE_CHANGED, Reason.TRUST_MISSING}
    assert decision.issue and decision.remove_left_over
    assert "pem -> pkcs12" in str(decision)


def test_left_over_files_are_only_removed() -> None:
    decision = decide(replace(observe(GOOD), left_over=True), WANTED, NOW)
    assert decision.reasons == {Reason.LEFT_OVER}
    assert (decision.issue, decision.write_trust, decision.remove_left_over) == (
        False,
        False,
        True,
    )


def test_summaries_have_the_same_lines() -> None:
    now_lines, then_lines = summary(GOOD.certificate), wanted_summary(WANTED, NOW)
    assert [line.split()[0] for line in now_lines] == [line.split()[0] for line in then_lines]
    differing = [one for one, two in zip(now_lines, then_lines, strict=True) if one != two]
    assert [line.split()[0] for line in differing] == ["serial", "sha256"]
    assert "names DNS:kafka1 IP:10.0.0.1" in now_lines
    assert "usages serverAuth+clientAuth" in now_lines
    assert "expires 2031-05-01 12:00 UTC" in now_lines
    assert f"serial {GOOD.certificate.serial_number:040x}" in now_lines


def test_trust_summary_is_sorted() -> None:
    lines = trust_summary([SECOND.certificate, FIRST.certificate])
    assert lines == sorted(lines)
    assert lines[0].startswith("trusts CN=payments cluster CA g1,O=payments until 2040-")


# Any host at all: each of its files absent, damaged, or of some history.


@dataclass
class HostStore:
    """The files of one store on a host, seen as the host's own openssl sees them."""

    files: dict[str, bytes] = field(default_factory=dict)

    def write(self, built: stores.Stores) -> None:
        paths = stores.paths("s", built.store_type)
        self.files[paths.keystore] = built.keystore
        self.files[paths.truststore] = built.truststore
        if paths.password:
            self.files[paths.password] = built.password.encode()

    def remove(self, store_type: StoreType) -> None:
        for path in stores.paths("s", store_type).all():
            self.files.pop(path, None)

    def certificates(self, path: str) -> bytes:
        data = self.files[path]
        try:
            if path.endswith(".pem"):
                return pem(*stores.read_pem(data))
            return pem(*stores.read_pkcs12(data, self.files["s.password"].decode()))
        except (StoreError, KeyError, UnicodeDecodeError):
            return b""

    def key(self, path: str) -> str:
        data = self.files[path]
        if not path.endswith(".pem"):
            # These tests change PKCS#12 stores only as a whole.
            chain = self.certificates(path)
            return keys.spki_sha256(stores.read_pem(chain)[0]) if chain else ""
        try:
            return keys.spki_sha256(keys.from_pem(data))
        except ValueError:
            return ""

    def observe(self, wanted: StoreType) -> StoreObservation:
        other = StoreType.PKCS12 if wanted is StoreType.PEM else StoreType.PEM
        has = {kind: stores.paths("s", kind) for kind in StoreType}
        key_type = next((k for k in (wanted, other) if has[k].keystore in self.files), None)
        trust_type = next((k for k in (wanted, other) if has[k].truststore in self.files), None)
        return StoreObservation(
            key_type,
            self.certificates(has[key_type].keystore) if key_type else b"",
            self.key(has[key_type].keystore) if key_type else "",
            trust_type,
            self.certificates(has[trust_type].truststore) if trust_type else None,
            any(path in self.files for path in has[other].all()),
        )

    def apply(self, decision: Decision, wanted: StoreWanted, now: datetime.datetime) -> None:
        key = {item.certificate: secret for item, secret in AUTHORITIES}[wanted.issuer]
        if decision.issue:
            made = leaf.issue(wanted.spec, wanted.issuer, key, wanted.lifetime, now)
            self.write(stores.build(wanted.store_type, made, wanted.trusted))
        elif decision.write_trust:
            path = stores.paths("s", wanted.store_type).truststore
            self.files[path] = stores.pem_truststore(wanted.trusted)
        if decision.remove_left_over:
            other = StoreType.PKCS12 if wanted.store_type is StoreType.PEM else StoreType.PEM
            self.remove(other)


AUTHORITIES = [
    (FIRST, FIRST_KEY),
    (SECOND, SECOND_KEY),
    (AGAIN, AGAIN_KEY),
    (ENDING, ENDING_KEY),
]
specs = st.builds(
    leaf.broker_client_listener,
    st.just(CLUSTER),
    st.sampled_from(["kafka1", "kafka2"]),
    st.sets(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"])),
    st.sets(st.sampled_from(["lb", "other"])),
).map(lambda spec: replace(spec, authority=AuthorityName.CLUSTER)) | st.sampled_from(
    [SPEC, leaf.operator(CLUSTER, "admin")]
)
chosen = st.sampled_from(AUTHORITIES)
certificates = st.lists(chosen, min_size=1, max_size=3, unique_by=id).map(
    lambda items: tuple(item.certificate for item, _ in items)
)
wanteds = st.builds(
    StoreWanted,
    spec=specs,
    issuer=chosen.map(lambda item: item[0].certificate),
    known=st.just(tuple(item.certificate for item, _ in AUTHORITIES)),
    trusted=certificates,
    store_type=st.sampled_from(StoreType),
    lifetime=st.integers(1, 825).map(lambda days: days * DAY),
    renew_fraction=st.floats(0.05, 0.8),
)


@st.composite
def hosts(draw: st.DrawFn) -> HostStore:
    host = HostStore()
    for store_type in draw(st.lists(st.sampled_from(StoreType), max_size=2)):
        authority, key = draw(chosen)
        made = leaf.issue(
            draw(specs),
            authority.certificate,
            key,
            draw(st.integers(1, 825)) * DAY,
            NOW + draw(st.integers(0, 38)) * DAY,
        )
        built = stores.build(store_type, made, draw(certificates))
        host.write(built)
    for path in list(host.files):
        fault = draw(st.sampled_from(["none", "none", "none", "absent", "garbage", "cut", "key"]))
        if fault == "absent":
            del host.files[path]
        elif fault == "garbage":
            host.files[path] = draw(st.binary(max_size=60))
        elif fault == "cut":
            host.files[path] = host.files[path][: draw(st.integers(0, 300))]
        elif fault == "key" and path == "s.pem":
            other = keys.to_pem(keys.generate(KeyType.EC_P256))
            host.files[path] = other + host.files[path][len(other) :]
    return host


@settings(max_examples=250, deadline=None)
@given(host=hosts(), wanted=wanteds, day=st.integers(0, 38))
def test_any_store_converges_in_one_step(host: HostStore, wanted: StoreWanted, day: int) -> None:
    now = NOW + day * DAY
    decision = decide(host.observe(wanted.store_type), wanted, now)
    assert decision.nothing_to_do == (
        not (decision.issue or decision.write_trust or decision.remove_left_over)
    )
    host.apply(decision, wanted, now)
    after = decide(host.observe(wanted.store_type), wanted, now)
    assert after.nothing_to_do, str(after)
    assert set(host.files) == set(stores.paths("s", wanted.store_type).all())


@settings(max_examples=150, deadline=None)
@given(wanted=wanteds, issued=st.integers(0, 38), share=st.floats(0, 1))
def test_a_valid_matching_store_is_never_issued_again(
    wanted: StoreWanted, issued: int, share: float
) -> None:
    host, begin = HostStore(), NOW + issued * DAY
    host.apply(decide(host.observe(wanted.store_type), wanted, begin), wanted, begin)
    certificate = stores.read_pem(host.observe(wanted.store_type).chain_pem)[0]
    end, start = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    due = end - (end - start) * wanted.renew_fraction
    now = begin + (due - begin) * share
    decision = decide(host.observe(wanted.store_type), wanted, now)
    assert decision.nothing_to_do, str(decision)


@settings(max_examples=60, deadline=None)
@given(wanted=wanteds, share=st.floats(0, 0.999))
def test_a_store_is_renewed_before_it_expires(wanted: StoreWanted, share: float) -> None:
    host = HostStore()
    host.apply(decide(host.observe(wanted.store_type), wanted, NOW), wanted, NOW)
    certificate = stores.read_pem(host.observe(wanted.store_type).chain_pem)[0]
    end, start = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    left = (end - start) * wanted.renew_fraction * (1 - share)
    decision = decide(host.observe(wanted.store_type), wanted, end - left + DAY / 86400)
    if end < wanted.issuer.not_valid_after_utc and left > DAY / 86400:
        assert Reason.DUE in decision.reasons


def test_no_text_of_a_plan_holds_a_secret() -> None:
    word = canary()
    seen = replace(observe(GOOD), chain_pem=word.encode(), trust_pem=word.encode())
    decision = decide(seen, WANTED, NOW)
    assert word not in str(decision)
    assert word not in repr(decision)
