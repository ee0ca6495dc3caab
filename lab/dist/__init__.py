"""Kafka's archive, assembled from Maven Central: ``python -m lab.dist``."""
