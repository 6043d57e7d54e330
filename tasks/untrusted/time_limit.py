"""Time limit for untrusted Python code that may not terminate."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Context manager that raises TimeoutError if the code inside runs longer than `seconds`.

    The error is raised at the next Python call or, in a Jinja template, at the next line. Only the
    current thread is traced, so stages in other threads are not affected. A call into a C library
    is not interrupted.
    """
    end = time.monotonic() + seconds

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise TimeoutError(f"it did not end within {seconds:g} s")
        return trace if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
