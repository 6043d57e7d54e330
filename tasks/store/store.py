"""The content-addressed store: each artifact is written once, atomically, with checksums.

An artifact is stored under its identity:
`identity = hash(kind, spec, inputs, version)`. The spec holds the settings that affect values, the
inputs are the identities of the artifacts it reads, the version is the `VERSION` of its stage.
Hardware, paths, ports and worker counts never enter it.

An artifact is built file by file in `partial/<id>/`. Each file is durable, with its checksum next
to it, as soon as it is put, so that a killed build resumes where it stopped. `commit` writes the
manifest and renames the folder to `<kind>/<id>/`: an artifact is complete or absent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks.host.atomic_files import make_durable, write_atomically
from tasks.host.home import home
from tasks.host.services import store_url
from tasks.store.artifact_identity import identity
from tasks.store.manifest import MANIFEST, Manifest, StoredFile, sha256
from tasks.store.mirror import Mirror

SIDE = ".sum"
"""Suffix of the checksum file next to each file of a partial artifact."""


def lock_path(root: Path, artifact: str) -> Path:
    """File that is locked while the artifact is made."""
    return root / "locks" / f"{artifact}.lock"


def note_path(root: Path, artifact: str) -> Path:
    """File that records a build in progress: a manifest without files, written at its start."""
    return root / "locks" / f"{artifact}.json"


class Build:
    """An artifact that is being made: `put` its files, then `commit`.

    A file that was put in an earlier session is `done` and need not be computed again.
    """

    def __init__(self, folder: Path, target: Path, manifest: Manifest) -> None:
        self.folder = folder
        self._target = target
        self._manifest = manifest
        self._since = time.monotonic()
        self._clock = folder / ".seconds"
        self._before = _seconds(self._clock)

    def __reduce__(self) -> tuple[Any, ...]:
        """Restart the clock in another process, since machines do not share a monotonic clock."""
        return Build, (self.folder, self._target, self._manifest)

    @property
    def id(self) -> str:
        """Identity of the artifact."""
        return self._manifest.id

    @property
    def seconds(self) -> float:
        """Seconds spent on the build so far, over all sessions."""
        return self._before + time.monotonic() - self._since

    def done(self, name: str) -> bool:
        """Whether a file was put and matches its checksum. Removes a damaged file."""
        path, side = self.folder / name, self.folder / (name + SIDE)
        if path.exists() and side.exists() and sha256(path).encode() == side.read_bytes():
            return True
        path.unlink(missing_ok=True)
        side.unlink(missing_ok=True)
        return False

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """Write one file durably.

        The checksum is written last; a file without one counts as absent.

        **Arguments:**
            name: Path relative to the artifact's folder.
            write: Receives the path of a temporary file and fills it.
        """
        path = self.folder / name
        (self.folder / (name + SIDE)).unlink(missing_ok=True)
        write_atomically(path, write)
        write_atomically(self.folder / (name + SIDE), lambda p: p.write_text(sha256(path)))
        write_atomically(self._clock, lambda p: p.write_text(f"{self.seconds:.3f}"))

    def drop(self, name: str) -> None:
        """Remove a file that was needed only to resume the build."""
        (self.folder / (name + SIDE)).unlink(missing_ok=True)
        (self.folder / name).unlink(missing_ok=True)

    def commit(self, meta: Mapping[str, Any]) -> Manifest:
        """Write the manifest and move the artifact to its place in the store.

        `meta` is the stage's result as JSON.
        """
        names = sorted(
            str(side.relative_to(self.folder))[: -len(SIDE)]
            for side in self.folder.rglob("*" + SIDE)
        )
        files = {
            n: StoredFile(
                sha256=(self.folder / (n + SIDE)).read_text(), size=(self.folder / n).stat().st_size
            )
            for n in names
        }
        done = {"meta": dict(meta), "files": files, "seconds": round(self.seconds, 3)}
        manifest = self._manifest.model_copy(update=done).sealed()
        write_atomically(
            self.folder / MANIFEST, lambda p: p.write_text(manifest.model_dump_json(indent=1))
        )
        for name in names:
            (self.folder / (name + SIDE)).unlink()
        self._clock.unlink(missing_ok=True)
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self.folder.replace(self._target)
        make_durable(self._target.parent)
        return manifest


def _seconds(clock: Path) -> float:
    """Seconds spent in earlier sessions; 0 if there were none or the file is damaged."""
    try:
        return float(clock.read_bytes())
    except (FileNotFoundError, ValueError):
        return 0.0


class Store:
    """Artifacts in one folder, each complete or absent, with an optional mirror.

    Layout of `root`: `<kind>/<id>/` a complete artifact, `partial/<id>/` a build, `locks/` locks
    and notes of builds, `damaged/` damaged copies, `fetched/` and `trash/` scratch.

    - `build`: context manager that makes an artifact unless the store has it; one process at a
      time per artifact.
    - `has`: checks that an artifact is present and undamaged, and fetches it from the mirror.
    - `manifest`, `path`, `artifacts`: read the store.
    - `damage`: describes what is wrong with an artifact.
    - `discard`: removes an artifact.

    Several processes may use one store at the same time, also on several machines with a shared
    file system.

    **Raises:** ValueError for a string that cannot be an identity and for a damaged manifest;
        FileNotFoundError for the manifest of an absent artifact; RuntimeError if the mirror's copy
        is damaged; OSError if the disk is full or not writable.

    **Example:**

        spec, inputs = {"temperature": 1.0}, {"policy": policy, "rollouts": rollouts}
        with store.build("column", spec, inputs, version=1) as build:
            if build is not None:  # None: the store has it already
                if not build.done("shard-00000.parquet"):  # left by a killed session
                    build.put("shard-00000.parquet", write_shard)
                build.commit({"tokens": 4096})
        artifact = identity("column", spec, inputs, version=1)
        assert store.has(artifact) and store.manifest(artifact).meta == {"tokens": 4096}
    """

    def __init__(self, root: Path, mirror: Mirror | None = None) -> None:
        self.root, self.mirror = root, mirror
        self._verified: set[str] = set()

    def path(self, artifact: str) -> Path:
        """Folder of a complete artifact, whether it exists or not.

        **Raises:** ValueError for a string that cannot be an identity.
        """
        kind = artifact.partition("-")[0]
        if "/" in artifact or "\0" in artifact or kind.strip(".") == "":
            raise ValueError(
                f"{artifact[:80]!a} is not the identity of an artifact; `erpd lineage "
                f"CAMPAIGN:ROLE` prints identities"
            )
        return self.root / kind / artifact

    def manifest(self, artifact: str) -> Manifest:
        """Manifest of an artifact.

        **Raises:** FileNotFoundError if the store does not have it, ValueError if it is damaged.
        """
        try:
            return Manifest.read(self.path(artifact))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{artifact} is not in the store at {self.root}; run the campaign that makes it"
            ) from None

    def has(self, artifact: str) -> bool:
        """Whether an artifact is present and matches its manifest (once per process).

        Fetches from the mirror what only the mirror has, and copies to the mirror what it lacks. A
        damaged artifact is moved to `damaged/` with a description, and counts as absent.

        **Raises:** RuntimeError if the mirror's copy is damaged.
        """
        present = self._touch(artifact)  # before the check of its bytes, which may take minutes
        if present and artifact in self._verified:
            return True
        damage = self.damage(artifact)
        if damage is None:
            if self.mirror:
                self.mirror.push(artifact, self.path(artifact))
        else:
            if self.path(artifact).exists():
                self._set_aside(artifact, damage)
            if not self._fetch(artifact):
                return False
        self._verified.add(artifact)
        return True

    def _set_aside(self, artifact: str, damage: str) -> None:
        aside = self.root / "damaged" / f"{artifact}.{time.time_ns()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process has just set it aside
            self.path(artifact).replace(aside)
            logging.getLogger("erpd").warning(
                "%s; it is set aside as %s and made again", damage, aside
            )
            (aside / "damage.txt").write_text(damage + "\n")

    def _touch(self, artifact: str) -> bool:
        """Mark an artifact as used now; False if it is absent.

        Garbage collection (`tasks/store/gc.py`) spares artifacts that were used recently.
        """
        try:
            os.utime(self.path(artifact) / MANIFEST)
        except FileNotFoundError:
            return False
        except OSError:  # a read-only store
            pass
        return True

    def _fetch(self, artifact: str) -> bool:
        """Copy an artifact from the mirror; False if there is no undamaged copy."""
        if self.mirror is None:
            return False
        scratch = self.root / "fetched" / f"{artifact}.{secrets.token_hex(4)}"
        try:
            if not self.mirror.fetch(artifact, scratch):
                return False
            self.path(artifact).parent.mkdir(parents=True, exist_ok=True)
            # a folder cannot replace a non-empty one: another process was faster
            with contextlib.suppress(OSError):
                scratch.replace(self.path(artifact))
            return self.damage(artifact) is None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def damage(self, artifact: str) -> str | None:
        """Describe what is wrong with an artifact; None if it is undamaged."""
        try:
            manifest = self.manifest(artifact)
        except FileNotFoundError as error:
            return str(error)
        except ValueError:
            return f"{artifact}: {MANIFEST} is not readable"
        for name, stored in manifest.files.items():
            path = self.path(artifact) / name
            if not path.exists():
                return f"{artifact}: {name} is missing"
            if path.stat().st_size != stored.size or sha256(path) != stored.sha256:
                return f"{artifact}: {name} does not match its manifest"
        return None

    @contextlib.contextmanager
    def build(
        self,
        kind: str,
        spec: Mapping[str, Any],
        inputs: Mapping[str, str],
        version: int,
        before_waiting: Callable[[], None] = lambda: None,
    ) -> Iterator[Build | None]:
        """Context manager that yields the build of an artifact; None if the store has it already.

        If two processes request the same artifact, one builds it and the other waits. A build left
        without `commit` (an error, a kill) stays in `partial/` and is resumed next time.

        **Arguments:** As `identity`, and
            before_waiting: Called before this process waits for another one.
        """
        artifact = identity(kind, spec, inputs, version)
        path = lock_path(self.root, artifact)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, before_waiting):
            if self.has(artifact):
                yield None
                return
            folder = self.root / "partial" / artifact
            folder.mkdir(parents=True, exist_ok=True)
            for temporary in folder.rglob(".*.tmp"):
                temporary.unlink()
            blank = Manifest(
                id=artifact,
                kind=kind,
                spec=dict(spec),
                inputs=dict(inputs),
                version=version,
                meta={},
                files={},
                seconds=0,
            )
            write_atomically(
                note_path(self.root, artifact), lambda p: p.write_text(blank.model_dump_json())
            )
            yield Build(folder, self.path(artifact), blank)
            if not folder.exists():  # it was committed
                note_path(self.root, artifact).unlink(missing_ok=True)
                if self.mirror:
                    self.mirror.push(artifact, self.path(artifact))

    def discard(self, artifact: str) -> None:
        """Remove an artifact from the store and the mirror, and any unfinished build of it."""
        if self.mirror:
            self.mirror.remove(artifact)
        shutil.rmtree(self.path(artifact), ignore_errors=True)
        shutil.rmtree(self.root / "partial" / artifact, ignore_errors=True)
        self._verified.discard(artifact)

    def artifacts(self, kind: str) -> Sequence[str]:
        """Identities of the artifacts of one kind, sorted."""
        folder = self.root / kind
        return (
            sorted(path.name for path in folder.iterdir() if path.is_dir())
            if folder.exists()
            else []
        )


def open_store() -> Store:
    """Open the store under ERPD_HOME, with the mirror at ERPD_STORE_URL if that is set."""
    url = store_url()
    return Store(home() / "store", Mirror(url) if url else None)


@contextlib.contextmanager
def _locked(path: Path, before_waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock. `before_waiting` is called if another process has it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        before_waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
