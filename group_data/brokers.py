"""Settings of every broker."""

kafka_client_auth = "required"
kafka_default_replication_factor = 3
kafka_min_insync_replicas = 2
