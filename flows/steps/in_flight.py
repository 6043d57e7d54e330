"""Stages at work in this process: of flows that ask for one at the same time the first has it
worked out, and all have its answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tasks.execution.submit import answer

_lock = threading.Lock()
_halted = threading.Event()
_working: dict[str, Any] = {}
"""Artifact -> the future of the task that makes it."""


def at_work(artifact: str, submit: Callable[[], Any]) -> Callable[[], Any]:
    """Have `submit` called, unless the artifact is being made already; call what is returned to
    wait for the answer.

    Without this the second asker's task would hold a place of Ray's only to wait for the first
    one's lock in the store. Raises KeyboardInterrupt once work was halted.
    """
    if _halted.is_set():
        raise KeyboardInterrupt
    with _lock:
        if artifact not in _working:
            _working[artifact] = submit()
        future = _working[artifact]

    def wait() -> Any:
        try:
            return answer(future, _halted.is_set)
        finally:
            with _lock:
                if _working.get(artifact) is future:
                    del _working[artifact]

    return wait


def halt(on: bool) -> None:
    """After an interrupt: flows in other threads wait and ask for nothing more. `halt(False)`
    lets them again.
    """
    if on:
        _halted.set()
    else:
        _halted.clear()
