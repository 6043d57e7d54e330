"""Run a command with the settings that `erpd` gives its own processes: `start.py ray start ...`,
`start.py prefect worker start ...`.

Every node of a cluster needs them, in a container or not: what Ray runs has the environment of the
node's `ray start`, not the flow's.
"""

import os
import signal
import sys

from tasks.host.home import prepare

if __name__ == "__main__":
    prepare()
    # What a shell starts in the background ignores interrupts, and a Prefect worker ends by one: it
    # would outlive SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp(sys.argv[1], sys.argv[1:])
