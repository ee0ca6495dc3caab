"""pyinfra reads this from the folder it runs in, before the inventory."""

from pyinfra import config

from strongbox import preflight

config.REQUIRE_PYINFRA_VERSION = "~=3.10"
config.SUDO = True
# The first host that fails stops the run. pyinfra takes this only from here, the inventory or the
# command line: in a deploy file it would be ignored.
config.FAIL_PERCENT = 0
config.CONNECT_TIMEOUT = 20

preflight.install()
