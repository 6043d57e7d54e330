"""What a process gives up for itself: resources, system calls, files. Standard library only, as it
runs in the sandbox.

`restrict_calls` and `restrict_files` cannot be undone, by the process or by anything it starts.
They hold at every isolation level; at the level "limits", where there are no namespaces, they are
what keeps a program from the network, other processes and files.
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
# Denied calls (x86_64, aarch64): the network; other processes; memory that no limit counts; the
# kernel's rarely used corners; modes and times of files, which Landlock does not cover. `None`: not
# there.
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
"""CLONE_NEW* flags."""

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int, pointer: int | None = None) -> bool:
    """Whether the kernel did it."""
    return bool(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_void_p(pointer), 0, 0) == 0)


def limit(**limits: int) -> None:
    """Set soft and hard limits by name: `limit(AS=1 << 30, NPROC=64)`. Never above a hard limit
    that is there already.
    """
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def descendants(pid: int) -> list[int]:
    """Process ids of all children of `pid`, their children and so on. A snapshot: who forks
    meanwhile may be missing.
    """
    found: list[int] = []
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
                    found += children
    return found


def restrict_calls() -> bool:
    """Deny (EPERM) the system calls above with a seccomp filter. **Returns:** False on a
    processor or kernel where that cannot be.
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
    """The filter as a program for the kernel; empty for a processor whose call numbers are not
    in the list.
    """
    if machine not in _AUDIT or ctypes.sizeof(ctypes.c_void_p) != 8:
        return b""
    column = 0 if machine == "x86_64" else 1
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill = 0x7FFF0000, 0x80000000

    def refuse(errno: int) -> tuple[int, int, int, int]:
        return (answer, 0, 0, 0x00050000 | errno)

    # Fields of seccomp_data: call number at 0, architecture at 4, low half of the first argument at
    # 16.
    program = [
        (load, 0, 0, 4),
        (equal, 1, 0, _AUDIT[machine]),
        (answer, 0, 0, kill),
        (load, 0, 0, 0),
    ]
    if machine == "x86_64":
        # the x32 calls, which have other numbers
        program += [(at_least, 0, 1, 0x40000000), refuse(ENOSYS)]
    # its flags are behind a pointer; libc falls back to clone
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
    # limits of others
    program += [(equal, 0, 3, _PRLIMIT[machine]), (load, 0, 0, 16), (equal, 1, 0, 0), refuse(EPERM)]
    program += [(answer, 0, 0, allow)]
    return b"".join(struct.pack("HBBI", *line) for line in program)


def restrict_files(readable: Iterable[str], writable: Iterable[str]) -> bool:
    """Allow only reading below `readable` and anything below `writable`, with Landlock; names that
    are not there are passed over.

    **Returns:** False on a kernel without Landlock (before 5.13, or switched off).
    """
    create, add, restrict = 444, 445, 446
    abi = _libc.syscall(create, None, ctypes.c_size_t(0), 1)
    if abi < 1:
        return False
    handled = (1 << (13 if abi < 2 else 14 if abi < 3 else 15 if abi < 5 else 16)) - 1
    execute, write, read, read_folder, truncate, device = 1, 2, 4, 8, 1 << 14, 1 << 15
    of_files = execute | write | read | truncate | device
    # also TCP; abstract sockets and signals
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
