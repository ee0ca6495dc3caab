"""pyinfra reads this from the folder it runs in, before the inventory."""

from strongbox import preflight

REQUIRE_PYINFRA_VERSION = "~=3.10"
SUDO = True
# The first host that fails stops the run. pyinfra takes this only from here, the inventory or the
# command line: in a deploy file it would be ignored.
FAIL_PERCENT = 0
# Longer than sshd's default LoginGraceTime would be pointless; shorter fails on a loaded host.
CONNECT_TIMEOUT = 20

preflight.install()
