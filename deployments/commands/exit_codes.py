"""Exit code and message of a foreground run that fails or is stopped."""

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
    """Context manager that reports an exception of the run and exits with code 1.

    One line reports a stop (Ctrl-C, SIGTERM), a numerical fault or a disk fault. Two lines report
    any other failure; its traceback goes to a file.
    """
    # SIGTERM raises KeyboardInterrupt, so that it gets the same cleanup as Ctrl-C
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
            f"erpd: {one_line(why_stopped() or 'interrupted')}; rerun the same command to resume",
            file=sys.stderr,
        )
    elif isinstance(error, Fault):
        print(
            f"erpd: the run ends: {one_line(str(error))}; rerun the same command to resume",
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
    # a full disk may have no space for the log
    with contextlib.suppress(OSError) if fault else contextlib.nullcontext():
        log.write_text("".join(traceback.format_exception(error)))
    if fault:
        print(
            f"erpd: {one_line(fault)}, then rerun the same command to resume",
            file=sys.stderr,
        )
        return
    reason = one_line(f"{type(error).__name__}: {error}", 600)
    print(f"erpd: the run failed: {reason}", file=sys.stderr)
    print(
        f"erpd: full traceback in {log}; rerun the same command to resume",
        file=sys.stderr,
    )
