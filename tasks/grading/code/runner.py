"""The process that runs the test cases of one program inside a sandbox.

Standard library only. `sandbox.Sandbox` starts it; do not start it by hand.

It prepares a Python with the usual imports once and forks it for every case. So a case starts in a
millisecond, in its own process that no earlier case has touched. The runner knows the inputs but
never the expected outputs: a program that takes over this process can still only guess.

Protocol, over private copies of stdin and stdout:

- In: one JSON line (`Job`), then `{"size": n}` and n bytes of input for each case.
- Out: `{"ready": true}`, then for each case `{"end": ..., "output": n, "result": m}` and n + m
  bytes.
"""

import atexit
import builtins
import contextlib
import gc
import json
import os
import platform
import select
import signal
import sys
import threading
import time
from typing import Any, NoReturn

from tasks.grading.code import guard

# LiveCodeBench puts these before every program (its lcb_runner/evaluation/testing_util.py).
MODULES = (
    *(
        "string",
        "re",
        "datetime",
        "collections",
        "heapq",
        "bisect",
        "copy",
        "math",
        "random",
        "statistics",
        "itertools",
    ),
    *("functools", "operator", "io", "sys", "json"),
)
PREAMBLE = "\n".join(
    [f"from {name} import *" for name in (*MODULES, "builtins", "typing")]
    + [f"import {name}" for name in MODULES]
)
RECURSION = 50_000
RESULT = 3
"""File descriptor on which a case reports its result."""
MAX_RESULT = 16 << 20
"""Maximum bytes of a result."""

Job = dict[str, Any]
"""The program, its limits and its start settings, as sent by `Sandbox`."""


def main() -> None:
    """Run cases until stdin ends."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    job: Job = json.loads(requests.readline())
    become(job)
    namespace: dict[str, Any] = {}
    exec(PREAMBLE, namespace)
    sys.path += job["packages"]
    guard.calls_filter(platform.machine())  # computed once and cached for all cases
    gc.collect()
    gc.freeze()  # so that garbage collection in a case does not copy shared pages
    os.write(replies, b'{"ready": true}\n')
    while line := requests.readline():
        data = requests.read(json.loads(line)["size"])
        end, output, result = run_case(job, namespace, data, requests.fileno())
        header = (
            json.dumps({"end": end, "output": len(output), "result": len(result)}).encode() + b"\n"
        )
        send(replies, header + output + result)


def become(job: Job) -> None:
    """Drop root, and make this process unreadable for its children."""
    guard.prctl(guard.PR_SET_CHILD_SUBREAPER, 1)
    if job["user"] is not None:
        os.setgroups([])
        os.setresgid(job["user"], job["user"], job["user"])
        os.setresuid(job["user"], job["user"], job["user"])
    # The death of a namespace's first process ends all others. Without a namespace, this process
    # must survive its parent to end them (`collect`).
    if os.getpid() == 1:
        # set after the change of user, which clears it
        guard.prctl(guard.PR_SET_PDEATHSIG, signal.SIGKILL)
    guard.prctl(guard.PR_SET_DUMPABLE, 0)
    guard.prctl(guard.PR_SET_NO_NEW_PRIVS, 1)


def send(target: int, data: bytes) -> None:
    """Write all of `data` to a file descriptor."""
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def run_case(
    job: Job, namespace: dict[str, Any], data: bytes, parent: int
) -> tuple[str, bytes, bytes]:
    """Run one case in a forked process, then kill and remove everything that it left.

    **Returns:** How the case ended (`exit`, `time`, `output`), its output, and its message on
        `RESULT`.
    """
    source = os.memfd_create("input")
    send(source, data)
    os.lseek(source, 0, os.SEEK_SET)
    output, result = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            case_main(job, namespace, source, output[1], result[1])
        finally:
            os._exit(1)
    for descriptor in (source, output[1], result[1]):
        os.close(descriptor)
    try:
        return collect(job, pid, output[0], result[0], parent)
    finally:
        kill_all()
        clean()
        os.close(output[0])
        os.close(result[0])


def collect(job: Job, pid: int, output: int, result: int, parent: int) -> tuple[str, bytes, bytes]:
    """Read both pipes until the process of the case ends.

    Later output of its children is not awaited. If the parent is gone, this kills everything and
    exits.
    """
    until = time.monotonic() + job["deadline"]
    kept = {output: bytearray(), result: bytearray()}
    capacity = {output: job["output"], result: MAX_RESULT}
    ended = os.pidfd_open(pid)
    poll = select.poll()
    for descriptor in (output, result, ended):
        poll.register(descriptor, select.POLLIN)
        os.set_blocking(descriptor, False)
    poll.register(parent, 0)  # reports only that the other side is gone
    end = ""
    while not end:
        left = until - time.monotonic()
        ready = [descriptor for descriptor, _ in poll.poll(left * 1000)] if left > 0 else []
        if parent in ready:
            kill_all()
            os._exit(0)
        end = "time" if not ready else "exit" if ended in ready else ""
        for descriptor in (output, result):
            if descriptor in ready and not take(
                descriptor, kept[descriptor], capacity[descriptor], everything=end == "exit"
            ):
                poll.unregister(descriptor)  # closed at the other end
            if len(kept[descriptor]) > capacity[descriptor]:
                end = "output"
    os.close(ended)
    return end, bytes(kept[output][: capacity[output]]), bytes(kept[result][: capacity[result]])


def take(descriptor: int, kept: bytearray, room: int, everything: bool) -> bool:
    """Read available data from a pipe into `kept`, until it exceeds `room` bytes.

    Without `everything`, at most one piece is read.

    **Returns:** False at the end of the pipe.
    """
    while len(kept) <= room:
        try:
            piece = os.read(descriptor, 1 << 20)
        except BlockingIOError:
            return True
        kept += piece
        if not piece or not everything:
            return bool(piece)
    return True


def kill_all() -> None:
    """Kill and reap all processes that cases have started."""
    while True:
        # -1: all processes of this pid namespace except the first
        victims = guard.descendants(os.getpid()) if os.getpid() != 1 else [-1]
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def clean() -> None:
    """Remove all files of the case from its temporary folder before the next case."""
    here, emptied = os.stat(".").st_dev, list[str]()
    for folder, folders, names in os.walk("."):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        # A folder on another device is one of the machine that the sandbox shows below /tmp.
        folders[:] = [
            name
            for name in folders
            if name not in links and os.stat(os.path.join(folder, name)).st_dev == here
        ]
        emptied += [os.path.join(folder, name) for name in folders]
        for name in (*names, *links):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))
    for folder in reversed(emptied):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def case_main(
    job: Job, namespace: dict[str, Any], source: int, output: int, result: int
) -> NoReturn:
    """Run one case in its own process.

    The case counts as finished only with the message that this function writes to `RESULT` at the
    end. A program that ends the process itself sends none.
    """
    leave, write = os._exit, os.write  # a program can replace attributes of modules, but not these
    os.dup2(source, 0)
    os.dup2(output, 1)
    if result != RESULT:
        os.dup2(result, RESULT)
    os.closerange(RESULT + 1, 4096)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="replace", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = stdout  # type: ignore[misc]
    sys.argv = ["program"]
    namespace |= {
        "stdin": sys.stdin,
        "stdout": sys.stdout,
        "argv": sys.argv,
        "exit": sys.exit,
        "quit": sys.exit,
    }
    confine(job)

    try:
        message = call(job, namespace) if job["fn_name"] else run(job, namespace)
    except BaseException:
        leave(1)
    # the program may have closed stdout
    with contextlib.suppress(ValueError, OSError):
        stdout.flush()
    view = memoryview(message.encode())
    while view:
        view = view[write(RESULT, view) :]
    leave(0)


def confine(job: Job) -> None:
    """Set the limits of one case. The program cannot widen them afterwards."""
    guard.prctl(guard.PR_SET_DUMPABLE, 1)
    guard.prctl(guard.PR_SET_PDEATHSIG, signal.SIGKILL)
    guard.limit(
        CORE=0,
        AS=job["memory"],
        DATA=job["memory"],
        FSIZE=job["file_size"],
        NOFILE=job["files"],
        NPROC=job["processes"],
    )
    guard.limit(CPU=int(job["deadline"]) + 2, MEMLOCK=0, MSGQUEUE=0)
    if job["landlock"]:
        guard.restrict_files(job["landlock"], ["."])
    guard.restrict_calls()
    sys.setrecursionlimit(RECURSION)
    # the usual size; by default each thread would reserve as much as the deep main stack
    threading.stack_size(8 << 20)


def run(job: Job, namespace: dict[str, Any]) -> str:
    """Run a program that reads stdin and writes stdout, as `__main__`.

    As in LiveCodeBench, any `sys.exit` is a normal end.
    """
    namespace["__name__"] = "__main__"
    namespace["open"] = builtins.open = with_stdin(open)
    sys.modules["__main__"].__dict__.update(namespace)
    try:
        exec(compile(job["code"], "program", "exec"), sys.modules["__main__"].__dict__)
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
    except SystemExit:
        pass
    atexit._run_exitfuncs()
    return '{"done": true}'


def with_stdin(real: Any) -> Any:
    """Wrap `open` to support /dev/stdin, a link into /proc, which the sandbox does not have."""

    def opened(file: Any, *arguments: Any, **options: Any) -> Any:
        return real(0 if file == "/dev/stdin" else file, *arguments, **options)

    return opened


def call(job: Job, namespace: dict[str, Any]) -> str:
    """Call a method of class `Solution`, or a function, with the arguments from stdin.

    **Returns:** JSON with the returned value, or with `not_json` if JSON cannot represent it.
    """
    dump = json.dumps
    arguments = json.loads(sys.stdin.read())
    namespace["__name__"] = "solution"
    exec(compile(job["code"], "program", "exec"), namespace)
    holder = namespace["Solution"]() if "class Solution" in job["code"] else None
    function = namespace[job["fn_name"]] if holder is None else getattr(holder, job["fn_name"])
    value = function(*arguments)
    try:
        return '{"value": ' + dump(value, default=plain) + "}"
    except (TypeError, ValueError):
        return '{"not_json": true}'


def plain(value: Any) -> Any:
    """Convert numbers and arrays of numpy to Python values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError


if __name__ == "__main__":
    main()
