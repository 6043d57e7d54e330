"""Runs a command with the environment that `erpd` gives its own processes.

Examples: `start.py ray start ...`, `start.py prefect worker start ...`. Every node of a cluster
needs it, in a container or not: Ray's tasks have the environment of the node's `ray start`, not the
flow's.
"""

import os
import signal
import sys

from tasks.host.home import prepare

if __name__ == "__main__":
    prepare()
    # A shell's background processes ignore SIGINT, and a Prefect worker stops by sending itself
    # SIGINT: without this line it would survive SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])
