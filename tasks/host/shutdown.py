"""Being told to stop: Ctrl-C, SIGTERM, or Prefect's cancel, in whatever shape it comes through
the libraries between.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def stop_in(error: BaseException) -> BaseException | None:
    """What somebody stopped this process by, if that is what `error` is. Ray's compiled code, where
    it meets a signal while it waits, makes a SystemError of it.
    """
    from prefect.exceptions import TerminationSignal  # here, so that workers import no Prefect

    told = error.__cause__ if isinstance(error, SystemError) else error
    return told if isinstance(told, KeyboardInterrupt | TerminationSignal) else None


_reasons: list[str] = []


def stop_process(reason: str) -> None:
    """Stop this process as SIGTERM from outside would. From any thread."""
    _reasons.append(reason)
    os.kill(os.getpid(), signal.SIGTERM)


def why_stopped() -> str | None:
    """The reason, where this process stopped itself."""
    return _reasons[0] if _reasons else None


@contextmanager
def signals_kept() -> Iterator[None]:
    """Whoever hears SIGTERM still does so afterwards: `ray.init` takes it for itself, and exits
    at once.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # None: not a handler of Python's
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
