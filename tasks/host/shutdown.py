"""Recognize requests to stop this process: Ctrl-C, SIGTERM, or a cancellation by Prefect.

Libraries may wrap the original exception.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def stop_in(error: BaseException) -> BaseException | None:
    """Return the KeyboardInterrupt or TerminationSignal in `error`; None for any other error.

    If a signal arrives while Ray's compiled code waits, Ray raises a SystemError from it.
    """
    from prefect.exceptions import TerminationSignal  # here, so that workers import no Prefect

    cause = error.__cause__ if isinstance(error, SystemError) else error
    return cause if isinstance(cause, KeyboardInterrupt | TerminationSignal) else None


_reasons: list[str] = []


def stop_process(reason: str) -> None:
    """Send SIGTERM to this process and note the reason. May be called from any thread."""
    _reasons.append(reason)
    os.kill(os.getpid(), signal.SIGTERM)


def why_stopped() -> str | None:
    """Reason given to `stop_process`; None if this process did not stop itself."""
    return _reasons[0] if _reasons else None


@contextmanager
def signals_kept() -> Iterator[None]:
    """Context manager that restores the SIGTERM handler at its end.

    `ray.init` installs its own handler, which exits immediately.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # None: the handler was not installed from Python
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
