"""Settings of every host. docs/settings.md explains each; only references to secrets stand here."""

tls_authority_dir = "ca"
tls_key_type = "ec-p256"
tls_store_type = "pem"

# pyinfra's own default would believe whoever answers first in a host's place.
ssh_strict_host_key_checking = "yes"
