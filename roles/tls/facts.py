"""The key and trust stores a host has, read with one command; no private key leaves the host."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pyinfra.api.command import StringCommand
from pyinfra.api.facts import FactBase
from typing_extensions import override

from roles.common.facts import END, complete, shell_words

# Every answer is one line: what, store, value. openssl reads the PKCS#12 password from its file,
# and the private key goes through a pipe to openssl only, to derive its public half.
_SCRIPT = r"""
certs() { sed -n '/-BEGIN CERTIFICATE-/,/-END CERTIFICATE-/p'; }
say() { printf '%s %s ' "$1" "$2"; cat; echo; }
for base; do
if [ -e "$base.p12" ] && [ -e "$base.pem" ]; then echo "both $base"; fi
if [ -e "$base.pem" ]; then
certs <"$base.pem" | base64 -w0 | say chain "$base"
openssl pkey -in "$base.pem" -pubout -outform DER 2>/dev/null | sha256sum | cut -c1-64 | tr -d '\n' | say key "$base"
elif [ -e "$base.p12" ]; then
openssl pkcs12 -in "$base.p12" -passin "file:$base.password" -nokeys 2>/dev/null | certs | base64 -w0 | say chain12 "$base"
openssl pkcs12 -in "$base.p12" -passin "file:$base.password" -nocerts -nodes 2>/dev/null | openssl pkey -pubout -outform DER 2>/dev/null | sha256sum | cut -c1-64 | tr -d '\n' | say key "$base"
fi
if [ -e "$base-trust.pem" ]; then certs <"$base-trust.pem" | base64 -w0 | say trust "$base"
elif [ -e "$base-trust.p12" ]; then openssl pkcs12 -in "$base-trust.p12" -passin "file:$base.password" -nokeys 2>/dev/null | certs | base64 -w0 | say trust12 "$base"
fi
stat -c "mode %U:%G:%a %n" "$base.pem" "$base.p12" "$base-trust.pem" "$base-trust.p12" "$base.password" 2>/dev/null
done
"""
# Public key of nothing: what sha256sum prints when openssl could not read the key.
_NO_KEY = hashlib.sha256(b"").hexdigest()
