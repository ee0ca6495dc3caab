"""Volumes that a host opens by itself at boot, with keys that AWS KMS unwraps for it."""
