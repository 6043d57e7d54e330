"""The content-addressed store: every artifact is written once, atomically, with checksums, under
the identity of what was asked.

`identity = hash(kind, spec, identities of the inputs, version of the step)`. Hardware, paths,
ports and worker counts never enter it.

An artifact grows in `partial/<id>/`, file by file: each file is durable, with its checksum beside
it, as soon as it is put, so a killed build goes on where it stopped. `commit` writes the manifest
and renames the folder to `<kind>/<id>/`: it is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from tasks.host.atomic_files import make_durable, write_atomically
from tasks.host.home import home
from tasks.host.services import store_url
from tasks.store.manifest import MANIFEST, Manifest, StoredFile, sha256
from tasks.store.mirror import Mirror

SIDE = ".sum"
"""Suffix of the checksum file beside each file of a partial artifact."""


def identity(kind: str, spec: Mapping[str, Any], inputs: Mapping[str, str], version: int) -> str:
    """`kind-` and 20 hex digits of a hash of what was asked."""
    text = json.dumps(
        [kind, spec, sorted(inputs.items()), version],
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def lock_path(root: Path, artifact: str) -> Path:
    """The file that is locked while the artifact is made."""
    return root / "locks" / f"{artifact}.lock"


def note_path(root: Path, artifact: str) -> Path:
    """What is being made, and from what, since the file was written: a manifest without files."""
    return root / "locks" / f"{artifact}.json"


class Build:
    """An artifact being made. `put` files, then `commit`."""

    def __init__(self, folder: Path, target: Path, manifest: Manifest) -> None:
        self.folder = folder
        self._target = target
        self._manifest = manifest
        self._since = time.monotonic()
        self._clock = folder / ".seconds"
        self._before = _seconds(self._clock)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process its clock starts anew: that of one machine means nothing on
        another.
        """
        return Build, (self.folder, self._target, self._manifest)

    @property
    def id(self) -> str:
        return self._manifest.id

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._since

    def done(self, name: str) -> bool:
        """Is this file there, with the bytes its checksum promises? A damaged one is removed."""
        path, side = self.folder / name, self.folder / (name + SIDE)
        if path.exists() and side.exists() and sha256(path).encode() == side.read_bytes():
            return True
        path.unlink(missing_ok=True)
        side.unlink(missing_ok=True)
        return False

    def put(self, name: str, write: Callable[[Path], object]) -> None:
        """Write one file durably. The checksum is made last, so that a file without one counts
        as absent.
        """
        path = self.folder / name
        (self.folder / (name + SIDE)).unlink(missing_ok=True)
        write_atomically(path, write)
        write_atomically(self.folder / (name + SIDE), lambda p: p.write_text(sha256(path)))
        write_atomically(self._clock, lambda p: p.write_text(f"{self.seconds:.3f}"))

    def drop(self, name: str) -> None:
        """Remove a file that only served to resume."""
        (self.folder / (name + SIDE)).unlink(missing_ok=True)
        (self.folder / name).unlink(missing_ok=True)

    def commit(self, meta: Mapping[str, Any]) -> Manifest:
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
    """What earlier sessions spent; nothing where none did, or their note of it is damaged."""
    try:
        return float(clock.read_bytes())
    except (FileNotFoundError, ValueError):
        return 0.0


class Store:
    """Artifacts under one root folder, and in its mirror when it has one."""

    def __init__(self, root: Path, mirror: Mirror | None = None) -> None:
        self.root, self.mirror = root, mirror
        self._verified: set[str] = set()

    def path(self, artifact: str) -> Path:
        """Where a complete artifact's files are. Raises ValueError for what cannot be an
        identity.
        """
        kind = artifact.partition("-")[0]
        if "/" in artifact or "\0" in artifact or kind.strip(".") == "":
            raise ValueError(
                f"{artifact[:80]!a} is no identity of an artifact; `erpd lineage CAMPAIGN:ROLE` "
                f"prints some"
            )
        return self.root / kind / artifact

    def manifest(self, artifact: str) -> Manifest:
        """Raises FileNotFoundError when the artifact is not in the store."""
        try:
            return Manifest.read(self.path(artifact))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{artifact} is not in the store at {self.root}; run the campaign that makes it"
            ) from None

    def has(self, artifact: str) -> bool:
        """Is it there with every byte its manifest promises (checked once per process)? What only
        the mirror has is fetched.

        A damaged artifact is set aside, with what is wrong with it, and counts as absent.
        """
        there = self._use(artifact)  # before its bytes are looked at, which may take minutes
        if there and artifact in self._verified:
            return True
        damage = self.damage(artifact)
        if damage is None:
            if self.mirror:
                self.mirror.push(artifact, self.path(artifact))
        else:
            if self.path(artifact).exists():
                self._set_aside(artifact, damage)
            if not self._fetched(artifact):
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

    def _use(self, artifact: str) -> bool:
        """Leave a mark that it is used now, which keeps it from garbage collection
        (`tasks/store/gc.py`). False when it is gone.
        """
        try:
            os.utime(self.path(artifact) / MANIFEST)
        except FileNotFoundError:
            return False
        except OSError:  # a store that may only be read
            pass
        return True

    def _fetched(self, artifact: str) -> bool:
        if self.mirror is None:
            return False
        scratch = self.root / "fetched" / f"{artifact}.{secrets.token_hex(4)}"
        try:
            if not self.mirror.fetch(artifact, scratch):
                return False
            self.path(artifact).parent.mkdir(parents=True, exist_ok=True)
            # another process was faster, and a folder is not renamed over a full one
            with contextlib.suppress(OSError):
                scratch.replace(self.path(artifact))
            return self.damage(artifact) is None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def damage(self, artifact: str) -> str | None:
        """What is wrong with an artifact, None if nothing is."""
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
                return f"{artifact}: {name} does not have the bytes its manifest promises"
        return None

    @contextlib.contextmanager
    def build(
        self, kind: str, spec: Mapping[str, Any], inputs: Mapping[str, str], version: int
    ) -> Iterator[Build | None]:
        """Build the artifact of this spec, or yield None when it is there already. Of two
        processes that ask, one does the work.

        A build left without `commit` (an error, a kill) stays in `partial/` and is continued next
        time.
        """
        artifact = identity(kind, spec, inputs, version)
        lock = lock_path(self.root, artifact)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            if self.has(artifact):
                yield None
                return
            folder = self.root / "partial" / artifact
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.rglob(".*.tmp"):
                left.unlink()
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
        """Remove an artifact, here and in the mirror, and what is left of its build."""
        if self.mirror:
            self.mirror.remove(artifact)
        shutil.rmtree(self.path(artifact), ignore_errors=True)
        shutil.rmtree(self.root / "partial" / artifact, ignore_errors=True)
        self._verified.discard(artifact)

    def artifacts(self, kind: str) -> Sequence[str]:
        folder = self.root / kind
        return (
            sorted(path.name for path in folder.iterdir() if path.is_dir())
            if folder.exists()
            else []
        )


def open_store() -> Store:
    """The store under ERPD_HOME, with the mirror that the environment names."""
    url = store_url()
    return Store(home() / "store", Mirror(url) if url else None)
