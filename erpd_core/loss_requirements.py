"""Checks that a batch carries a learning signal for a loss."""

from __future__ import annotations

from erpd_core.batch_outcomes import BatchOutcomes
from erpd_core.config import Loss
from erpd_core.config.losses import LOSS_CONFIGS
from erpd_core.faults import Fault


def require_learning_signal(outcomes: BatchOutcomes, loss: Loss) -> None:
    """Refuse a batch from which the loss cannot learn.

    **Raises:** Fault with the counts of the batch and a remedy.
    """
    if outcomes.responses == outcomes.empty:
        raise Fault(
            f"no response has a token ({outcomes})",
            "look at the model's stop tokens and at sampling.max_new_tokens",
        )
    need = loss.required_outcomes
    if need == "mixed_groups" and not outcomes.mixed_groups:
        missing = "groups that have both right and wrong responses"
    elif need in ("both", "right") and not outcomes.right:
        missing = "right responses, and there is none"
    elif need == "both" and not outcomes.wrong:
        missing = "wrong responses too, and there is none"
    else:
        return
    raise Fault(f"{loss.kind} learns from {missing} ({outcomes})", _remedy(outcomes, need))


def _remedy(outcomes: BatchOutcomes, need: str) -> str:
    if outcomes.truncated > outcomes.responses / 2:
        return "raise sampling.max_new_tokens: most responses are cut before they end"
    if outcomes.responses == outcomes.groups and need == "mixed_groups":
        return "raise sampling.samples: a group of one has nothing to compare"
    if not outcomes.right:
        return "take easier prompts, more samples, or check that the grader reads these answers"
    if not outcomes.wrong:
        return "take harder prompts: the policy solves these"
    others = [
        config.model_fields["kind"].default
        for config in LOSS_CONFIGS
        if config.REQUIRED_OUTCOMES in ("both", "right")
    ]
    return f"take more prompts or samples, or a loss that needs no groups ({', '.join(others)})"
