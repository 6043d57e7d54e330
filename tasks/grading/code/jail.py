"""Starts a program in new namespaces with a read-only view of a few folders.

It replaces bubblewrap where that is not installed. Linux and standard library only.

Usage: `python jail.py CONFIG COMMAND...`. CONFIG is JSON: `{"visible": [paths], "links": {name:
target}, "temporary": bytes, "root": bool}`. With `root`, the command starts as root within the
view and must drop root itself. Without, it runs as nobody in a user namespace.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tasks.grading.code import guard

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    1 << bit for bit in (17, 26, 27, 28, 29, 30)
)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    32,
    4096,
    8192,
    16384,
    1 << 18,
)
NOBODY = 65534
DEVICES = ("null", "zero", "random", "urandom")
BASE = Path("/sys")
"""Where the view is built, in the new mount namespace; no visible folder is below it."""

_libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    """Raise OSError with errno and `what` if a libc call failed."""
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(
    source: str, target: Path | str, kind: str | None, flags: int, data: str | None = None
) -> None:
    """Call mount(2). Raises OSError on failure."""
    encoded = [
        part.encode() if part is not None else None for part in (source, str(target), kind, data)
    ]
    checked(
        _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]),
        f"mount {target}",
    )


def separate(root: bool) -> None:
    """Create new namespaces for the next child of this process."""
    user, group = os.geteuid(), os.getegid()
    rest = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    checked(_libc.unshare(rest if root else rest | CLONE_NEWUSER), "unshare")
    if not root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1")


def bind(source: str, target: Path) -> None:
    """Bind-mount a file or folder read-only.

    Flags of the source's mount must be kept, or the kernel refuses.
    """
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount(source, target, None, MS_BIND | MS_REC)
    # noexec, noatime, nodiratime, relatime
    kept = os.statvfs(target).f_flag & (MS_NODEV | 8 | 1024 | 2048 | 4096)
    kept = sum(
        flag
        for bit, flag in ((4, 4), (8, 8), (1024, 1024), (2048, 2048), (4096, 1 << 21))
        if kept & bit
    )
    device = target.is_char_device()
    mount(
        "none",
        target,
        None,
        MS_REMOUNT | MS_BIND | MS_NOSUID | kept | (0 if device else MS_RDONLY | MS_NODEV),
    )


def build_view(config: dict[str, Any]) -> None:
    """Change to a new root with only the visible paths, a private limited /tmp and four devices."""
    os.umask(0o022)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", BASE, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    (BASE / "tmp").mkdir()
    mount(
        "tmpfs",
        BASE / "tmp",
        "tmpfs",
        MS_NOSUID | MS_NODEV,
        f"size={config['temporary']},mode=1777",
    )
    for source in config["visible"]:
        bind(source, BASE / source.lstrip("/"))
    for name in DEVICES:
        bind(f"/dev/{name}", BASE / "dev" / name)
    for name, target in config["links"].items():
        (BASE / name.lstrip("/")).symlink_to(target)
    mount("none", BASE, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(BASE)
    mount(".", "/", None, MS_MOVE)
    os.chroot(".")
    os.chdir("/tmp")


def main() -> None:
    config, command = json.loads(sys.argv[1]), sys.argv[2:]
    guard.prctl(guard.PR_SET_PDEATHSIG, signal.SIGKILL)
    separate(config["root"])
    pid = os.fork()
    if pid == 0:
        guard.prctl(guard.PR_SET_PDEATHSIG, signal.SIGKILL)
        build_view(config)
        os.execv(command[0], command)
    for stream in (0, 1):
        os.close(stream)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) and 1)


if __name__ == "__main__":
    main()
