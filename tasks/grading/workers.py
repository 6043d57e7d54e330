"""Grades many answers in worker processes that can be killed.

A formula that hangs costs only its own deadline. The parent enforces deadlines with SIGKILL. It
does not use SIGALRM, which works only in a main thread and cannot interrupt C code, or threads,
which cannot be killed. So the grader behaves the same in the main program, in a Ray worker and in a
Prefect thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import get_args

from erpd_core.refs import Mode, Verdict
from tasks.grading.extract import EXTRACTORS
from tasks.grading.fast import quick_verdict
from tasks.host.machine import cores

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0
"""Seconds for a worker to import sympy on a busy machine; not part of any item's deadline."""
MAX_FAILED_STARTS = 3
"""Consecutive failed worker starts after which the grader gives up."""


class GraderError(RuntimeError):
    """Workers cannot be started (for example in a broken installation), so nothing is graded."""


@dataclass
class _Worker:
    """A child process and its current item."""

    process: subprocess.Popen[bytes]
    until: float
    """Monotonic time in seconds at which the process is killed."""
    item: int | None = None
    """Index of the item that it grades; None if idle."""
    ready: bool = False
    buffer: bytearray = field(default_factory=bytearray)

    @property
    def reader(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def end(self) -> None:
        """Kill and reap the process; safe to repeat."""
        if self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.process.wait()


class Grader:
    r"""A pool of grading workers. They start when an item first needs them and run until `close`.

    **Example:**
        with Grader(workers=2) as grader:
            grader.grade_many([("1/2", r"\\boxed{0.5}"), ("x+1", r"\\boxed{1+x}")])  # ["correct",
            "correct"]

    **Arguments:**
        workers: Maximum number of processes; None means one per core, at most 8.
        deadline: Wall-clock seconds per item.
        memory: Bytes of address space per worker.
    **Raises:** ValueError if `workers` or `deadline` is not positive.
    """

    def __init__(
        self, workers: int | None = None, deadline: float = 5.0, memory: int = 4 << 30
    ) -> None:
        if deadline <= 0 or (workers is not None and workers < 1):
            raise ValueError(f"deadline and workers must be positive, got {deadline} and {workers}")
        self.size = workers or min(8, cores())
        self.deadline = deadline
        self.memory = memory
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._lock = threading.Lock()  # one batch at a time; other threads wait
        self._closed = False

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the running workers."""
        return [worker.process.pid for worker in self._workers if worker.process.poll() is None]

    def close(self) -> None:
        """End all workers. The grader cannot be used afterwards."""
        self._closed = True
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def grade(self, gold: str, prediction: str, extractor: str = "auto") -> Verdict:
        """Grade one item."""
        return self.grade_many([(gold, prediction)], extractor)[0]

    def grade_many(
        self, pairs: Iterable[tuple[str, str]], extractor: str = "auto"
    ) -> list[Verdict]:
        """Grade (gold, prediction) pairs.

        **Returns:** The verdicts, in the order of the pairs. `timeout` is an item that missed its
            deadline or crashed its worker.
        **Raises:** ValueError for an empty gold or an unknown extractor, before any worker grades
            an item; GraderError if workers cannot be started; RuntimeError if the grader is closed.
        """
        if self._closed:
            raise RuntimeError("this Grader is closed; make a new one")
        known = (*EXTRACTORS, *get_args(Mode))
        if extractor not in known:
            raise ValueError(
                f"extractor (--mode) {extractor!r} is unknown; choose one of {', '.join(known)}"
            )
        pairs = list(pairs)
        verdicts: list[Verdict | None] = [
            quick_verdict(gold, prediction, extractor) for gold, prediction in pairs
        ]
        open_items = deque(index for index, verdict in enumerate(verdicts) if verdict is None)
        if open_items:
            with self._lock:
                try:
                    self._run(pairs, extractor, open_items, verdicts)
                except BaseException:
                    for worker in self._workers:
                        # The next batch does not know this item and must not read its verdict.
                        worker.end()
                    self._workers.clear()
                    raise
        return [verdict for verdict in verdicts if verdict is not None]

    def _run(
        self,
        pairs: list[tuple[str, str]],
        extractor: str,
        todo: deque[int],
        verdicts: list[Verdict | None],
    ) -> None:
        """Send items to workers and collect verdicts until none is left."""
        self._drop_dead()
        while todo or any(worker.item is not None for worker in self._workers):
            while len(self._workers) < min(
                self.size, len(todo) + sum(worker.item is not None for worker in self._workers)
            ):
                self._workers.append(self._start())
            for worker in list(self._workers):
                if todo and worker.ready and worker.item is None:
                    self._send(worker, todo, pairs, extractor)
            for worker in self._wait():
                self._receive(worker, verdicts)
            self._expire(verdicts)

    def _start(self) -> _Worker:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        # One BLAS thread: the workers already run in parallel, and the stack of each thread would
        # count against the memory limit.
        settings = {
            "PYTHONPATH": path,
            "PYTHONIOENCODING": "utf-8",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tasks.grading.worker_main", str(self.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | settings,
            start_new_session=True,  # Ctrl-C reaches only the parent, which ends the workers
        )
        return _Worker(process, until=time.monotonic() + START_SECONDS)

    def _send(
        self, worker: _Worker, todo: deque[int], pairs: list[tuple[str, str]], extractor: str
    ) -> None:
        index = todo.popleft()
        gold, prediction = pairs[index]
        line = json.dumps(
            {
                "gold": gold,
                "prediction": prediction,
                "extractor": extractor,
                "deadline": self.deadline,
            }
        )
        worker.item, worker.until = index, time.monotonic() + self.deadline
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.write(line.encode() + b"\n")
            worker.process.stdin.flush()
        except BrokenPipeError:
            worker.item = None  # the worker died while idle, so the item is not the cause
            todo.appendleft(index)
            self._lost(worker, [])

    def _wait(self) -> list[_Worker]:
        """Wait for output or the next deadline; return the workers with output to read."""
        busy = [worker for worker in self._workers if worker.item is not None or not worker.ready]
        if not busy:
            return []
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.reader, selectors.EVENT_READ, worker)
            patience = max(0.0, min(worker.until for worker in busy) - time.monotonic())
            return [key.data for key, _ in selector.select(patience)]

    def _receive(self, worker: _Worker, verdicts: list[Verdict | None]) -> None:
        piece = os.read(worker.reader, 65536)
        if not piece:
            self._lost(worker, verdicts)
            return
        worker.buffer += piece
        if not worker.buffer.endswith(b"\n"):
            return
        message = json.loads(bytes(worker.buffer))
        worker.buffer.clear()
        if "failed" in message:
            raise GraderError(
                f"a grading worker cannot start: {message['failed']}. Is math-verify installed in "
                f"{sys.executable}?"
            )
        if "ready" in message:
            worker.ready, self._failed_starts = True, 0
        elif worker.item is not None:
            verdicts[worker.item] = message["verdict"]
            worker.item = None

    def _lost(self, worker: _Worker, verdicts: list[Verdict | None]) -> None:
        """End a dead or overdue worker and mark its item as `timeout`.

        The next round of `_run` starts a replacement.

        **Raises:** GraderError after too many failed starts.
        """
        worker.end()
        self._workers.remove(worker)
        if worker.item is not None:
            verdicts[worker.item] = "timeout"
        elif not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise GraderError(
                    f"{self._failed_starts} grading workers ended before they were ready (memory "
                    f"limit {self.memory >> 20} MiB); "
                    f"try: {sys.executable} -c 'import math_verify'"
                )

    def _expire(self, verdicts: list[Verdict | None]) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.until <= now and (worker.item is not None or not worker.ready):
                self._lost(worker, verdicts)

    def _drop_dead(self) -> None:
        """Remove workers that died between batches; no item was lost with them."""
        for worker in list(self._workers):
            if worker.process.poll() is not None:
                worker.end()
                self._workers.remove(worker)
