"""What an artifact is, beside its bytes: the manifest in its folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.untrusted.paths import checked_name

MANIFEST = "manifest.json"


class StoredFile(BaseModel):
    sha256: str
    size: int


class Manifest(BaseModel):
    """What was asked, what it was made from, and what each of its files must hold."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    id: str
    kind: str
    spec: dict[str, Any] = Field(alias="question")
    inputs: dict[str, str]
    """Role -> identity of each input artifact."""
    version: int
    meta: dict[str, Any]
    files: dict[str, StoredFile]
    seconds: float
    """Time spent building it, over all sessions."""
    checksum: str = ""
    """Of everything above; none in notes of what is being made, and in stores from before there
    was one.
    """

    @model_validator(mode="after")
    def _is_whole(self) -> Manifest:
        if self.checksum and self.checksum != self._digest():
            raise ValueError(
                f"the manifest of {self.id} does not have the bytes its checksum promises"
            )
        return self

    def sealed(self) -> Manifest:
        """The same, with its checksum."""
        return self.model_copy(update={"checksum": self._digest()})

    def _digest(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"checksum"}).encode()).hexdigest()

    @field_validator("files")
    @classmethod
    def _stay_in_the_folder(cls, files: dict[str, StoredFile]) -> dict[str, StoredFile]:
        return {checked_name(name, MANIFEST): file for name, file in files.items()}

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Of the artifact in a folder. Raises FileNotFoundError, or ValueError where it cannot
        be read.
        """
        return cls.model_validate_json((folder / MANIFEST).read_bytes())


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
