"""`erpd decide`: the decisions that wait for a person, and an answer to one."""

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
    """Every decision that waits, with its evidence and how to answer it."""
    found = pending_decisions()
    if not found:
        console.print("No decision waits.")
    for one in found:
        left = max(0.0, one.until - time.time())
        console.print(f"[bold]{one.campaign}[/], iteration {one.iteration}", highlight=False)
        console.print(Markdown(one.evidence))
        students = f" [--student {'|'.join(map(str, one.students))}]" if one.students else ""
        command = (
            f"erpd decide {one.campaign} --strategy {'|'.join(one.strategies)}{students} "
            f"[--steps N] [--kl-budget X] --by NAME --why TEXT"
        )
        console.print(f"\nAnswer   {command}", highlight=False, markup=False, soft_wrap=True)
        console.print(f"or at    {one.page} (Resume)", highlight=False, soft_wrap=True)
        console.print(
            f"Without an answer {one.automatic} is taken in {left / 60:.0f} min.\n", highlight=False
        )


def decide(campaign: str, given: Mapping[str, Any]) -> PendingDecision:
    """Answer the decision that a campaign waits for. Raises LookupError when none does,
    ValueError for what is not possible.
    """
    one = next((one for one in pending_decisions() if one.campaign == campaign), None)
    if one is None:
        names = ", ".join(dict.fromkeys(other.campaign for other in pending_decisions())) or "none"
        raise LookupError(f"{campaign}: no decision of it waits; waiting campaigns: {names}")
    try:
        answer(one, {name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ValueError(explain(error)) from error
    return one
