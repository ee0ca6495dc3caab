"""What lies on a ZooKeeper host: folders, configuration and unit, rendered from its settings.

Pure: no pyinfra, no host. The key and trust stores are the tls role's; here are only their paths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from roles.common.guard import UnitGuard
from roles.common.host_settings import CommonSettings
from roles.common.plan import ManagedDirectory, ManagedFile
from roles.zookeeper.settings import ZookeeperSettings

USER = "zookeeper"
UNIT = "/etc/systemd/system/zookeeper.service"
# The name of the host's only store; its files are `<tls>/server.pem` and so on.
STORE = "server"

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
# Longer than any answer of a server that is well, shorter than an operator's patience.
_ANSWER_S = 5
_WORTH_READING = (
    "^(imok|Zookeeper version|Zxid|Mode|This ZooKeeper"
    "|zk_(server_state|peer_state|synced_|quorum_size|pending_syncs))"
)


class Store(Protocol):
    """Where the files of a store lie; ``password`` is empty with PEM."""

    @property
    def keystore(self) -> str: ...
    @property
    def truststore(self) -> str: ...
    @property
    def password(self) -> str: ...


@dataclass(frozen=True)
class Layout:
    """The role's folders on a host."""

    base_dir: str

    @property
    def root(self) -> str:
        return f"{self.base_dir}/zookeeper"

    @property
    def data(self) -> str:
        return f"{self.root}/data"

    @property
    def tls(self) -> str:
        return f"{self.root}/tls"

    @property
    def logs(self) -> str:
        return f"{self.root}/logs"

    @property
    def tmp(self) -> str:
        return f"{self.root}/tmp"  # noqa: S108

    @property
    def config(self) -> str:
        return "/etc/strongbox/zookeeper"


@dataclass(frozen=True)
class ZookeeperHost:
    """All that decides what lies on one host.

    ``members`` are the host names of the whole ensemble by id, this host's included; ``software``
    is the unpacked archive, with ``libs/`` in it.
    """

    settings: ZookeeperSettings
    common: CommonSettings
    members: Mapping[int, str]
    store: Store
    software: str
    guard: UnitGuard | None = None

    @property
    def layout(self) -> Layout:
        return Layout(self.common.base_dir)


def directories(base_dir: str) -> list[ManagedDirectory]:
    """The folders that must be there before the stores are written."""
    layout = Layout(base_dir)
    # What the service could exchange under root's hands is its own alone. It reads its stores and
    # cannot write them, so whoever takes it over can't make it trust others.
    return [
        ManagedDirectory(base_dir, "root", USER, "750"),
        *(ManagedDirectory(path, "root", USER, "750") for path in (layout.root, layout.tls)),
        *(ManagedDirectory(path, USER, USER) for path in (layout.data, layout.logs, layout.tmp)),
        ManagedDirectory("/etc/strongbox", "root", "root", "755"),
        ManagedDirectory(layout.config, "root", USER, "750"),
    ]


def wanted(host: ZookeeperHost) -> list[ManagedDirectory | ManagedFile]:
    """Folders and files in the order in which they must be written.

    The unit is the last: what it records at a start must not be newer than what the process reads.
    """
    return [*directories(host.common.base_dir), *_configuration(host), _unit(host)]


def started_with(host: ZookeeperHost) -> dict[str, str]:
    """What the running process has to have recorded at its start; otherwise it must restart.

    Certificates are not part of it: ZooKeeper reads new ones while it runs.
    """
    unit = _unit(host)
    text = _record_head(host) + "".join(
        f"{file.sha256}  {file.path}\n" for file in (*_configuration(host), unit)
    )
    return {"config": hashlib.sha256(text.encode()).hexdigest()}


def four_letter_command(host: ZookeeperHost, *words: str) -> str:
    """Shell command, for root, that prints the server's answers to ``srvr``, ``mntr`` or ``ruok``.

    It asks over TLS 1.3 with the server's own certificate and verifies the server's name. It ends
    within 5 seconds for each word, prints nothing when there is no valid answer, and of the
    answers only the lines that `roles.zookeeper.plan.parse` reads.
    """
    words = words or ("srvr", "mntr")
    if not set(words) <= {"srvr", "mntr", "ruok"}:
        raise ValueError(f"not allowed by 4lw.commands.whitelist: {' '.join(words)}")
    name, port, store = host.common.hostname, host.settings.client_port, host.store
    ask = (
        f"timeout {_ANSWER_S} openssl s_client -connect {name}:{port} -servername {name} -tls1_3 "
        f"-verify_return_error -verify_hostname {name} -verify_quiet -quiet"
    )
    # mntr prints hundreds of counters; these say who leads and who is in step.
    keep = f"grep -aE '{_WORTH_READING}'"
    if not store.password:
        ask += f" -cert {store.keystore} -key {store.keystore} -CAfile {store.truststore}"
        return f"for w in {' '.join(words)}; do echo $w | {ask} 2>/dev/null; done | {keep}"
    # s_client reads no PKCS#12 truststore, so the authorities come through a pipe, never a file.
    # The password is read by openssl itself.
    secret = f"file:{store.password}"
    ask += f" -cert {store.keystore} -key {store.keystore} -pass {secret} -CAfile /dev/fd/3"
    trusted = f"openssl pkcs12 -in {store.truststore} -nokeys -passin {secret}"
    return (
        f"for w in {' '.join(words)}; do "
        f"{trusted} 2>/dev/null | {{ exec 3<&0; echo $w | {ask} 2>/dev/null; }}; done | {keep}"
    )


def ready_command(host: ZookeeperHost) -> str:
    """Shell command, for root, that succeeds once the server serves as a member of the quorum."""
    serving = "grep -qE '^Mode: (leader|follower|standalone)$'"
    return f"{{ {four_letter_command(host, 'srvr')}; }} | {serving}"


def _configuration(host: ZookeeperHost) -> list[ManagedFile]:
    layout = host.layout
    return [
        ManagedFile(f"{layout.data}/myid", f"{host.settings.id}\n".encode(), USER, USER, "600"),
        ManagedFile(
            f"{layout.config}/log4j.properties",
            _render("log4j.properties.j2", host),
            "root",
            USER,
        ),
        ManagedFile(f"{layout.config}/zoo.cfg", _render("zoo.cfg.j2", host), "root", USER),
    ]


def _unit(host: ZookeeperHost) -> ManagedFile:
    files = " ".join([*(file.path for file in _configuration(host)), UNIT])
    record = (
        f"/bin/sh -c 'umask 077; {{ echo {_record_head(host).strip()}; sha256sum {files}; }} "
        '| sha256sum | sed "s/ .*//; s/^/config /" >/run/strongbox-zookeeper/started-with\''
    )
    return ManagedFile(
        UNIT, _render("zookeeper.service.j2", host, record=record), "root", "root", "644"
    )


def _record_head(host: ZookeeperHost) -> str:
    # The unit is hashed twice: as a file, and as what systemd has loaded, which is another while
    # daemon-reload is due. A digest can't contain itself, so this one is of the unit without it.
    loaded = _render("zookeeper.service.j2", host, record="")
    return f"unit {hashlib.sha256(loaded).hexdigest()}\n"


def _render(template: str, host: ZookeeperHost, **more: Any) -> bytes:
    text = _TEMPLATES.get_template(template).render(
        settings=host.settings,
        cluster=host.common.cluster,
        java=host.common.java,
        layout=host.layout,
        members=host.members,
        store=host.store,
        guard=host.guard,
        store_type="PKCS12" if host.store.password else "PEM",
        software=host.software,
        user=USER,
        **more,
    )
    return text.encode()
