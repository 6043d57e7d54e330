"""The manifest of an artifact: its spec, inputs, results and file checksums."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.untrusted.paths import checked_name

MANIFEST = "manifest.json"
"""Name of the manifest in an artifact's folder."""


class StoredFile(BaseModel):
    """Checksum and size of one file of an artifact."""

    sha256: str
    size: int
    """Bytes."""


class Manifest(BaseModel):
    """Description of an artifact, stored as `manifest.json` in its folder."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    id: str
    kind: str
    spec: dict[str, Any] = Field(alias="question")
    """Settings that affect the artifact's values."""
    inputs: dict[str, str]
    """Role -> identity of each input artifact."""
    version: int
    """`VERSION` of the stage that made it."""
    meta: dict[str, Any]
    """The stage's result as JSON."""
    files: dict[str, StoredFile]
    """Path relative to the artifact's folder -> its checksum and size."""
    seconds: float
    """Seconds spent building it, over all sessions."""
    checksum: str = ""
    """SHA-256 of the other fields. Empty in notes of builds and in manifests from older versions.
    """

    @model_validator(mode="after")
    def _is_whole(self) -> Manifest:
        if self.checksum and self.checksum != self._digest():
            raise ValueError(f"the manifest of {self.id} does not match its checksum")
        return self

    def sealed(self) -> Manifest:
        """Return a copy with its checksum."""
        return self.model_copy(update={"checksum": self._digest()})

    def _digest(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"checksum"}).encode()).hexdigest()

    @field_validator("files")
    @classmethod
    def _stay_in_the_folder(cls, files: dict[str, StoredFile]) -> dict[str, StoredFile]:
        return {checked_name(name, MANIFEST): file for name, file in files.items()}

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest in an artifact's folder.

        **Raises:** FileNotFoundError if there is none, ValueError if it is damaged.
        """
        return cls.model_validate_json((folder / MANIFEST).read_bytes())


def sha256(path: Path) -> str:
    """The SHA-256 digest of a file, read every time; `tasks.host.file_digest` reads once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
