"""One grading worker: `python -P -m tasks.grading.worker_main MEMORY_BYTES`.

`workers.Grader` starts and kills it; do not start it by hand. It reads one JSON line per item from
stdin and writes one JSON line to a private copy of stdout, so that text printed by a library is
never taken for a verdict. It ends at the end of stdin, which it also sees when its parent dies.
"""

from __future__ import annotations

import json
import os
import resource
import sys

CPU_GRACE = 2
"""CPU seconds beyond an item's deadline after which the kernel kills the worker.

This matters only if the parent, which should have killed it, is gone.
"""


def limit_memory(limit: int) -> None:
    """Limit the address space to `limit` bytes; a value of 0 or less sets no limit.

    A formula that needs gigabytes then ends this worker, not the machine.
    """
    if limit > 0:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(
            resource.RLIMIT_AS,
            (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard),
        )


def limit_cpu(deadline: float) -> None:
    """Limit the CPU time for the current item; `deadline` is in seconds.

    SIGXCPU ends the process even inside a long C call, where no Python signal handler or thread
    runs. PR_SET_PDEATHSIG is no alternative: the kernel sends it when the THREAD that started the
    worker ends, and Prefect and Ray start threads.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime + deadline) + CPU_GRACE
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(
        resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
    )


def main() -> None:
    """Grade items until stdin ends."""
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
            return  # the parent sees that this worker ended and starts a new one
        except Exception:
            # There is an answer, but it cannot be compared with the gold, so it is not known to be
            # equal.
            verdict = "wrong"
        reply({"verdict": verdict})


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)
