"""What each loss needs of a batch's outcomes to have anything to learn from."""

from __future__ import annotations

from erpd_core.batch_outcomes import Outcomes
from erpd_core.config import MSE, Loss
from erpd_core.faults import Fault

NEEDS = {
    **dict.fromkeys(("grpo", "sapo", "reinforce", "cispo", "vespo", "dispo"), "telling"),
    **dict.fromkeys(("ppo", "ce", "mse"), "both"),
    "sft": "right",
}
"""Kind of loss -> `telling`: groups whose outcomes differ, for the advantage is 0 in all others;
`both`: right and wrong responses, for there is nothing to tell apart in one kind; `right`: right
responses, the only ones it looks at. A kind that is not here (`distill`, which has its signal)
needs none.
"""


def require_lesson(outcomes: Outcomes, loss: Loss) -> None:
    """Raises Fault when the loss has nothing to learn from a batch of these outcomes."""
    if outcomes.responses == outcomes.empty:
        raise Fault(
            f"no response has a token ({outcomes})",
            "look at the model's stop tokens and at sampling.max_new_tokens",
        )
    need = "right" if isinstance(loss, MSE) and not loss.negative_weight else NEEDS.get(loss.kind)
    if need == "telling" and not outcomes.telling:
        raise Fault(
            f"{loss.kind} learns from groups that have both right and wrong responses ({outcomes})",
            _mend(outcomes, need),
        )
    if need in ("both", "right") and not outcomes.right:
        raise Fault(
            f"{loss.kind} learns from right responses, and there is none ({outcomes})",
            _mend(outcomes, need),
        )
    if need == "both" and not outcomes.wrong:
        raise Fault(
            f"{loss.kind} learns from wrong responses too, and there is none ({outcomes})",
            _mend(outcomes, need),
        )


def _mend(outcomes: Outcomes, need: str) -> str:
    if outcomes.truncated > outcomes.responses / 2:
        return "raise sampling.max_new_tokens: most responses are cut before they end"
    if outcomes.responses == outcomes.groups and need == "telling":
        return "raise sampling.samples: a group of one has nothing to compare"
    if not outcomes.right:
        return "take easier prompts, more samples, or check that the grader reads these answers"
    if not outcomes.wrong:
        return "take harder prompts: the policy solves these"
    return "take more prompts or samples, or a loss that needs no groups (ce, mse, ppo, sft)"
