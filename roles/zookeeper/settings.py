from __future__ import annotations
from typing import ClassVar
from pydantic import Field
from roles.common.settings import Port, RoleSettings
class ZookeeperSettings(RoleSettings):
    prefix: ClassVar[str] = "zookeeper"
    id: int = Field(description="")
    client_port: Port = 2182
    quorum_port: Port = 2888
    election_port: Port = 3888
    heap: str = "256m"
    tick_time_ms: int = 2000
    init_limit: int = 10
    sync_limit: int = 5
    snap_retain_count: int = 3
    purge_interval_hours: int = 1
    max_client_connections: int = 60
    jvm_options: tuple[str, ...] = ()
    quorum_reverse_dns: bool = False
    audit: bool = False
