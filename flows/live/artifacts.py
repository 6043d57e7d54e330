"""Artifacts of a Prefect flow run that are updated in place."""

from __future__ import annotations

from typing import Any

from prefect import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.runtime import flow_run


class LiveArtifact:
    """The artifact `key` of the current flow run: created when first shown, then updated.

    A second instance, in this process or in the one that resumes after a pause, finds and updates
    the same artifact.
    """

    def __init__(self, kind: str, key: str) -> None:
        self.kind, self.key = kind, key
        self._artifact: Any = None
        self._last: tuple[Any, str] | None = None

    def show(self, data: Any, description: str) -> None:
        """Create or update the artifact; nothing is sent if the content is unchanged."""
        if (data, description) == self._last:
            return
        with get_client(sync_client=True) as client:
            self._artifact = self._artifact or self._find(client)
            if self._artifact is None:
                new = ArtifactCreate(
                    type=self.kind,
                    key=self.key,
                    data=data,
                    description=description,
                    flow_run_id=flow_run.id,
                )
                self._artifact = client.create_artifact(new)
            else:
                client.update_artifact(
                    self._artifact.id, ArtifactUpdate(data=data, description=description)
                )
        self._last = data, description

    def _find(self, client: Any) -> Any:
        of_run = ArtifactFilter(
            key=ArtifactFilterKey(any_=[self.key]),
            flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]),
        )
        return next(iter(client.read_artifacts(artifact_filter=of_run, limit=1)), None)
