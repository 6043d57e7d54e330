"""An artifact of the Prefect run that is one thing with one place: shown anew, it changes there
instead of appearing again.
"""

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
    """The artifact `key` of the flow run this is called in, made when there is something to show
    and changed in place after that.

    Another instance, in this process or in the one that goes on after a pause, finds what the first
    one made.
    """

    def __init__(self, kind: str, key: str) -> None:
        self.kind, self.key = kind, key
        self._made: Any = None
        self._last: tuple[Any, str] | None = None

    def show(self, data: Any, description: str) -> None:
        if (data, description) == self._last:
            return
        with get_client(sync_client=True) as client:
            self._made = self._made or self._found(client)
            if self._made is None:
                made = ArtifactCreate(
                    type=self.kind,
                    key=self.key,
                    data=data,
                    description=description,
                    flow_run_id=flow_run.id,
                )
                self._made = client.create_artifact(made)
            else:
                client.update_artifact(
                    self._made.id, ArtifactUpdate(data=data, description=description)
                )
        self._last = data, description

    def _found(self, client: Any) -> Any:
        of_run = ArtifactFilter(
            key=ArtifactFilterKey(any_=[self.key]),
            flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]),
        )
        return next(iter(client.read_artifacts(artifact_filter=of_run, limit=1)), None)
