"""Restrictions that a process sets on itself: resources, system calls, files.

Standard library only, since it runs in the sandbox.

Neither the process nor its children can undo `restrict_calls` and `restrict_files`. The first is
used at every isolation level, the second at the level "limits". That level has no namespaces, so
only these two keep a program from the network, other processes and files.
"""

import contextlib
import ctypes
import os
import platform
import resource
import struct
from collections.abc import Iterable
from functools import cache

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = (
    1,
    4,
    22,
    36,
    38,
)
EPERM, ENOSYS = 1, 38

_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Numbers of denied calls on (x86_64, aarch64); `None` if there is no such call. They concern the
# network, other processes, memory that no limit counts, rarely used kernel features, and modes and
# times of files, which Landlock does not cover.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "utime": (132, None),
    "utimes": (235, None),
    "utimensat": (280, 88),
}
_CLONE3 = 435
_CLONE = {"x86_64": 56, "aarch64": 220}
_PRLIMIT = {"x86_64": 302, "aarch64": 261}
_NEW_NAMESPACES = 0x7E020080
"""All CLONE_NEW* flags."""

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int, pointer: int | None = None) -> bool:
    """Call prctl(2); return whether it succeeded."""
    return bool(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_void_p(pointer), 0, 0) == 0)


def limit(**limits: int) -> None:
    """Set soft and hard resource limits by name: `limit(AS=1 << 30, NPROC=64)`.

    A value above the current hard limit is reduced to that limit.
    """
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def descendants(pid: int) -> list[int]:
    """Process ids of all descendants of `pid`.

    It is a snapshot: processes forked in the meantime may be missing.
    """
    pids: list[int] = []
    todo = [pid]
    while todo:
        parent = todo.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{parent}/task"):
                with (
                    contextlib.suppress(OSError),
                    open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as file,
                ):
                    todo += (children := [int(word) for word in file.read().split()])
                    pids += children
    return pids


def restrict_calls() -> bool:
    """Deny (EPERM) the system calls of `_DENIED` with a seccomp filter.

    **Returns:** False if the processor or kernel does not support it.
    """
    program = calls_filter(platform.machine())
    if not program:
        return False
    code = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    )
    return prctl(PR_SET_NO_NEW_PRIVS, 1) and prctl(PR_SET_SECCOMP, 2, ctypes.addressof(header))


@cache
def calls_filter(machine: str) -> bytes:
    """The seccomp filter as a BPF program; empty for a processor not in `_AUDIT`."""
    if machine not in _AUDIT or ctypes.sizeof(ctypes.c_void_p) != 8:
        return b""
    column = 0 if machine == "x86_64" else 1
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill = 0x7FFF0000, 0x80000000

    def refuse(errno: int) -> tuple[int, int, int, int]:
        return (answer, 0, 0, 0x00050000 | errno)

    # Offsets in seccomp_data: 0 call number, 4 architecture, 16 low half of the first argument.
    program = [
        (load, 0, 0, 4),
        (equal, 1, 0, _AUDIT[machine]),
        (answer, 0, 0, kill),
        (load, 0, 0, 0),
    ]
    if machine == "x86_64":
        # x32 calls, which have other numbers
        program += [(at_least, 0, 1, 0x40000000), refuse(ENOSYS)]
    # clone3 has its flags behind a pointer, unreadable for a filter; libc falls back to clone
    program += [(equal, 0, 1, _CLONE3), refuse(ENOSYS)]
    for numbers in _DENIED.values():
        if (number := numbers[column]) is not None:
            program += [(equal, 0, 1, number), refuse(EPERM)]
    program += [
        (equal, 0, 4, _CLONE[machine]),
        (load, 0, 0, 16),
        (any_bit, 0, 1, _NEW_NAMESPACES),
        refuse(EPERM),
        (answer, 0, 0, allow),
    ]
    # limits of other processes
    program += [(equal, 0, 3, _PRLIMIT[machine]), (load, 0, 0, 16), (equal, 1, 0, 0), refuse(EPERM)]
    program += [(answer, 0, 0, allow)]
    return b"".join(struct.pack("HBBI", *line) for line in program)


def restrict_files(readable: Iterable[str], writable: Iterable[str]) -> bool:
    """Restrict file access with Landlock: reading below `readable`, everything below `writable`.

    Names that do not exist are skipped.

    **Returns:** False on a kernel without Landlock (before 5.13, or switched off).
    """
    create, add, restrict = 444, 445, 446
    abi = _libc.syscall(create, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        return False
    handled = (1 << (13 if abi < 2 else 14 if abi < 3 else 15 if abi < 5 else 16)) - 1
    execute, write, read, read_folder, truncate, device = 1, 2, 4, 8, 1 << 14, 1 << 15
    of_files = execute | write | read | truncate | device
    # from ABI 4 also TCP; from ABI 6 also abstract sockets and signals
    attributes = struct.pack("QQQ", handled, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    rules = _libc.syscall(create, attributes, ctypes.c_size_t(size), 0)
    if rules < 0:
        return False
    try:
        wanted = [(name, execute | read | read_folder) for name in readable] + [
            (name, handled) for name in writable
        ]
        for name, access in wanted:
            try:
                place = os.open(name, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            access &= handled if os.path.isdir(f"/proc/self/fd/{place}") else handled & of_files
            added = _libc.syscall(add, rules, 1, struct.pack("=Qi", access, place), 0)
            os.close(place)
            if added != 0:
                return False
        return prctl(PR_SET_NO_NEW_PRIVS, 1) and _libc.syscall(restrict, rules, 0) == 0
    finally:
        os.close(rules)
