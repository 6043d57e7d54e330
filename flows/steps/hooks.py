"""The end of a campaign that could not say it itself: its process was killed, and who watches
over it tells the registry.
"""

from __future__ import annotations

import contextlib
from typing import Any

from prefect import get_client

from tasks.registry import open_registry


def record_killed(flow: Any, flow_run: Any, state: Any) -> None:
    """A hook of flows that run a campaign, for cancelled and crashed runs. One that ended before
    it was a campaign has nothing to tell.
    """
    with get_client(sync_client=True) as client:
        # the hook's own may be from before the run was named
        campaign = client.read_flow_run(flow_run.id).name
    registry = open_registry()
    with contextlib.suppress(LookupError), contextlib.closing(registry):
        if registry.campaign(campaign).status == "running":
            registry.campaign_finished(campaign, "killed")


HOOKS: dict[str, Any] = {"on_cancellation": [record_killed], "on_crashed": [record_killed]}
