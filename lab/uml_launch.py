#!/usr/bin/python3 -I
"""Starts user-mode-linux, also each time that its guest reboots.

On a reboot it executes the program that its first argument names once more, in the same process;
that is this file. By then the tap device is still open, and opening it a second time would fail.
"""

import os
import signal
import sys

KERNEL = "/usr/bin/linux.uml"

os.closerange(3, os.sysconf("SC_OPEN_MAX"))
signal.pthread_sigmask(signal.SIG_SETMASK, set())
os.execv(KERNEL, sys.argv)
