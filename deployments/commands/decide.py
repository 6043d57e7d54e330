"""`erpd decide`: list the pending decisions, or make one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.markdown import Markdown

from flows.recipes.load import explain
from flows.steps.human_decision import PendingDecision, answer, pending_decisions


def show_waiting(console: Console) -> None:
    """Print every pending decision with its evidence and the command that answers it."""
    decisions = pending_decisions()
    if not decisions:
        console.print("No pending decisions.")
    for pending in decisions:
        left = max(0.0, pending.until - time.time())
        console.print(
            f"[bold]{pending.campaign}[/], iteration {pending.iteration}", highlight=False
        )
        console.print(Markdown(pending.evidence))
        students = (
            f" [--student {'|'.join(map(str, pending.students))}]" if pending.students else ""
        )
        command = (
            f"erpd decide {pending.campaign} --strategy {'|'.join(pending.strategies)}{students} "
            f"[--steps N] [--kl-budget X] --by NAME --why TEXT"
        )
        console.print(f"\nDecide   {command}", highlight=False, markup=False, soft_wrap=True)
        console.print(f"or at    {pending.page} (Resume)", highlight=False, soft_wrap=True)
        console.print(
            f"Without a decision, {pending.automatic} applies in {left / 60:.0f} min.\n",
            highlight=False,
        )


def decide(campaign: str, given: Mapping[str, Any]) -> PendingDecision:
    """Make the pending decision of a campaign.

    **Arguments:**
        given: The fields of the decision; None where the automatic value is kept.
    **Returns:** The decision that was pending.
    **Raises:** LookupError if the campaign has no pending decision; ValueError if the decision is
        not possible.
    """
    pending = next((each for each in pending_decisions() if each.campaign == campaign), None)
    if pending is None:
        names = ", ".join(dict.fromkeys(other.campaign for other in pending_decisions())) or "none"
        raise LookupError(f"{campaign}: has no pending decision; campaigns that have: {names}")
    try:
        answer(pending, {name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ValueError(explain(error)) from error
    return pending
