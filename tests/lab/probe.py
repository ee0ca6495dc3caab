"""Tries to get an answer from ports, as a peer in the lab's network. Standard library only.

Reads a JSON list of attempts from standard input and prints, for each, ``answered``, ``open`` (the
connection was accepted and stays, the protocol says nothing first) or why it was refused.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

PATIENCE_S = 3.0
# ApiVersions v0, the one request that Kafka answers before it knows who is asking.
_KAFKA = struct.pack(">hhih", 18, 0, 7, 5) + b"probe"
_KAFKA = struct.pack(">i", len(_KAFKA)) + _KAFKA
QUESTIONS = {"kafka": _KAFKA, "zookeeper": b"ruok", "quorum": b""}
ANSWERS = {"kafka": b"\0\0\0\x07", "zookeeper": b"imok", "quorum": b""}


def context(attempt: dict[str, Any]) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if attempt.get("legacy"):
        made.set_ciphers("ALL:@SECLEVEL=0")
        made.minimum_version = ssl.TLSVersion.TLSv1
        made.maximum_version = ssl.TLSVersion[attempt["legacy"]]
    if attempt.get("ca"):
        made.load_verify_locations(attempt["ca"])
    else:
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if attempt.get("certificate"):
        made.load_cert_chain(attempt["certificate"], attempt.get("key"))
    return made


def probe(attempt: dict[str, Any]) -> str:
    question, answer = QUESTIONS[attempt["protocol"]], ANSWERS[attempt["protocol"]]
    try:
        with socket.create_connection((attempt["address"], attempt["port"]), PATIENCE_S) as raw:
            raw.settimeout(PATIENCE_S)
            if attempt.get("plaintext"):
                return _ask(raw, question or b"hello", answer or b"anything")
            with context(attempt).wrap_socket(raw, server_hostname=attempt["name"]) as secure:
                return _ask(secure, question, answer)
    except (OSError, ssl.SSLError) as error:
        return f"refused: {getattr(error, 'reason', '') or error}"


def _ask(connection: socket.socket, question: bytes, answer: bytes) -> str:
    if question:
        connection.sendall(question)
    received = b""
    try:
        while not answer or answer not in received:
            some = connection.recv(4096)
            if not some:
                return "refused: closed"
            received += some
    except TimeoutError:
        # A peer that only listens has accepted the certificate when it neither closes nor alerts.
        return "refused: no answer" if answer else "open"
    return "answered"


def main() -> None:
    attempts = json.load(sys.stdin)
    with ThreadPoolExecutor(16) as pool:
        json.dump(list(pool.map(probe, attempts)), sys.stdout)


if __name__ == "__main__":
    main()
