"""Measures what each isolation level really blocks on this machine.

A program tries the forbidden actions in a sandbox of that level.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from functools import cache
from pathlib import Path

from tasks.grading.code import levels
from tasks.grading.code.levels import LEVELS, Level, Limits
from tasks.grading.code.sandbox import Sandbox, SandboxError

_TRIES = """
import json, os, socket, sys, time
asked = json.load(sys.stdin)
def can(action):
    try:
        action()
    except BaseException:
        return False
    return True
def crowd():
    for _ in range(asked["processes"] + 1):
        if os.fork() == 0:
            time.sleep(60)
tried = {
    "network": can(lambda: socket.create_connection(("127.0.0.1", asked["port"]), 2)),
    "reading": can(lambda: open(asked["file"]).read()),
    "writing": can(lambda: open(asked["file"] + ".new", "w")),
    "signals": can(lambda: os.kill(asked["pid"], 0)),
    "memory": can(lambda: bytearray(asked["memory"])),
    "processes": can(crowd),
}
print(json.dumps([name for name, done in tried.items() if done]))
"""


def holes(level: Level, slot: int = 0) -> list[str]:
    """Forbidden actions that a program at `level` can still do.

    They are names out of network, reading, writing, signals, memory and processes. Raises
    SandboxError if nothing can be started at this level.
    """
    folder = tempfile.mkdtemp(prefix="probe-", dir=levels.scratch())
    try:
        os.chmod(folder, 0o777)  # so that only the sandbox can refuse, not the file's mode
        secret = Path(folder) / "secret"
        secret.write_text("expected output")
        limits = Limits(memory=1 << 30, processes=32)
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            Sandbox(level, _TRIES, None, limits, slot) as sandbox,
        ):
            request = {"port": server.getsockname()[1], "file": str(secret), "pid": os.getpid()}
            ran = sandbox.run(
                json.dumps(
                    request | {"memory": limits.memory, "processes": limits.processes}
                ).encode()
            )
        try:
            names = json.loads(ran.output)
        except ValueError:
            raise SandboxError(
                f'the probe of isolation level "{level}" ended ({ran.end}) without a result'
            ) from None
        return [str(name) for name in names]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def best() -> tuple[Level, str]:
    """The first level that blocks every forbidden action, and its name in reports.

    The last level is used even if it does not; its name then says so, as in "limits without
    network". Measured once per process.

    **Raises:** SandboxError if no level works.
    """
    reasons = []
    for level in LEVELS:
        try:
            open_holes = holes(level)
        except (SandboxError, OSError) as error:
            reasons.append(f"{level}: {error}")
            continue
        if not open_holes or level == LEVELS[-1]:
            return level, f"{level} without {', '.join(open_holes)}" if open_holes else level
        reasons.append(f"{level}: does not stop {', '.join(open_holes)}")
    raise SandboxError("programs cannot be isolated on this machine. " + "; ".join(reasons))
