"""An end, after some seconds, to Python code that may not have one of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Within it TimeoutError is raised where Python code of this thread runs longer, at its next
    call or, in a Jinja template, line.

    Only this thread is traced, so stages beside it do not notice. One call into a C library is
    waited for.
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
