"""Settings that every Java service has: heap size and more options for the JVM.

Options are refused when they open a port, write memory to disk, change TLS behind the
configuration, or would have to be repeated by the service.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_HEAP = re.compile(r"([1-9][0-9]*)([mg])")
_MOST_MIB = 31 * 1024  # above it pointers take twice the space

_OPTION = re.compile(r"-(XX:|D|Xlog:gc|Xmn|Xss|Xshare:)[A-Za-z0-9:+._=/,*@-]*")
_REFUSED = (
    (r"-XX:(Max|Initial|Min)(HeapSize|RAM)|-XX:.*RAM(Percentage|Fraction)",
     "the heap's size has a setting of its own"),
    (r"-XX:\+?HeapDump|-XX:StartFlightRecording|-XX:.*FlightRecorder",
     "dumps and recordings hold keys and passwords in clear text"),
    (r"-XX:\+(CreateCoredumpOnCrash|CrashOnOutOfMemoryError)", "a core holds keys in clear text"),
    (r"-XX:(-DisableAttachMechanism|\+UsePerfData|\+StartAttachListener)",
     "it lets other processes look into this one"),
    (r"-XX:(OnError|OnOutOfMemoryError|Flags|VMOptionsFile|ErrorFile|ReplayDataFile)",
     "the service decides where crash files go and runs no commands"),
    (r"-XX:-ExitOnOutOfMemoryError", "a service without memory must end and be started again"),
    (r"-Dcom\.sun\.management|-Djava\.rmi", "it opens a port without TLS or authentication"),
    (r"-Djavax\.net|-Djava\.security|-Dsun\.security|-Dcom\.sun\.net\.ssl",
     "it changes TLS behind the configuration, or prints what TLS protects"),
    (r"-Dzookeeper\.", "it would override the configuration"),
    (r"-Djute\.", "it must be the same on servers and brokers, so it is not open to change"),
    (r"-Dlog4j|-Djava\.io\.tmpdir|-Dorg\.apache\.kafka\.automatic", "the service sets it"),
    (r"(?i).*(passw|secret)", "a process's options are visible to every user of the host"),
)  # fmt: skip


def heap(least_mib: int) -> Callable[[str], str]:
    """A validator of a heap size such as ``512m`` or ``2g``, of at least *least_mib*."""

    def check(value: str) -> str:
        found = _HEAP.fullmatch(value)
        if not found:
            raise ValueError("must be a number followed by m or g, such as 512m")
        size = int(found[1]) * (1024 if found[2] == "g" else 1)
        if not least_mib <= size <= _MOST_MIB:
            raise ValueError(f"must be between {least_mib}m and {_MOST_MIB // 1024}g")
        return value

    return check


def options(values: Sequence[str]) -> tuple[str, ...]:
    """A validator of more options for the JVM."""
    for value in values:
        name = re.split(r"[=\s]", value, maxsplit=1)[0][:60]
        for pattern, reason in _REFUSED:
            if re.match(pattern, value):
                raise ValueError(f"{name} is refused: {reason}")
        if not _OPTION.fullmatch(value):
            raise ValueError(
                f"{name} is refused: only -XX:…, -D…, -Xlog:gc…, -Xmn, -Xss and -Xshare options "
                "without blanks, quotes, '%' and '$' can be added"
            )
    return tuple(values)
