"""The mirror: a copy of every finished artifact at an fsspec URL.

For machines that share no file system. The local store is its cache.
"""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from typing import Any

from tasks.store.manifest import MANIFEST, Manifest, sha256

WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}
"""Protocols of object stores, where an object is complete or absent even while it is written."""


class Mirror:
    """Artifacts at `url/<kind>/<id>/`, each complete or absent.

    The manifest is the last file that is written and the first that is read. Other files are
    stored under their checksums, so that two machines that make the same artifact at the same time
    never mix their bytes.

    **Example:** `Mirror("s3://bucket/erpd")` (with `pip install s3fs`),
    `Mirror("file:///mnt/erpd")`

    **Raises:** ValueError if the protocol is unknown or its driver is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            fs, root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"ERPD_STORE_URL: {url} cannot be used ({error}); install its driver (s3fs, "
                f"gcsfs), or correct the URL"
            ) from error
        self.url, self._root = url, str(root).rstrip("/")
        self._fs: Any = fs
        protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
        self._whole = not WHOLE.isdisjoint(protocols)

    def check(self) -> None:
        """Write and remove a probe file. Raises ValueError if the mirror cannot be written."""
        place = f"{self._root}/probe-{secrets.token_hex(8)}"
        try:
            self._make_folder(self._root)
            self._fs.pipe_file(place, b"erpd")
            self._fs.rm_file(place)
        except Exception as error:  # each protocol raises its own
            why = " ".join(str(error).split())[:200]
            raise ValueError(
                f"ERPD_STORE_URL: {self.url} cannot be written ({why}); check that it exists and "
                f"that its credentials are in the environment"
            ) from error

    def has(self, artifact: str) -> bool:
        """Whether the mirror has a complete manifest of an artifact."""
        return self._manifest(artifact) is not None

    def push(self, artifact: str, folder: Path) -> None:
        """Copy an artifact from its folder to the mirror, unless the mirror has it already."""
        if self.has(artifact):
            return
        for name, stored in Manifest.read(folder).files.items():
            self._upload(folder / name, self._file(artifact, name, stored.sha256))
        self._upload(folder / MANIFEST, self._place(artifact, MANIFEST))

    def fetch(self, artifact: str, scratch: Path) -> bool:
        """Copy an artifact from the mirror to `scratch`, a folder that does not exist yet.

        **Returns:** False if the mirror does not have the artifact.
        **Raises:** RuntimeError if a file in the mirror is missing or does not match the manifest.
        """
        manifest = self._manifest(artifact)
        if manifest is None:
            return False
        scratch.mkdir(parents=True)
        for name, stored in manifest.files.items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                self._fs.get_file(self._file(artifact, name, stored.sha256), str(scratch / name))
            except FileNotFoundError:
                raise self._damaged(artifact, name) from None
            if sha256(scratch / name) != stored.sha256:
                raise self._damaged(artifact, name)
        (scratch / MANIFEST).write_text(manifest.model_dump_json(indent=1))
        return True

    def remove(self, artifact: str) -> None:
        """Remove an artifact's manifest, so that the mirror no longer has the artifact.

        Its files stay under their checksums and are overwritten if it is made again.
        """
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._place(artifact, MANIFEST))

    def _damaged(self, artifact: str, name: str) -> RuntimeError:
        return RuntimeError(
            f"{self.url}: {artifact}/{name} is damaged there; remove {self._place(artifact)}, and "
            f"it is made again"
        )

    def _place(self, artifact: str, name: str = "") -> str:
        return f"{self._root}/{artifact.partition('-')[0]}/{artifact}/{name}"

    def _file(self, artifact: str, name: str, checksum: str) -> str:
        return self._place(artifact, f"{checksum[:20]}/{name}")

    def _manifest(self, artifact: str) -> Manifest | None:
        """The mirror's manifest; None if it is absent, incomplete or of another artifact."""
        try:
            manifest = Manifest.model_validate_json(
                self._fs.cat_file(self._place(artifact, MANIFEST))
            )
        except (FileNotFoundError, ValueError):
            return None
        return manifest if manifest.id == artifact else None

    def _upload(self, path: Path, place: str) -> None:
        self._make_folder(place.rpartition("/")[0])
        if self._whole:
            self._fs.put_file(str(path), place)
            return
        part = f"{place}.{secrets.token_hex(4)}.part"
        self._fs.put_file(str(path), part)
        self._fs.mv(part, place)

    def _make_folder(self, place: str) -> None:
        if (
            not self._whole
        ):  # object stores have no folders, and makedirs would create a misspelt bucket
            self._fs.makedirs(place, exist_ok=True)
