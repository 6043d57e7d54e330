"""List what a store contains: artifacts, unfinished builds, damaged copies, locks.

Reads the store's folders and changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.store import Store, lock_path, note_path
from tasks.store.manifest import MANIFEST, Manifest

What = Literal["artifact", "build", "damaged", "fetched", "lock", "trash"]
ASIDE: dict[str, What] = {"damaged": "damaged", "fetched": "fetched", "trash": "trash"}
"""Folders whose entries are named `<id>.<suffix>` -> what their entries are."""
COLLECTOR = "gc"
"""Name of the garbage collector's own lock."""


@dataclass(frozen=True)
class Item:
    """One thing in a store.

    **Example:** `Item("artifact", "policy-5f1c...", Path("store/policy/policy-5f1c..."),
    size=4_200_000, used=1764041234.5, inputs=frozenset({"training-09ab..."}))`
    """

    what: What
    id: str
    """Identity of the artifact, or of the artifact that a build, copy or lock belongs to."""
    path: Path
    size: int
    """Bytes. A hard-linked file counts with its size divided by its number of links."""
    used: float
    """Seconds since the epoch when an artifact was last requested, a build last grew, work under a
    lock last began, or anything else was created.
    """
    inputs: frozenset[str] = frozenset()
    """Identities of the artifacts from which it was, or is being, made."""
    parts: frozenset[str] = frozenset()
    """Texts in its result, among them the identities of artifacts that are part of it: a training
    is incomplete without the policies it kept.
    """
    busy: bool = False
    """Whether a process holds its lock."""


def take_inventory(store: Store) -> list[Item]:
    """List everything in the store.

    Locks and builds are read first, so that a build that is committed meanwhile is still found as
    an artifact.
    """
    root = store.root
    items = [*_locks(root), *_builds(root)]
    for kind in _entries(root):
        if kind.name in ASIDE:
            items += [
                _item(ASIDE[kind.name], entry.name.rpartition(".")[0], entry)
                for entry in _entries(kind)
            ]
        elif kind.name not in ("locks", "partial"):
            items += [
                _artifact(folder) for folder in _entries(kind) if store.path(folder.name) == folder
            ]
    return [item for item in items if item.used > 0]


def last_used(what: What, path: Path) -> float:
    """Time of last use, seconds since the epoch; 0 if `path` is gone.

    An artifact's manifest is touched whenever the artifact is requested.
    """
    if what == "artifact" and (path / MANIFEST).exists():
        path /= MANIFEST
    return max((status.st_mtime for status in _statuses(path)), default=0.0)


def is_locked(lock: Path) -> bool:
    """Whether a process holds this lock. Does not create the file."""
    try:
        fd = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


# ------------------------------------------------------------------------------------- single kinds


def _artifact(folder: Path) -> Item:
    try:
        manifest = Manifest.read(folder)
    except (FileNotFoundError, ValueError):  # damaged, or gone meanwhile
        return _item("artifact", folder.name, folder)
    inputs = frozenset(manifest.inputs.values())
    return _item(
        "artifact",
        folder.name,
        folder,
        inputs=inputs,
        parts=frozenset(_texts(manifest.meta)) - inputs - {folder.name},
    )


def _builds(root: Path) -> Iterator[Item]:
    for folder in _entries(root / "partial"):
        yield _item(
            "build",
            folder.name,
            folder,
            inputs=_noted_inputs(root, folder.name),
            busy=is_locked(lock_path(root, folder.name)),
        )


def _locks(root: Path) -> Iterator[Item]:
    """The locks. Work under a lock began when its note was written.

    A lock without a note shows only when it was first taken.
    """
    for path in sorted((root / "locks").glob("*.lock")):
        if path.stem != COLLECTOR:
            note = note_path(root, path.stem)
            began = last_used("lock", note if note.exists() else path)
            yield Item("lock", path.stem, path, size=_size(note), used=began, busy=is_locked(path))


def _noted_inputs(root: Path, artifact: str) -> frozenset[str]:
    """Inputs in the note of a build; empty if the note is absent or damaged."""
    try:
        return frozenset(
            Manifest.model_validate_json(note_path(root, artifact).read_bytes()).inputs.values()
        )
    except (FileNotFoundError, ValueError):
        return frozenset()


def _item(what: What, id: str, path: Path, **more: Any) -> Item:
    return Item(what, id, path, size=_size(path), used=last_used(what, path), **more)


def _size(path: Path) -> int:
    return sum(
        status.st_size // status.st_nlink
        for status in _statuses(path)
        if not stat.S_ISDIR(status.st_mode)
    )


def _statuses(path: Path) -> Iterator[os.stat_result]:
    """Status of a file, or of a folder and everything in it. Skips what vanishes meanwhile."""
    inside = (
        Path(parent, name)
        for parent, folders, files in os.walk(path)
        for name in (*folders, *files)
    )
    for entry in (path, *inside):
        with contextlib.suppress(FileNotFoundError):
            yield entry.lstat()


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.exists() else []


def _texts(value: Any) -> Iterator[str]:
    """Every string in a result; some are identities."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _texts(inner)
