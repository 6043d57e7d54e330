"""Isolation levels that this machine supports.

They are found with system tools and not with the tested code, so a supported level must work.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from tasks.grading.code.levels import Level

USER = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
NEEDS: dict[Level, list[str]] = {
    "bubblewrap": ["bwrap", "--ro-bind", "/", "/", "--unshare-pid", "--unshare-net", "true"],
    "namespaces": ["unshare", *USER, "--mount", "--pid", "--net", "--fork", "true"],
    "limits": ["/usr/bin/python3", "-c", ""] if os.geteuid() == 0 else ["true"],
}
"""A command that uses what the level is built on, with the system's own tools.

Under root, programs of "limits" run on the system's Python.
"""


def require(level: Level) -> None:
    """Skip the test if the machine does not support the level, with the command's error."""
    try:
        done = subprocess.run(NEEDS[level], capture_output=True, text=True, timeout=20)
    except FileNotFoundError as missing:
        pytest.skip(f"isolation level {level} needs {missing.filename}, which is not installed")
    if done.returncode:
        pytest.skip(
            f"this machine does not allow isolation level {level}: {' '.join(NEEDS[level])} said "
            f"{done.stderr.strip()}"
        )
