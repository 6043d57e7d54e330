"""The deployed flows: those started from Prefect's UI, by a schedule, or by Prefect's CLI.

`erpd up` serves them; `deployments/prefect.yaml` declares them for a work pool.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flows.ablation import ablation
from flows.campaign import campaign
from flows.evaluation import evaluation
from flows.next_iteration import next_iteration as iteration
from flows.online import online
from flows.report import report
from tasks.host.home import prepare

__all__ = ["DEPLOYED", "ablation", "campaign", "evaluation", "iteration", "online", "report"]


@dataclass(frozen=True)
class Deployed:
    """A flow and how it is deployed."""

    flow: Any
    tags: tuple[str, ...]
    parameters: dict[str, Any] = field(default_factory=dict)
    """Initial values of its form."""
    heavy: bool = True
    """True if it samples or trains. Heavy flows run one at a time; the others queue."""


A_RECIPE = {"what": {"kind": "recipe", "recipe": "tiny"}}
DEPLOYED = {
    "campaign": Deployed(campaign, ("erpd", "campaign"), A_RECIPE),
    "iteration": Deployed(iteration, ("erpd", "campaign"), A_RECIPE),
    "online": Deployed(
        online, ("erpd", "online"), {"what": {"kind": "recipe", "recipe": "tiny-online"}}
    ),
    "ablation": Deployed(
        ablation, ("erpd", "study"), {"what": {"study": "table1", "scale": "tiny"}}
    ),
    "evaluation": Deployed(
        evaluation, ("erpd", "evaluation"), {"what": {"model": "tiny", "benchmarks": ["tiny"]}}
    ),
    "report": Deployed(report, ("erpd", "report"), heavy=False),
}

prepare()  # here, because a pool's worker imports this module before any other of the project
