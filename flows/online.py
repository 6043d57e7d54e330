"""An on-policy stage by itself (Fig. 8): fresh samples for every update, from any policy that
there is.
"""

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

Start = Annotated[
    str,
    Field(
        title="Start", description="`base`, a policy's id, or a campaign: its last student then."
    ),
]
Iterations = Annotated[
    int,
    Field(
        ge=1,
        le=1000,
        title="Iterations",
        description="Each as long as the recipe's online section says.",
    ),
]


@flow(
    name="online",
    task_runner=StageRunner(),
    description="An on-policy stage: fresh samples for every update, from any policy.",
    **HOOKS,
)
def online(what: What, start: Start = "base", iterations: Iterations = 1) -> CampaignResult:
    """A campaign whose every iteration is online."""
    config, recipe = what.resolve()
    return carry_out(prepare_campaign(online_config(config, start, iterations)), recipe)


def online_config(config: CampaignConfig, start: str, iterations: int) -> CampaignConfig:
    """The campaign that goes on from `start` on-policy. Raises ValueError in one line;
    LookupError for a campaign without students.
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
    """Identity of the policy that a campaign came to. Raises LookupError for one that is not
    known or has none.
    """
    registry = open_registry()
    found = registry.campaign(campaign)
    students = [one.report.policy for one in registry.reports(found.id) if one.role == "student"]
    if not students:
        raise LookupError(f"{found.id}: it has no student yet; run it, or start from `base`")
    return students[-1]
