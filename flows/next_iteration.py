"""A flow that adds iterations to a campaign, for example every night by a schedule (Sec. 4.4)."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.campaign import CampaignResult, carry_out
from flows.recipes.forms import What
from flows.recipes.load import config_of
from flows.steps.hooks import HOOKS
from flows.steps.preflight import PreparedCampaign, prepare_campaign
from tasks.execution.submit import StageRunner
from tasks.registry import open_registry

More = Annotated[
    int,
    Field(
        ge=1,
        le=100,
        title="Iterations",
        description="How many more. An interrupted iteration is finished first.",
    ),
]


@flow(
    name="next-iteration",
    task_runner=StageRunner(),
    description="Continue a campaign: the next iteration, from its last student.",
    **HOOKS,
)
def next_iteration(what: What, more: More = 1) -> CampaignResult:
    """Start the campaign, or add iterations to it if it was run before with the same parameters.

    Args:
        more: How many more iterations. An interrupted iteration is finished first.
    """
    config, recipe = what.resolve()
    return carry_out(longer(prepare_campaign(config), more), recipe)


def longer(prepared: PreparedCampaign, more: int) -> PreparedCampaign:
    """The campaign, prepared for `more` iterations than it has completed; it keeps its id."""
    iterations = open_registry().iterations(prepared.id)
    wanted = sum(iteration.status == "completed" for iteration in iterations) + more
    config = prepared.config
    config = config_of(config.model_dump(mode="json") | {"iterations": wanted}, config.name)
    return prepared.model_copy(update={"config": config})
