"""Throughput of a broker whose data lies on LUKS against the same disk without: on one host, in one
run, by turns.

    python -m bench.at_rest [--rounds 3] [--records 40000]

Makes a lab of its own (one ZooKeeper server, two brokers with a disk for their data, with kernels
of their own), measures on one of the brokers, and prints a table in Markdown. Each round measures,
on the same disk, LUKS with dm-crypt's work queues, without them, and with one of them; the rounds
without encryption come last, as the disk's header goes with it.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections import defaultdict
from typing import Any

from lab.state import Lab
from roles.custody.build import custody
from roles.custody.protocol import KeyContext
from roles.custody.settings import CustodySettings
from roles.volumes import token

LAB, HOST = "bench-at-rest", "kafka1"
DEVICE, MAPPING, MOUNT = "/dev/disk/by-id/lab-data1", "strongbox-data1", "/srv/strongbox-data1"
FLAGS = {
    "LUKS, both work queues": "",
    "LUKS, no read work queue": "--perf-no_read_workqueue",
    "LUKS, no write work queue": "--perf-no_write_workqueue",
    "LUKS, no work queues": "--perf-no_read_workqueue --perf-no_write_workqueue",
}
PLAIN = "no encryption"
_RECORD_BYTES = 1024


def _run(*command: str, stdin: str = "") -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYINFRA_")}
    result = subprocess.run(
        [sys.executable, *command],
        env=environment | {"STRONGBOX_LAB": LAB, "PYINFRA_PROGRESS": "off"},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise SystemExit((result.stdout + result.stderr)[-4000:])
    return result.stdout


def _ssh(script: str, stdin: str = "") -> str:
    return _run("-m", "lab", "ssh", HOST, f"sudo sh -c {shlex.quote(script)}", stdin=stdin)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fresh_data(source: str) -> None:
    """An empty file system for the broker's data, mounted from *source*."""
    _ssh(
        f"systemctl stop kafka; umount {MOUNT} 2>/dev/null || :; "
        f"mkfs.xfs -q -f {source} && mount -o noatime,nodev,nosuid,noexec {source} {MOUNT} && "
        f"chown root:kafka {MOUNT} && chmod 750 {MOUNT} && "
        f"install -d -o kafka -g kafka -m 700 {MOUNT}/kafka"
    )


def _unguarded() -> None:
    """Only here may a broker run on a disk in clear."""
    _ssh(
        "mkdir -p /run/systemd/system/kafka.service.d && "
        "systemctl cat kafka | sed -n 's/^ExecStartPre=\\([^+]\\)/ExecStartPre=\\1/p' "
        ">/run/bench-pre && { echo '[Service]'; echo ExecStartPre=; cat /run/bench-pre; } "
        ">/run/systemd/system/kafka.service.d/bench.conf && systemctl daemon-reload"
    )


def _measure(records: int) -> dict[str, float]:
    """MB/s of the disk (1 MB = 10^6 bytes), and messages a second of one acks=all producer."""
    wrote = _ssh(f"dd if=/dev/zero of={MOUNT}/dd bs=1M count=512 oflag=direct conv=fsync 2>&1")
    read = _ssh(f"dd if={MOUNT}/dd of=/dev/null bs=1M iflag=direct 2>&1; rm {MOUNT}/dd")
    _ssh("systemctl start kafka")
    _ssh(
        "until kafka-cli topics --create --if-not-exists --topic bench "
        "--replica-assignment 1 --config min.insync.replicas=1; do sleep 1; done"
    )
    said = _ssh(
        f"kafka-cli producer-perf-test --topic bench --num-records {records} "
        f"--record-size {_RECORD_BYTES} --throughput -1 --producer-props "
        "bootstrap.servers=kafka1.lab.test:9093 acks=all linger.ms=5 batch.size=131072"
    )
    found = re.findall(r"([0-9.]+) records/sec", said)
    return {"write": _speed(wrote), "read": _speed(read), "messages": float(found[-1])}


def _speed(text: str) -> float:
    found = re.search(r"(\d+) bytes .*, ([0-9.e-]+) s,", text)
    assert found, text
    return int(found[1]) / float(found[2]) / 1e6


def measure(rounds: int, records: int) -> dict[str, list[dict[str, float]]]:
    results: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(rounds):
        for name, flags in FLAGS.items():
            _set_flags(flags)
            _fresh_data(f"/dev/mapper/{MAPPING}")
            results[name].append(_measure(records))
            _say(f"round {number + 1}, {name}: {json.dumps(results[name][-1])}")
    # Last, as the disk's header is lost with it.
    _ssh(f"systemctl stop kafka; umount {MOUNT}; cryptsetup close {MAPPING}")
    for number in range(rounds):
        _fresh_data(DEVICE)
        results[PLAIN].append(_measure(records))
        _say(f"round {number + 1}, {PLAIN}: {json.dumps(results[PLAIN][-1])}")
    return results


def _set_flags(flags: str) -> None:
    """With the key, as the kernel keeps none that a new table could refer to."""
    lab = Lab(LAB)
    dumped = json.loads(_ssh(f"cryptsetup luksDump --dump-json-metadata {DEVICE}"))
    tokens = [token.parse(item) for item in dumped["tokens"].values()]
    wrapped = next(item.wrapped for item in tokens if item is not None and item.wrapped)
    settings = CustodySettings(recipients=(lab.recipient,), identity_file=str(lab.identity))
    context = KeyContext("lab", lab.host(HOST).fqdn, "data1", "volume")
    key = custody(settings).unwrap(wrapped, context)
    _ssh(
        "head -n 1 | base64 -d | cryptsetup refresh --key-file - "
        f"--keyfile-size {len(key)} {flags} {MAPPING}",
        base64.b64encode(key).decode() + "\n",
    )


def table(results: dict[str, list[dict[str, float]]]) -> str:
    def middle(name: str, what: str) -> float:
        return statistics.median(item[what] for item in results[name])

    lines = ["| data on | write MB/s | read MB/s | messages/s (1 KiB, acks=all) | of plain |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name in (PLAIN, *FLAGS):
        share = middle(name, "messages") / middle(PLAIN, "messages")
        lines.append(
            f"| {name} | {middle(name, 'write'):.0f} | {middle(name, 'read'):.0f} "
            f"| {middle(name, 'messages'):.0f} | {share:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--records", type=int, default=40_000)
    arguments = parser.parse_args()
    _say("making the lab")
    _run("-m", "lab", "run", "--driver", "uml", "--zookeepers", "1", "--brokers", "2",
         "--data-disks", "1", "--messages", "100")  # fmt: skip
    try:
        _unguarded()
        results: dict[str, Any] = measure(arguments.rounds, arguments.records)
        print(table(results))
    finally:
        _run("-m", "lab", "down")


if __name__ == "__main__":
    main()
