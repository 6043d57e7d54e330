"""Isolation levels: for each, the command that starts a runner in it. Which of them this machine
can give is measured in `probe.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from erpd_core.config.common import Config
from tasks.host.home import home

Level = Literal["bubblewrap", "namespaces", "limits"]
LEVELS: tuple[Level, ...] = ("bubblewrap", "namespaces", "limits")
"""Best first."""

SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/alternatives",
)
"""What a Python of this machine may need besides its own folders."""
NOBODY = "65534"
FIRST_USER, USERS = 61_184, 4_000
"""Ids that belong to nobody (systemd keeps 61184 to 65519 for services that need a user for a
while).
"""
STACK_KIB = 256 << 10
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # sets of strings have one order, so a verdict can be repeated
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Limits(Config):
    """What a program may use, for each test case unless said. Sizes in bytes."""

    deadline: float = 6.0
    """Seconds of wall-clock for a case (LiveCodeBench's)."""
    after_failure: float = 10.0
    """Seconds for all cases after the first that failed. The verdict is known by then; they only
    add to the number passed.
    """
    memory: int = 2 << 30
    """Address space of a process, and resident memory of all its processes together."""
    output: int = 16 << 20
    processes: int = 64
    """Processes and threads at a time."""
    file_size: int = 16 << 20
    temporary: int = 64 << 20
    """Everything in the private /tmp (a folder without a total limit at the level "limits")."""
    files: int = 256
    """Open files of a process."""


@dataclass(frozen=True)
class Start:
    """How to start a runner, and what it must give up itself."""

    command: list[str]
    user: int | None = None
    """The id it takes when it starts as root."""
    folder: str | None = None
    """A private folder on this machine, to be removed afterwards; None where /tmp is private."""
    landlock: list[str] = field(default_factory=list)
    """What cases may read, where the kernel must be asked to hide the rest."""
    packages: list[str] = field(default_factory=list)


def start(level: Level, limits: Limits, slot: int) -> Start:
    """The command of `level`. `slot` tells runners that run at the same time apart, so that each
    has a user id of its own under root.
    """
    user = FIRST_USER + (os.getpid() * 61 + slot) % USERS if _may_change_user() else None
    if level == "limits":
        python = readable_python() if user is not None else sys.executable
        seen = [
            *SYSTEM,
            *map(str, _python_folders()),
            *(f"/dev/{name}" for name in ("null", "zero", "random", "urandom")),
        ]
        folder = tempfile.mkdtemp(prefix="code-", dir=scratch())
        if user is not None:
            os.chown(folder, user, user)
        packages = _packages() if python == sys.executable else []
        return Start(_with_stack([*_python(python), _boot("runner")]), user, folder, seen, packages)
    inner = [*_python(sys.executable), _boot("runner")]
    if level == "bubblewrap":
        return Start(_with_stack([*_bubblewrap(limits, user), *inner]), user, packages=_packages())
    links, visible = _view()
    config = {
        "visible": visible,
        "links": links,
        "temporary": limits.temporary,
        "root": user is not None,
    }
    return Start(
        _with_stack([*_python(sys.executable), _boot("jail"), json.dumps(config), *inner]),
        user,
        packages=_packages(),
    )


def _bubblewrap(limits: Limits, user: int | None) -> list[str]:
    program = shutil.which("bwrap") or "bwrap"
    words = [program, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    words += ["--die-with-parent", "--as-pid-1", "--cap-drop", "ALL"]
    if user is None:
        words += ["--unshare-user", "--uid", NOBODY, "--gid", NOBODY]
    else:
        # the runner uses them up at once
        words += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    words += ["--perms", "1777", "--size", str(limits.temporary), "--tmpfs", "/tmp"]
    links, visible = _view()
    for folder in dict.fromkeys(
        str(above)
        for name in ("/dev/null", *visible)
        for above in reversed(Path(name).parents[:-1])
    ):
        words += ["--perms", "0755", "--dir", folder]  # else only root could pass through it
    for source in visible:
        words += ["--ro-bind", source, source]
    for name in ("null", "zero", "random", "urandom"):
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in links.items():
        words += ["--symlink", target, name]
    return [*words, "--remount-ro", "/", "--chdir", "/tmp", "--"]


def _view() -> tuple[dict[str, str], list[str]]:
    """Links and folders of this machine that a sandbox shows: the system's libraries and the
    Python in use, read-only.
    """
    links = {name: os.readlink(name) for name in SYSTEM if os.path.islink(name)}
    visible = [name for name in SYSTEM if os.path.exists(name) and name not in links]
    for folder in map(str, _python_folders()):
        if not any(folder == seen or folder.startswith(seen + "/") for seen in visible):
            visible.append(folder)
    return links, visible


def _python_folders() -> list[Path]:
    """The folders of the running Python and of its virtual environment."""
    found = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent.parent]
    return [path for path in dict.fromkeys(found) if path != Path("/")]


def _packages() -> list[str]:
    """Where packages such as numpy lie: LiveCodeBench's programs may use what its own
    environment has.
    """
    return list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))


def _python(program: str) -> list[str]:
    return [program, "-s", "-P", "-S", "-c"]


def _with_stack(command: list[str]) -> list[str]:
    """A deep stack, for recursion through C code (`functools.cache`). It must be in place when
    Python starts.
    """
    return ["/bin/sh", "-c", f'ulimit -s {STACK_KIB} 2>/dev/null; exec "$@"', "sh", *command]


@cache
def _boot(name: str) -> str:
    """The runner (or jail) as one text for `python -c`: nothing of this package has to be
    visible in the sandbox.
    """
    folder = Path(__file__).parent
    sources = {
        part: (folder / f"{part}.py").read_text(encoding="utf-8")
        for part in dict.fromkeys(("guard", name))
    }
    return (
        "import sys, types\n"
        "package = types.ModuleType('tasks.grading.code')\n"
        "sys.modules['tasks.grading.code'] = package\n"
        f"for name, source in {sources!r}.items():\n"
        "    module = types.ModuleType(name)\n"
        "    setattr(package, name, module)\n"
        "    exec(compile(source, name, 'exec'), module.__dict__)\n"
        "del package, name, source\n"
        "module.main()\n"
    )


def scratch() -> str:
    """Where private folders are made: nothing is written outside ERPD_HOME."""
    folder = home() / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _may_change_user() -> bool:
    """Whether this is a root that has other user ids to go to (in some containers it has none)."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/uid_map", encoding="ascii") as file:
        spans = [[int(word) for word in line.split()] for line in file]
    return any(
        first <= FIRST_USER and first + length >= FIRST_USER + USERS for first, _, length in spans
    )


def readable_python() -> str:
    """A Python that a user without rights can start: the running one, unless it lies in a
    private folder; else the system's.
    """
    for program in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(program) and all(_open_to_all(place) for place in _on_the_way(program)):
            return program
    raise OSError(
        f"programs cannot be run without rights: {sys.executable} can be read by root only and "
        f"there is no /usr/bin/python3; "
        "install bubblewrap (apt-get install bubblewrap)"
    )


def _on_the_way(program: str) -> list[Path]:
    ends = [
        Path(program),
        Path(program).resolve(),
        *(_python_folders() if program == sys.executable else ()),
    ]
    return [place for end in ends for place in (end, *end.parents)]


def _open_to_all(place: Path) -> bool:
    return bool(place.stat().st_mode & 0o001)
