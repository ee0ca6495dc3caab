from __future__ import annotations
from typing import ClassVar
from roles.common.settings import Port, RoleSettings
BROKER_PRINCIPAL = "broker@cluster"
class KafkaSettings(RoleSettings):
    prefix: ClassVar[str] = "kafka"
    broker_id: int
    internal_port: Port = 9093
    client_port: Port = 9094
    client_auth: str = "required"
    client_advertised_name: str | None = None
    client_advertised_port: Port | None = None
    client_tls_protocols: tuple[str, ...] = ("TLSv1.3", "TLSv1.2")
    heap: str = "512m"
    default_replication_factor: int = 3
    min_insync_replicas: int = 2
    jvm_options: tuple[str, ...] = ()
    config: dict[str, str] = {}
    @property
    def all_super_users(self): return ["User:broker@cluster", "User:admin@operators"]
