"""Malicious programs: none is judged correct, does harm or leaves anything behind.

Runs at every isolation level that this machine supports. The expected output of every case, or
result of a function, is 42. Whatever a program can find or forge without computing it must not be
enough.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from isolation import require

from tasks.grading.code import guard, probe
from tasks.grading.code.cases import read_tests
from tasks.grading.code.grader import CodeGrader, Outcome
from tasks.grading.code.levels import LEVELS, Level, Limits
from tasks.grading.code.sandbox import Sandbox, tasks_of

ROOT = Path(__file__).parents[2]
LIMITS = Limits(deadline=4.0, after_failure=1.0, memory=512 << 20)


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest) -> Level:
    require(request.param)
    assert probe.holes(request.param) == []
    return request.param


@pytest.fixture
def grader(level: Level) -> Iterator[CodeGrader]:
    before = sandboxed()
    with CodeGrader(workers=2, limits=LIMITS, level=level) as grader:
        yield grader
        assert left_over(before) == set()


def left_over(before: set[int]) -> set[int]:
    """New sandboxed processes that are still there after up to 5 seconds."""
    until = time.monotonic() + 5
    while (left := sandboxed() - before) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def other_test_processes() -> set[int]:
    """The test processes that run beside this one, with sandboxes of their own."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return set()
    beside = psutil.Process().parent()
    assert beside is not None
    return {process.pid for process in beside.children()} - {os.getpid()}


def started_by(pid: int, processes: set[int]) -> bool:
    try:
        return any(parent.pid in processes for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return False


def sandboxed() -> set[int]:
    """Ids of live runners and of their forks, which have the same command line.

    Those that another test process started are not among them; those that nobody owns are.
    """
    pids, others = set(), other_test_processes()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if b"ModuleType('tasks.grading.code')" in words and b"pytest" not in words and state != "Z":
            pids.add(int(folder.name))
    return {pid for pid in pids if not started_by(pid, others)}


def verdict(grader: CodeGrader, code: str, fn_name: str | None = None) -> str:
    (outcome,) = grader.run(
        [(code, read_tests({"inputs": ["1"], "outputs": ["42"], "fn_name": fn_name}))]
    )
    assert (outcome.verdict == "correct") == bool(outcome.passed)
    return outcome.verdict


BOMBS = {
    "fork bomb": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        {"timeout", "error"},
    ),
    "thread bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, "
        "args=(99,)).start()",
        {"error"},
    ),
    "memory": ("x = []\nwhile True: x.append(bytearray(10**7))", {"error"}),
    "memory of many": (
        "import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        x = "
        "bytearray(b'x') * (100 << 20)\n        time.sleep(99)\n"
        "time.sleep(99)",
        {"error"},
    ),
    "endless output": ("while True: print('x' * 1000)", {"error"}),
    "endless error output": (
        "import sys\nwhile True: print('x' * 1000, file=sys.stderr)",
        {"timeout"},
    ),
    "endless result": ("import os\nwhile True: os.write(3, b'x' * 65536)", {"error"}),
    "large file": ("f = open('f', 'wb')\nwhile True: f.write(bytes(1 << 20))", {"error"}),
    "many files": (
        "n = 0\nwhile True:\n    n += 1\n    open(f'f{n}', 'wb').write(bytes(8 << 20))",
        {"error", "timeout"},
    ),
    "open files": ("x = []\nwhile True: x.append(open('f', 'w'))", {"error"}),
    "recursion": ("def f(n): return f(n + 1) + 1\nprint(f(0))", {"error"}),
    "recursion without limit": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return max(f(n + 1), 1)\nf(0)",
        {"error", "timeout"},
    ),
    "deep source": ("(" * 100_000 + ")" * 100_000, {"error"}),
    "big power": ("print(10**10**10)", {"error", "timeout"}),
    "busy": ("while True: pass", {"timeout"}),
    "sleep": ("import time\ntime.sleep(99)", {"timeout"}),
    "another program": ("import os\nos.execv('/usr/bin/sleep', ['sleep', '99'])", {"timeout"}),
    "signals off": (
        "import signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n "
        "   except (OSError, ValueError): pass\n"
        "while True: time.sleep(1)",
        {"timeout"},
    ),
}


@pytest.mark.slow
def test_bombs_are_contained(grader: CodeGrader) -> None:
    tests = read_tests({"inputs": ["1"], "outputs": ["42"]})
    began = time.monotonic()
    outcomes = dict(
        zip(BOMBS, grader.run([(code, tests) for code, _ in BOMBS.values()]), strict=True)
    )
    assert {
        name: outcome for name, outcome in outcomes.items() if outcome.verdict not in BOMBS[name][1]
    } == {}
    assert time.monotonic() - began < len(BOMBS) * (LIMITS.deadline + 10)
    assert verdict(grader, "print(42)") == "correct"


SIGNALS = [
    "import os, signal\nos.kill({pid}, signal.SIGKILL)",
    "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)",
    "import os, signal\nos.killpg(0, signal.SIGKILL)",
    "import os, signal\nos.kill(1, signal.SIGKILL)",
    "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'kill -9 {pid}; kill -9 -1'])\nprint(41)",
    "import ctypes, os\nctypes.CDLL(None).ptrace(16, os.getppid(), 0, "
    "0)\nctypes.CDLL(None).kill(os.getppid(), 9)\nprint(41)",
    "import resource, os\nresource.prlimit({pid}, resource.RLIMIT_CPU, (1, 1))",
    "import os\nos.setpriority(os.PRIO_PROCESS, {pid}, 19)\nprint(41)",
]


def test_signals_reach_nobody(grader: CodeGrader) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        code = [
            attack.replace("{pid}", str(pid))
            for attack in SIGNALS
            for pid in (os.getpid(), bystander.pid)
        ]
        outcomes = grader.run(
            [(attack, read_tests({"inputs": ["1"], "outputs": ["42"]})) for attack in code]
        )
        assert {outcome.verdict for outcome in outcomes} <= {"wrong", "error"}
        assert bystander.poll() is None
        assert bystander.communicate(b"\n") and bystander.returncode == 0
    assert verdict(grader, "print(42)") == "correct"


def test_nothing_outside_can_be_written_or_read(grader: CodeGrader, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o777)
    secret = tmp_path / "answers.jsonl"
    secret.write_text("42")
    secret.chmod(0o666)
    places = [
        str(secret),
        str(tmp_path / "new"),
        "/tmp/../etc/new",
        str(ROOT / "README.md"),
        "/dev/shm/new",
        "/usr/new",
        str(Path.home() / "new"),
        "/new",
    ]
    attack = f"""
import os
done = []
for place in {places!r}:
    for action in (lambda: open(place).read(), lambda: open(place, "a").close(), lambda: os.unlink(place), lambda: os.mkdir(place + "d"),
                   lambda: os.chmod(place, 0), lambda: os.utime(place), lambda: os.symlink(place, place + "l"),
                   lambda: os.rename(place, "x")):
        try:
            action()
            done.append(place)
        except OSError:
            pass
print(done)
"""  # noqa: E501
    with Sandbox(level_of(grader), attack, None, LIMITS, slot=0) as sandbox:
        ran = sandbox.run(b"")
    assert ran.output.decode().strip() == "[]"
    assert [path.name for path in tmp_path.iterdir()] == [
        "answers.jsonl"
    ] and secret.read_text() == "42"


def level_of(grader: CodeGrader) -> Level:
    assert grader._level is not None
    return grader._level


def test_the_expected_output_is_nowhere_to_be_found(grader: CodeGrader) -> None:
    """The attack searches all memory, files, environments and descriptors that it can reach, and
    prints what looks like an answer.
    """
    attack = r"""
import gc, os, re, sys
found = set()
def look(text):
    found.update(re.findall(rb"expected-\d\d\d+", text if isinstance(text, bytes) else str(text).encode("utf-8", "replace")))
for thing in gc.get_objects():
    try: look(repr(thing))
    except Exception: pass
frame = sys._getframe()
while frame:
    look({**frame.f_globals, **frame.f_locals}); frame = frame.f_back
look(os.environ); look(sys.argv); look(sys.orig_argv)
for fd in range(0, 300):
    try: os.set_blocking(fd, False); look(os.read(fd, 1 << 20))
    except OSError: pass
for top in ("/proc", "/tmp", ".", "/dev", "/etc", os.path.expanduser("~")):
    for folder, _, names in os.walk(top):
        for name in names[:200]:
            try:
                fd = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NONBLOCK)
                look(os.read(fd, 1 << 20)); os.close(fd)
            except OSError: pass
for pid in {1, os.getppid(), os.getpid()}:
    try:
        for line in open(f"/proc/{pid}/maps"):
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            with open(f"/proc/{pid}/mem", "rb") as memory:
                memory.seek(start); look(memory.read(end - start))
    except (OSError, ValueError, OverflowError): pass
print("\n".join(x.decode() for x in found) or "nothing")
"""  # noqa: E501
    expected = f"expected-{int.from_bytes(os.urandom(6), 'big') + 1000}"
    # It has much to read and must have time to read everything.
    patient = LIMITS.model_copy(update={"deadline": 60.0, "after_failure": 60.0})
    with CodeGrader(workers=1, limits=patient, level=level_of(grader)) as searched:
        (outcome,) = searched.run(
            [(attack, read_tests({"inputs": ["1", "2"], "outputs": [expected, expected]}))]
        )
    assert outcome == Outcome("wrong", 0, 2, level_of(grader))
    with Sandbox(level_of(grader), attack, None, patient, slot=0) as sandbox:
        assert sandbox.run(b"").output == b"nothing\n"


FORGED = r"""
import json, os
record = json.dumps({"end": "exit", "output": 2, "result": 14}).encode() + b'\n41{"done": true}'
for fd in range(256):
    for data in (b'{"done": true}', record, b'{"ready": true}\n', b'{"value": 41}', b'{"verdict": "correct", "passed": 1}'):
        try: os.write(fd, data)
        except OSError: pass
"""  # noqa: E501
TRICKS = {
    "exit without output": "import os\nos._exit(0)",
    "exit after the right output": "import os\nprint(42, flush=True)\nos._exit(0)",
    "abort after the right output": "import os\nprint(42, flush=True)\nos.abort()",
    "exception after the right output": "print(42)\nraise ValueError",
    "forged records": FORGED,
    "forged records and exit": FORGED + "os._exit(0)",
    "closed stdout": "import os, sys\nsys.stdout.close()\nos.close(1)",
    "every descriptor closed": "import os\nos.closerange(0, 1000)\nprint(42)",
    "descriptors mixed": "import os\nfor fd in range(3): os.dup2(3, fd)\nprint(42)",
    "patched modules": (
        "import builtins, json, os, sys\nclass Yes(str):\n    def __eq__(self, other): return "
        "True\n    def __hash__(self): return 0\n"
        "builtins.str = Yes\njson.loads = json.dumps = lambda *a, **k: Yes()\nos.write = lambda "
        "fd, data: len(data)\n"
        "sys.stdout.write = lambda text: len(text)\nos._exit = lambda code: None\nsys.exit = "
        "lambda *a: None"
    ),
    "patched caller": (
        "import sys\nframe = sys._getframe()\nwhile frame:\n    for space in (frame.f_globals, "
        "frame.f_locals):\n"
        "        for name in ('same_output', 'judge_case', 'expected', 'read_tests'):\n           "
        " space[name] = lambda *a, **k: True\n"
        "    frame = frame.f_back"
    ),
    "daemon": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        "
        "while True:\n            time.sleep(0.05)\n"
        "            try: os.write(1, b'42\\n'); os.write(3, b'{\"done\": true}')\n            "
        "except OSError: pass\n    os._exit(0)\n"
        "print(41)"
    ),
    "child answers later": "import os, time\nif os.fork() == 0:\n    time.sleep(1)\n    "
    "print(42)\n",
}


@pytest.mark.parametrize("name", TRICKS)
def test_tricks_are_not_correct(grader: CodeGrader, name: str) -> None:
    assert verdict(grader, TRICKS[name]) in {"wrong", "error"}


FUNCTION_TRICKS = {
    "equal to everything": "class Yes:\n    def __eq__(self, other): return True\ndef f(x): return "
    "Yes()",
    "number equal to everything": (
        "class Yes(int):\n    def __eq__(self, other): return True\n    def __repr__(self): "
        "return '42'\ndef f(x): return Yes(41)"
    ),
    "array of everything": "class Yes:\n    def tolist(self): return self\ndef f(x): return Yes()",
    "forged": FORGED + "def f(x): return 41",
    "forged and exit": "import os\ndef f(x):\n    os.write(3, b'{\"value\": 41}')\n    os._exit(0)",
    "forged twice": "import os\ndef f(x):\n    os.write(3, b'{\"value\": 42}')\n    return 42",
    "exit": "import sys\ndef f(x): sys.exit(0)",
    "printed": "def f(x): print(42)",
    "loop": "def f(x):\n    x = []\n    x.append(x)\n    return x",
    "deep": "def f(x):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "generator": "def f(x): yield 42",
}


@pytest.mark.parametrize("name", FUNCTION_TRICKS)
def test_tricks_of_functions_are_not_correct(grader: CodeGrader, name: str) -> None:
    assert verdict(grader, FUNCTION_TRICKS[name], fn_name="f") in {"wrong", "error"}


def test_no_network(grader: CodeGrader) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        attack = (
            f"import socket\nsocket.create_connection(('127.0.0.1', "
            f"{server.getsockname()[1]}), 2)\nprint(42)"
        )
        assert verdict(grader, attack) == "error"
        with pytest.raises(TimeoutError):
            server.accept()


def test_what_a_case_starts_ends_with_it(level: Level) -> None:
    code = (
        "import os, time\nif input() == 'fork':\n    for _ in range(5):\n        if os.fork() "
        "== 0: os.setsid(), time.sleep(99)\n"
    )
    others = sandboxed()
    with Sandbox(level, code, None, LIMITS, slot=0) as sandbox:
        sandbox.run(b"no")
        before = len(guard.descendants(sandbox.pid))
        assert sandbox.run(b"fork").end == "exit"
        assert len(guard.descendants(sandbox.pid)) == before
    assert left_over(others) == set()


@pytest.mark.parametrize("busy", [False, True])
def test_a_sandbox_ends_with_a_parent_that_was_killed(level: Level, busy: bool) -> None:
    code = (
        "import sys\nfrom tasks.grading.code.sandbox import Sandbox, Limits\n"
        f"s = Sandbox({level!r}, 'import os, time\\nos.fork()\\ntime.sleep(99)', None, "
        f"Limits(deadline=60), 0)\n"
        "print('up', flush=True)\n" + ("s.run(b'')" if busy else "input()")
    )
    before = sandboxed()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        time.sleep(0.5)
        assert sandboxed() - before
        parent.send_signal(signal.SIGKILL)
    assert left_over(before) == set()


def test_the_number_of_processes_is_the_sandbox_s_own(level: Level) -> None:
    """Other processes of the same user do not count."""
    code = (
        "import os, time\nn = 0\ntry:\n    while True:\n        if os.fork() == 0: "
        "time.sleep(99)\n        n += 1\nexcept OSError: print(n)"
    )
    with Sandbox(level, code, None, LIMITS, slot=0) as sandbox:
        forked = int(sandbox.run(b"").output)
    most = LIMITS.processes + (
        8 if level != "limits" or os.geteuid() == 0 else tasks_of(os.geteuid()) // 2
    )
    assert LIMITS.processes // 2 < forked <= most


def test_reports_say_what_was_measured() -> None:
    level, name = probe.best()
    assert name.startswith(level)
    with CodeGrader(workers=1) as grader:
        (outcome,) = grader.run([("print(42)", read_tests({"inputs": ["1"], "outputs": ["42"]}))])
    assert json.loads(json.dumps(outcome.__dict__)) == {
        "verdict": "correct",
        "passed": 1,
        "total": 1,
        "isolation": name,
    }
