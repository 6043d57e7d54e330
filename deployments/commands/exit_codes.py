"""How a foreground run that does not end well ends: what is told of it, in which words, and with
which exit code.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from deployments.output.console import BadInput
from erpd_core.faults import Fault
from tasks.host.disk_faults import describe_disk_fault
from tasks.host.home import home
from tasks.untrusted.display_text import one_line


@contextmanager
def failing() -> Iterator[None]:
    """A failure of the run is said in two lines, with exit code 1 and the traceback in a file; a
    stop by Ctrl-C or SIGTERM, a fault of machine or numbers in one.
    """
    # a stop is a stop: what cleans up after Ctrl-C does so here too
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except BadInput:
        raise
    except BaseException as error:
        _explain(error)
        raise typer.Exit(1) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _explain(error: BaseException) -> None:
    from tasks.host.shutdown import stop_in, why_stopped

    if stop_in(error):
        print(
            f"erpd: {one_line(why_stopped() or 'interrupted')}; the same command goes on from here",
            file=sys.stderr,
        )
    elif isinstance(error, Fault):
        print(
            f"erpd: the run ends: {one_line(str(error))}; the same command goes on from here",
            file=sys.stderr,
        )
    elif isinstance(error, Exception):
        _explain_failure(error)
    else:
        raise error


def _explain_failure(error: Exception) -> None:
    import traceback

    log = home() / "logs" / "failure.log"
    fault = describe_disk_fault(error)
    # there is no room for it on a full disk
    with contextlib.suppress(OSError) if fault else contextlib.nullcontext():
        log.write_text("".join(traceback.format_exception(error)))
    if fault:
        print(
            f"erpd: {one_line(fault)}, and the same command goes on from what is done",
            file=sys.stderr,
        )
        return
    story = one_line(f"{type(error).__name__}: {error}", 600)
    print(f"erpd: the run failed: {story}", file=sys.stderr)
    print(
        f"erpd: the whole story is in {log}; the same command goes on from what is done",
        file=sys.stderr,
    )
