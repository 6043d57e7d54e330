"""Data sets of the Hugging Face hub as plain files of one commit.

The first request of a data set writes the commit of its revision to `data/hub.lock.json` under
ERPD_HOME, with the list of its files and, once fetched, their checksums. Every later load uses
exactly that commit, and needs no network while its files are in the cache. Copy the lock file to
give another machine the same data; remove an entry to use the newest.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock
from pydantic import BaseModel, Field, ValidationError, field_validator

from erpd_core.config import HubProblems
from tasks.datasets.files import FORMATS, digest_of
from tasks.host.atomic_files import write_atomically
from tasks.host.file_digest import file_digest
from tasks.host.home import home
from tasks.host.services import without_login
from tasks.untrusted.input_files import expanded
from tasks.untrusted.paths import checked_name, path_inside


class Locked(BaseModel):
    """Entry of the lock file: a data set at one revision."""

    commit: Annotated[str, Field(pattern=r"^\w{1,64}$")]
    listing: list[str]
    """Its data files."""
    sums: dict[str, str] = {}
    """File -> sha256, for fetched files."""

    @field_validator("listing")
    @classmethod
    def _stay_in_the_cache(cls, listing: list[str]) -> list[str]:
        return [checked_name(name, "data set") for name in listing]


@dataclass(frozen=True)
class Snapshot:
    """The fetched files of a data set at one commit."""

    commit: str
    files: dict[str, Path]
    digest: str
    """Digest of their bytes; the same data at another commit or under another id has the same."""


def lock_path() -> Path:
    return home() / "data" / "hub.lock.json"


def snapshot(source: HubProblems) -> Snapshot:
    """The files of `source`, from the cache or the hub.

    **Raises:** ValueError, with data set and remedy, if it does not exist, is private or gated, or
        has no such revision or file, or if the hub cannot be reached and the cache does not have
        it.
    """
    key = f"{source.id}@{source.revision or 'main'}"
    resolved = _read_lock().get(key) or _resolve(source)
    choose_files(resolved.listing, source)  # refuses a bad request before anything is written
    lock_path().parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_path().with_suffix(".filelock")):
        lock = _read_lock()
        locked = lock.get(key) or resolved  # of two at once, the first one's commit
        names = choose_files(locked.listing, source)
        files = {name: _fetch(source, locked.commit, name) for name in names}
        sums = {
            **locked.sums,
            **{name: file_digest(path) for name, path in files.items() if name not in locked.sums},
        }
        if lock.get(key) is None or sums != locked.sums:
            lock[key] = locked.model_copy(update={"sums": sums})
            text = json.dumps(
                {name: entry.model_dump() for name, entry in sorted(lock.items())}, indent=1
            )
            write_atomically(
                lock_path(), lambda path: path.write_text(text + "\n", encoding="utf-8")
            )
    return Snapshot(
        locked.commit,
        {f"{source.id}/{name}": path for name, path in files.items()},
        digest_of({n: sums[n] for n in names}),
    )


def choose_files(listing: Sequence[str], source: HubProblems) -> list[str]:
    """The files of a data set that `source` selects.

    They match its patterns, in order, or have the split in their name.

    **Raises:** ValueError, with a list of the files there are, if none match.
    """
    names = ", ".join(sorted(listing)[:12]) or "no data files"
    there = f"it has {names}{' and more' if len(listing) > 12 else ''}"
    if source.files:
        chosen: list[str] = []
        for pattern in (text.replace("{split}", source.split) for text in source.files):
            matching = sorted(fnmatch.filter(listing, pattern))
            if not matching:
                raise ValueError(
                    f"data set {source.id} has no file {pattern}; {there}; correct files or "
                    f"revision"
                )
            chosen += [name for name in matching if name not in chosen]
        return chosen
    named = [name for name in listing if _carries(name, source.split)]
    if (
        not named
        and source.split == "train"
        and not any(_carries(name, split) for name in listing for split in ("test", "validation"))
    ):
        named = list(listing)  # one file, named after the data set
    best = next(
        (suffix for suffix in FORMATS if any(name.endswith(suffix) for name in named)), None
    )
    if best is None:
        raise ValueError(
            f"data set {source.id} has no file for split {source.split}; {there}; name them in "
            f"files"
        )
    return sorted(name for name in named if name.endswith(best))


def _carries(name: str, split: str) -> bool:
    return re.search(rf"(^|[/_.-]){re.escape(split)}([/_.-]|$)", name) is not None


# ------------------------------------------------------------------------------------------ the hub


def _cache() -> Path:
    named = os.environ.get("HF_HOME")
    return (expanded(named, "HF_HOME") if named else home() / "cache" / "huggingface") / "hub"


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def _shown() -> str:
    """The hub's address for messages, without a login."""
    return without_login(_endpoint())


def _resolve(source: HubProblems) -> Locked:
    """The commit that a revision means now, and its data files.

    Asks the hub. If that cannot be reached, reads a cache that was filled by other means.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi(endpoint=_endpoint()).dataset_info(
            source.id, revision=source.revision, timeout=30
        )
    except Exception as error:
        plain = _refusal(source, error)
        if plain is not None:
            raise ValueError(plain) from error
        cached = _cached(source)
        if cached is None:
            raise ValueError(_unreachable(source, "", error)) from error
        return cached
    assert info.sha is not None, "the hub returns the commit with its description"
    try:
        return Locked(
            commit=info.sha,
            listing=sorted(
                file.rfilename for file in info.siblings or () if _is_data(file.rfilename)
            ),
        )
    except ValidationError as error:
        raise ValueError(
            f"data set {source.id}: its listing from {_shown()} cannot be trusted "
            f"({error.errors()[0]['msg']}); set HF_ENDPOINT to another hub"
        ) from error


def _cached(source: HubProblems) -> Locked | None:
    """The commit and files of a revision in the cache; None if it is not there.

    Relies on the hub library's documented layout: refs/<revision> names a folder of snapshots/.
    """
    repo, revision = (
        _cache() / f"datasets--{source.id.replace('/', '--')}",
        source.revision or "main",
    )
    ref = path_inside(repo / "refs", revision, f"data set {source.id}: revision")
    folder = path_inside(
        repo / "snapshots",
        ref.read_text().strip() if ref.is_file() else revision,
        f"data set {source.id}: revision",
    )
    if not folder.is_dir():
        return None
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return Locked(commit=folder.name, listing=sorted(name for name in names if _is_data(name)))


def _fetch(source: HubProblems, commit: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    def get(**more: Any) -> Path:
        return Path(
            hf_hub_download(
                source.id, name, repo_type="dataset", revision=commit, cache_dir=_cache(), **more
            )
        )

    try:
        return get(local_files_only=True)
    except OSError:  # not in the cache
        try:
            return get(endpoint=_endpoint())
        except Exception as error:
            raise ValueError(
                _refusal(source, error, name) or _unreachable(source, f"/{name}", error)
            ) from error


def _is_data(name: str) -> bool:
    return Path(name).suffix in FORMATS and not name.startswith(".")


def _refusal(source: HubProblems, error: Exception, name: str = "a file") -> str | None:
    """The hub's reason for a refusal, as plain text; None if the hub was not reached.

    Replaces the library's messages, because those contain addresses.
    """
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"data set {source.id} asks you to accept its terms: do so at "
            f"{_shown()}/datasets/{source.id}, then set HF_TOKEN"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no data set {source.id} (or it is private: set HF_TOKEN); check the id"
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"data set {source.id} has no revision {source.revision}; correct it, or leave it "
            f"out for the newest"
        )
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    ):
        return (
            f"data set {source.id} lacks {name}, which its commit lists; remove its entry "
            f"from {lock_path()}"
        )
    return None


def _unreachable(source: HubProblems, name: str, error: Exception) -> str:
    return (
        f"data set {source.id}{name}: {_shown()} could not be reached ({type(error).__name__}) "
        f"and {_cache()} does not have it; "
        "connect once, set HF_ENDPOINT to a mirror, copy a filled cache there, or read a local "
        "copy (kind file, or path of a named set)"
    )


def _read_lock() -> dict[str, Locked]:
    try:
        text = lock_path().read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    try:
        return {key: Locked.model_validate(value) for key, value in json.loads(text).items()}
    except (ValueError, AttributeError, ValidationError) as error:
        raise ValueError(
            f"{lock_path()} is not readable; fix or remove it (its commits are then looked up "
            f"again)"
        ) from error
