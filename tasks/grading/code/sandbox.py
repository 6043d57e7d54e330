"""Controls one program in one sandbox: start, one input per case, resource checks, end."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Any, Literal

from tasks.grading.code import guard, levels
from tasks.grading.code.levels import Level, Limits

START_SECONDS = 60.0
"""Seconds for a runner to become ready on a busy machine; not part of any case's deadline."""
GRACE = 3.0
"""Seconds beyond a case's deadline after which the sandbox is killed.

This happens only if its runner has not ended the case.
"""
LOOK = 0.1
"""Seconds between two checks of memory and processes.

A sandbox can exceed its limits only by what it takes within this time.
"""
MOST = 64 << 20
"""Maximum bytes that a runner may announce; the runner is not trusted to keep the limits."""
PAGE = os.sysconf("SC_PAGE_SIZE")

End = Literal["exit", "time", "output", "lost"]


class SandboxError(RuntimeError):
    """A sandbox cannot be started, so the program is not graded."""


@dataclass(frozen=True)
class Ran:
    """How a case ended, its output and its result."""

    end: End
    """`exit`: by itself; `time`: out of time; `output`: over its output limit; `lost`: with its
    sandbox.
    """
    output: bytes = b""
    """The text that the program printed."""
    result: bytes = b""
    """The message that the process of the case reported."""


class Sandbox:
    """A runner at an isolation level, used as a context manager.

    It is closed after a case that ends `lost`. Raises SandboxError if the runner cannot be started.

    **Example:**
        with Sandbox("bubblewrap", "print(int(input()) + 1)", None, Limits(), slot=0) as sandbox:
            sandbox.run(b"41").output  # b"42\\n"
    """

    def __init__(
        self, level: Level, code: str, fn_name: str | None, limits: Limits, slot: int
    ) -> None:
        self.limits = limits
        self._start = levels.start(level, limits, slot)
        private = self._start.user is not None or level != "limits"
        job = limits.model_dump() | {
            "code": code,
            "fn_name": fn_name,
            "user": self._start.user,
            "landlock": self._start.landlock,
            "packages": self._start.packages,
            # The kernel counts processes per user. Without its own user, the sandbox shares the
            # count with the processes that this user already has.
            "processes": limits.processes + (0 if private else tasks_of(os.geteuid())),
        }
        self._buffer = bytearray()
        self._process = subprocess.Popen(
            self._start.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=levels.ENVIRONMENT,
            cwd=self._start.folder or "/",
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        try:
            until = time.monotonic() + START_SECONDS
            self._send(json.dumps(job).encode() + b"\n", until)
            if self._line(until) != {"ready": True}:
                raise SandboxError(
                    f'a program cannot be started at isolation level "{level}": '
                    f"{' '.join(self._start.command[3:12])} ..."
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def open(self) -> bool:
        """Whether the sandbox can run another case."""
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        """Id of the first process; all others are its descendants."""
        return self._process.pid

    def run(self, data: bytes) -> Ran:
        """Run the program on `data` in a fresh process.

        All processes that it started have ended when this returns.
        """
        until = time.monotonic() + self.limits.deadline + GRACE
        ran = Ran("lost")
        if self._send(json.dumps({"size": len(data)}).encode() + b"\n" + data, until):
            ran = self._answer(until)
        if ran.end == "lost":
            late = time.monotonic() >= until
            self.close()
            return Ran("time") if late else ran
        return ran

    def _answer(self, until: float) -> Ran:
        header = self._line(until)
        end, printed, reported = header.get("end"), header.get("output"), header.get("result")
        if (
            end in ("exit", "time", "output")
            and isinstance(printed, int)
            and isinstance(reported, int)
            and min(printed, reported) >= 0
        ):
            body = (
                self._bytes(printed + reported, until) if max(printed, reported) <= MOST else None
            )
            if body is not None:
                return Ran(end, body[:printed], body[printed:])
        return Ran("lost")

    def close(self) -> None:
        """Kill all processes of the sandbox and wait for their end; safe to repeat."""
        if self._process.poll() is None or self._process.stdin:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.close()  # the runner then kills all it started and ends
            if self._start.folder is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(2.0)
                self._end_stragglers()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process.stdout.close()
            self._process.stdin = None
        if self._start.folder is not None:
            shutil.rmtree(self._start.folder, ignore_errors=True)

    def _end_stragglers(self) -> None:
        """Kill descendants until none is left, where no namespace ends with its first process."""
        while self._process.poll() is None and (victims := guard.descendants(self._process.pid)):
            for victim in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            time.sleep(0.005)
            if all(_is_zombie(victim) for victim in victims):
                return

    def _send(self, data: bytes, until: float) -> bool:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._in, view) :]
            except BlockingIOError:
                if not self._wait(self._in, selectors.EVENT_WRITE, until):
                    return False
            except BrokenPipeError:
                return False
        return True

    def _line(self, until: float) -> dict[str, Any]:
        """The next JSON line, or `{}` for anything else: the other side is not trusted."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > 65536 or not self._fill(until):
                return {}
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return {}
        return message if isinstance(message, dict) else {}

    def _bytes(self, count: int, until: float) -> bytes | None:
        while len(self._buffer) < count:
            if not self._fill(until):
                return None
        piece = bytes(self._buffer[:count])
        del self._buffer[:count]
        return piece

    def _fill(self, until: float) -> bool:
        """Read more bytes into the buffer.

        **Returns:** False at the end of the stream, at the deadline, or over a resource limit.
        """
        while True:
            try:
                piece = os.read(self._out, 1 << 20)
            except BlockingIOError:
                if not self._wait(self._out, selectors.EVENT_READ, until):
                    return False
                continue
            self._buffer += piece
            return bool(piece)

    def _wait(self, descriptor: int, event: int, until: float) -> bool:
        """Wait for a descriptor, and check the resource use of the sandbox meanwhile.

        **Returns:** False at the deadline or over a resource limit.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, event)
            while (left := until - time.monotonic()) > 0:
                if selector.select(min(left, LOOK)):
                    return True
                if self._uses_too_much():
                    return False
        return False

    def _uses_too_much(self) -> bool:
        """Whether the sandbox exceeds its limit of processes, resident memory or shared disk.

        8 processes more than the limit are allowed.
        """
        pids = guard.descendants(self._process.pid)
        if len(pids) > self.limits.processes + 8:
            return True
        if (
            sum(map(_resident, pids)) > self.limits.memory
            and sum(map(_own, pids)) > self.limits.memory
        ):
            return True
        return (
            self._start.folder is not None
            and _on_disk(self._start.folder, self.limits.temporary) > self.limits.temporary
        )


def tasks_of(user: int) -> int:
    """Current number of processes and threads of a user on this machine."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == user:
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count


def _resident(pid: int) -> int:
    """Resident bytes of a process, shared memory included."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def _own(pid: int) -> int:
    """Resident bytes, with memory shared by several processes divided among them.

    Forks share most of their memory. Slower than `_resident`.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return _resident(pid)


def _on_disk(folder: str, enough: int) -> int:
    """Bytes below `folder`; each name counts as at least one block.

    Counting stops above `enough`, so such a sum may be incomplete.
    """
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += max(4096, 512 * os.lstat(os.path.join(place, name)).st_blocks)
            if total > enough:
                return total
        total += 4096
    return total


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
