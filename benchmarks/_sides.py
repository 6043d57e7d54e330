"""Runs processes that end with the deadline, among them the warm sides of a comparison.

A request to a side is one round of work.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from subprocess import DEVNULL, PIPE
from typing import Any

import psutil

from benchmarks._budget import Deadline, TimeUp
from benchmarks._pairs import Result
from tasks.grading.code import guard
from tasks.host.processes import Process

MARK = "side: "
"""Prefix of the lines of this protocol: libraries print to stdout too."""


def serve(work: Callable[[Any], Result]) -> None:
    """Serve rounds in a side's process: report ready, then answer each line on stdin, as JSON."""
    print(MARK + "{}", flush=True)
    for request in sys.stdin:
        print(MARK + json.dumps(work(json.loads(request))), flush=True)


@contextmanager
def started(
    arguments: Sequence[str], deadline: Deadline, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Context manager that runs `python ARGUMENTS`.

    The process and its children are stopped at the deadline, or when the block ends. The process is
    also stopped if this one is killed.
    """
    with subprocess.Popen(
        [sys.executable, *arguments],
        text=True,
        preexec_fn=partial(guard.prctl, guard.PR_SET_PDEATHSIG, signal.SIGTERM),
        **options,
    ) as process:
        tree = Process(pid=process.pid, created=psutil.Process(process.pid).create_time())
        alarm = threading.Timer(deadline.left, tree.stop)
        alarm.start()
        try:
            yield process
        finally:
            alarm.cancel()
            alarm.join()  # it may be stopping them
            tree.stop()


def output(arguments: Sequence[str], deadline: Deadline, **options: Any) -> str:
    """Run `python ARGUMENTS` to its end. Returns what it prints.

    **Raises:** TimeUp if the deadline ended it, CalledProcessError if it failed.
    """
    with started(arguments, deadline, **{"stdout": PIPE, **options}) as process:
        text, _ = process.communicate()
    if not deadline.left:
        raise TimeUp
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return text


class Side:
    """A process that serves; a call is a round."""

    def __init__(self, process: subprocess.Popen[str], deadline: Deadline) -> None:
        self._process, self._deadline = process, deadline

    def __call__(self, request: Any) -> Result:
        """Run one round. Raises TimeUp if the deadline ended it, RuntimeError if it failed."""
        self.ask(request)
        return self.answer()

    def ask(self, request: Any) -> None:
        """Begin a round."""
        assert self._process.stdin
        try:  # not through its buffer, which would fail again when it is closed
            os.write(self._process.stdin.fileno(), f"{json.dumps(request)}\n".encode())
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self) -> Result:
        """Wait for the end of a round, or at first until the side is ready."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(MARK):
                return dict(json.loads(line.removeprefix(MARK)))
        raise self._ended()

    def _ended(self) -> Exception:
        if not self._deadline.left:
            return TimeUp()
        command = " ".join(map(str, self._process.args))  # type: ignore[arg-type]
        return RuntimeError(f"{command} ended; run it by hand to see why")


@contextmanager
def side(module: str, *arguments: str, deadline: Deadline, **environment: str) -> Iterator[Side]:
    """Context manager that starts `python -m MODULE ARGUMENTS`, which serves."""
    with (
        tempfile.TemporaryDirectory(prefix="e-", ignore_cleanup_errors=True) as scratch,
        started(
            ["-m", module, *arguments],
            deadline,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={**os.environ, "TMPDIR": scratch, **environment},
        ) as process,
    ):
        yield Side(process, deadline)


@contextmanager
def both(
    module: str, ours: Sequence[str], peer: Sequence[str], deadline: Deadline
) -> Iterator[tuple[Side, Side]]:
    """Context manager that starts both sides and waits until they are ready.

    **Raises:** TimeUp if they are not ready in time.
    """
    with (
        side(module, *ours, deadline=deadline) as mine,
        side(module, *peer, deadline=deadline) as theirs,
    ):
        mine.answer(), theirs.answer()
        yield mine, theirs
