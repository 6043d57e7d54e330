"""The content-addressed store of artifacts, its mirror and its garbage collection."""

from tasks.store.artifact_identity import identity
from tasks.store.store import SIDE, Build, Store, lock_path, note_path, open_store

__all__ = ["SIDE", "Build", "Store", "identity", "lock_path", "note_path", "open_store"]
