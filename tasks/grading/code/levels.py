"""Isolation levels and, for each, the command that starts a runner.

`probe.py` measures which levels work on this machine.
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
"""All levels, best first."""

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
"""System paths that a Python of this machine may need besides its own folders."""
NOBODY = "65534"
FIRST_USER, USERS = 61_184, 4_000
"""First id and number of user ids for programs under root.

They belong to no user: systemd reserves 61184 to 65519 for services that need a temporary user.
"""
STACK_KIB = 256 << 10
"""Stack size of a runner in KiB."""
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # fixes the order of sets of strings, so verdicts are reproducible
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Limits(Config):
    """Limits of a program, per test case unless stated otherwise. Sizes are in bytes."""

    deadline: float = 6.0
    """Wall-clock seconds per case (LiveCodeBench's value)."""
    after_failure: float = 10.0
    """Total seconds for the cases after the first failed one.

    The verdict is known by then; these cases only count toward `passed`.
    """
    memory: int = 2 << 30
    """Address space of each process, and resident memory of all processes together."""
    output: int = 16 << 20
    """Output of a case on stdout."""
    processes: int = 64
    """Number of simultaneous processes and threads."""
    file_size: int = 16 << 20
    """Size of each file."""
    temporary: int = 64 << 20
    """Total size of the private /tmp.

    At the level "limits" the kernel does not enforce it; the parent checks it 10 times a second.
    """
    files: int = 256
    """Number of open files per process."""


@dataclass(frozen=True)
class Start:
    """How to start a runner, and which rights the runner must drop itself."""

    command: list[str]
    user: int | None = None
    """User id that a runner started as root switches to; None if not started as root."""
    folder: str | None = None
    """Private folder on this machine, removed afterwards; None if /tmp is private."""
    landlock: list[str] = field(default_factory=list)
    """Paths that cases may read, at the level where Landlock hides all others."""
    packages: list[str] = field(default_factory=list)
    """Folders with packages that programs may import."""


def start(level: Level, limits: Limits, slot: int) -> Start:
    """Build the start command of `level`.

    `slot` is different for runners that run at the same time, so that each has its own user id
    under root. At the level "limits" under root, raises OSError if an unprivileged user can start
    no Python.
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
        # the runner changes its user at once, which drops them
        words += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    words += ["--perms", "1777", "--size", str(limits.temporary), "--tmpfs", "/tmp"]
    links, visible = _view()
    for folder in dict.fromkeys(
        str(above)
        for name in ("/dev/null", *visible)
        for above in reversed(Path(name).parents[:-1])
    ):
        words += ["--perms", "0755", "--dir", folder]  # the default mode admits only root
    for source in visible:
        words += ["--ro-bind", source, source]
    for name in ("null", "zero", "random", "urandom"):
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in links.items():
        words += ["--symlink", target, name]
    return [*words, "--remount-ro", "/", "--chdir", "/tmp", "--"]


def _view() -> tuple[dict[str, str], list[str]]:
    """Links and paths of this machine that a sandbox shows read-only.

    These are the system's libraries and the running Python.
    """
    links = {name: os.readlink(name) for name in SYSTEM if os.path.islink(name)}
    visible = [name for name in SYSTEM if os.path.exists(name) and name not in links]
    for folder in map(str, _python_folders()):
        if not any(folder == seen or folder.startswith(seen + "/") for seen in visible):
            visible.append(folder)
    return links, visible


def _python_folders() -> list[Path]:
    """The folders of the running Python and of its virtual environment."""
    roots = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent.parent]
    return [path for path in dict.fromkeys(roots) if path != Path("/")]


def _packages() -> list[str]:
    """Folders of installed packages such as numpy, which LiveCodeBench's programs may import."""
    return list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))


def _python(program: str) -> list[str]:
    return [program, "-s", "-P", "-S", "-c"]


def _with_stack(command: list[str]) -> list[str]:
    """Wrap `command` to run with a deep stack, for recursion through C code (`functools.cache`).

    The stack size must be set before Python starts.
    """
    return ["/bin/sh", "-c", f'ulimit -s {STACK_KIB} 2>/dev/null; exec "$@"', "sh", *command]


@cache
def _boot(name: str) -> str:
    """Source of the runner or jail as one program for `python -c`.

    So no file of this package has to be visible in the sandbox.
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
    """The folder for private folders, in ERPD_HOME; created if missing."""
    folder = home() / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _may_change_user() -> bool:
    """Whether this is root with other user ids to switch to (some containers have none)."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/uid_map", encoding="ascii") as file:
        spans = [[int(word) for word in line.split()] for line in file]
    return any(
        first <= FIRST_USER and first + length >= FIRST_USER + USERS for first, _, length in spans
    )


def readable_python() -> str:
    """A Python that an unprivileged user can start.

    It is the running one, or the system's if the running one is in a private folder.

    **Raises:** OSError if there is neither.
    """
    for program in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(program) and all(_open_to_all(place) for place in _path_parts(program)):
            return program
    raise OSError(
        f"programs cannot run as an unprivileged user: only root can read {sys.executable}, and "
        f"there is no /usr/bin/python3; "
        "install bubblewrap (apt-get install bubblewrap)"
    )


def _path_parts(program: str) -> list[Path]:
    """All files and folders on the paths that starting `program` needs."""
    ends = [
        Path(program),
        Path(program).resolve(),
        *(_python_folders() if program == sys.executable else ()),
    ]
    return [place for end in ends for place in (end, *end.parents)]


def _open_to_all(place: Path) -> bool:
    return bool(place.stat().st_mode & 0o001)
