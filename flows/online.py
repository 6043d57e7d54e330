"""A flow that runs an on-policy stage alone (Fig. 8): fresh samples for every update."""

from __future__ import annotations

import re
from typing import Annotated

from prefect import flow
from pydantic import Field

from erpd_core.config import CampaignConfig
from flows.campaign import CampaignResult, carry_out
from flows.recipes.forms import What
from flows.recipes.load import config_of
from flows.steps.hooks import HOOKS
from flows.steps.preflight import prepare_campaign
from tasks.execution.submit import StageRunner
from tasks.registry import open_registry

StartPolicy = Annotated[
    str,
    Field(
        title="Start", description="`base`, a policy id, or a campaign (its last student is taken)."
    ),
]
Iterations = Annotated[
    int,
    Field(
        ge=1,
        le=1000,
        title="Iterations",
        description="The recipe's `online` section sets the length of each.",
    ),
]


@flow(
    name="online",
    task_runner=StageRunner(),
    description="An on-policy stage: fresh samples for every update, from any policy.",
    **HOOKS,
)
def online(what: What, start: StartPolicy = "base", iterations: Iterations = 1) -> CampaignResult:
    """Run a campaign of which every iteration is online."""
    config, recipe = what.resolve()
    return carry_out(prepare_campaign(online_config(config, start, iterations)), recipe)


def online_config(config: CampaignConfig, start: str, iterations: int) -> CampaignConfig:
    """The config of a campaign that trains on policy from `start`.

    **Arguments:**
        start: `base`, a policy id, or a campaign, whose last student is taken.
    **Raises:** ValueError, in one line, for an invalid config; LookupError if the campaign is
        unknown or has no student.
    """
    changes = {
        "name": f"{config.name}-online"[:61],
        "iterations": iterations,
        "decision": {"mode": "fixed", "fixed": ["online"]},
    }
    if start != "base":
        changes["model"] = {
            "kind": "stored",
            "id": start if re.fullmatch("policy-[0-9a-f]{20}", start) else last_student(start),
        }
    return config_of(config.model_dump(mode="json") | changes, config.name)


def last_student(campaign: str) -> str:
    """The policy id of a campaign's last student.

    **Raises:** LookupError if the campaign is unknown or has no student.
    """
    registry = open_registry()
    id = registry.campaign(campaign).id
    reports = registry.reports(id)
    students = [row.report.policy for row in reports if row.role == "student"]
    if not students:
        raise LookupError(f"{id}: it has no student yet; run it, or start from `base`")
    return students[-1]
