"""The key and trust stores a host has, read with one command; no private key leaves the host."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyinfra.api.command import StringCommand
from pyinfra.api.facts import FactBase
from typing_extensions import override

from roles.common.facts import END, complete, parse_paths, shell_words
from roles.common.plan import Observed
from roles.tls.plan import StoreObservation
from roles.tls.stores import StoreType

# Every answer is one line: what, store, value. openssl reads a PKCS#12 password from its file, and
# the private key goes through a pipe to openssl only, which derives its public half.
_SCRIPT = r"""
certs() { sed -n '/-BEGIN CERTIFICATE-/,/-END CERTIFICATE-/p' | base64 -w0; }
spki() { openssl pkey -pubout -outform DER 2>/dev/null | sha256sum | cut -c1-64; }
open12() { openssl pkcs12 -in "$1" -passin "file:$b.password" "$2" -nodes 2>/dev/null; }
for b; do
if [ "$kind" = pem ]; then o=p12; else o=pem; fi
k=$b.$kind; t=$b-trust.$kind; [ "$kind" = pkcs12 ] && { k=$b.p12; t=$b-trust.p12; o=pem; }
if [ -f "$k" ]; then case $kind in
pem) echo "chain $b $(certs <"$k")"; echo "key $b $(spki <"$k")" ;;
*) echo "chain $b $(open12 "$k" -nokeys | certs)"; echo "key $b $(open12 "$k" -nocerts | spki)" ;;
esac; fi
if [ -f "$t" ]; then case $kind in
pem) echo "trust $b $(certs <"$t")" ;;
*) echo "trust $b $(open12 "$t" -nokeys | certs)" ;;
esac; fi
if [ -e "$b.$o" ] || [ -e "$b-trust.$o" ]; then echo "left $b -"; fi
if [ "$kind" = pem ] && [ -e "$b.password" ]; then echo "left $b -"; fi
p=; [ "$kind" = pkcs12 ] && p=$b.password
for f in "$k" "$t" ${p:+"$p"}; do
if [ -L "$f" ] || [ -e "$f" ]; then
stat --printf 'path %n\t%f\t%U\t%G\t%a\t\n' "$f"; fi; done
done"""
# What sha256sum prints when openssl could not read the key.
_NO_KEY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class HostStores:
    """What each store holds, by its base path, and owner and mode of each file that is there."""

    stores: Mapping[str, StoreObservation]
    files: Mapping[str, Observed]


def parse(lines: list[str], bases: Sequence[str], store_type: StoreType) -> HostStores:
    found: dict[str, dict[str, str]] = {base: {} for base in bases}
    paths = []
    for line in lines:
        what, _, rest = line.partition(" ")
        if what == "path":
            paths.append(rest)
        elif what in ("chain", "key", "trust", "left"):
            base, _, value = rest.partition(" ")
            found[base][what] = value
    stores = {}
    for base, answers in found.items():
        key = answers.get("key", "")
        stores[base] = StoreObservation(
            store_type=store_type if "chain" in answers else None,
            chain_pem=base64.b64decode(answers.get("chain", "")),
            key_spki_sha256="" if key == _NO_KEY else key,
            trust_type=store_type if "trust" in answers else None,
            trust_pem=base64.b64decode(answers["trust"]) if "trust" in answers else None,
            left_over="left" in answers,
        )
    return HostStores(stores, parse_paths(paths))


class StoresState(FactBase[HostStores | None]):
    """
    Certificates, trusted authorities and the public half of each key.

    + bases: paths of stores without their endings
    + store_type: ``pem`` or ``pkcs12``; files of the other kind are only noticed
    """

    @override
    def command(self, bases: Sequence[str], store_type: str) -> StringCommand:
        self.asked = (tuple(bases), StoreType(store_type))
        return StringCommand(
            f"kind={store_type}; set --", *shell_words(bases), ";", _SCRIPT, f"\necho {END}"
        )

    @override
    def process(self, output: list[str]) -> HostStores | None:
        lines = complete(output)
        return None if lines is None else parse(lines, *self.asked)
