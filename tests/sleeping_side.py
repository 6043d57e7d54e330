"""A side of a benchmark for tests: `python -m tests.sleeping_side FILE`.

A round takes the seconds of its request, in a child process. FILE gets the pids of both.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks._pairs import Result
from benchmarks._sides import serve


def sleep(seconds: float) -> Result:
    child = subprocess.Popen(["sleep", str(seconds)])
    Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}")
    child.wait()
    return {"rate": 1.0}


if __name__ == "__main__":
    serve(sleep)
