"""The machines that `vagrant up` made: pyinfra inventories/vagrant.py deploys/site.py

Each was written down by the Vagrantfile with its address, SSH key and host key. Where libvirt runs
in a network namespace of the lab's, the process that loads this file enters it.
"""

import sys as _sys

from lab import network as _network
from lab import state as _state
from lab.vagrant import declare as _declare
from lab.vagrant import identity as _identity
from lab.vagrant import machines as _machines
from lab.vagrant import plan as _plan

try:
    _lab = _plan.lab()
    if _network.exists(_lab):
        _network.enter(_lab)
    _made = _machines.read(_lab.folder)
    if not _made:
        raise _state.LabError("no machine was made yet: vagrant up, or python -m lab.vagrant up")
    # Not in group_data, which pyinfra reads with any inventory.
    _identity.create(_lab)
except _state.LabError as _error:
    # pyinfra shows any other exception with a traceback.
    _sys.exit(f"inventories/vagrant.py: {_error}")

zookeepers = _declare.hosts(_lab, _made, "zookeepers")
brokers = _declare.hosts(_lab, _made, "brokers")
