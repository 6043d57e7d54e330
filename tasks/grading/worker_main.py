"""One grading worker: `python -P -m tasks.grading.worker_main MEMORY_BYTES`. Started and killed by
`workers.Grader`, never by hand.

It reads one JSON line per item on stdin and answers one JSON line on a private copy of stdout, so
that nothing a library prints can be taken for an answer. It ends at the end of stdin, which is what
it sees when its parent is gone.
"""

from __future__ import annotations

import json
import os
import resource
import sys

CPU_GRACE = 2
"""Seconds of CPU beyond an item's deadline after which the kernel ends the worker, if the parent
that should have done so is gone.
"""


def limit_memory(limit: int) -> None:
    """An address-space limit, so that a formula of gigabytes ends this worker and not the
    machine.
    """
    if limit > 0:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(
            resource.RLIMIT_AS,
            (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard),
        )


def limit_cpu(deadline: float) -> None:
    """A CPU limit for the item at hand (SIGXCPU ends the process even inside a long C call, where
    no Python signal handler or thread runs).

    This is why there is no PR_SET_PDEATHSIG: that signal is sent when the parent's starting THREAD
    ends, and Prefect and Ray start threads.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime + deadline) + CPU_GRACE
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(
        resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
    )


def main() -> None:
    """Serve until stdin ends."""
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    limit_memory(int(sys.argv[1]))
    sys.setrecursionlimit(3000)

    def reply(message: dict[str, object]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        import math_verify  # noqa: F401  loaded before "ready", so that no item pays for it

        from tasks.grading.math import grade_one
    except Exception as error:
        reply({"failed": f"{type(error).__name__}: {error}"})
        return
    reply({"ready": True})
    for line in requests:
        item = json.loads(line)
        limit_cpu(item["deadline"])
        try:
            verdict = grade_one(item["gold"], item["prediction"], item["extractor"])
        except MemoryError:
            return  # the parent sees the end of this worker and starts a clean one
        except Exception:
            # it has an answer, which cannot be compared with the gold: not equal as far as anyone
            # can tell
            verdict = "wrong"
        reply({"verdict": verdict})


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)
