"""Prefect hooks that record in the registry that a campaign was killed.

A killed process cannot record its own end. Prefect calls these hooks where it notices the end.
"""

from __future__ import annotations

import contextlib
from typing import Any

from prefect import get_client

from tasks.registry import open_registry


def record_killed(flow: Any, flow_run: Any, state: Any) -> None:
    """Set the status of a cancelled or crashed run's campaign to killed.

    Does nothing if the run ended before its campaign was in the registry.
    """
    with get_client(sync_client=True) as client:
        # `flow_run` may date from before the run was given the campaign's name.
        campaign = client.read_flow_run(flow_run.id).name
    registry = open_registry()
    with contextlib.suppress(LookupError), contextlib.closing(registry):
        if registry.campaign(campaign).status == "running":
            registry.campaign_finished(campaign, "killed")


HOOKS: dict[str, Any] = {"on_cancellation": [record_killed], "on_crashed": [record_killed]}
