"""Settings of every ZooKeeper server."""

zookeeper_snap_retain_count = 3
zookeeper_purge_interval_hours = 1
