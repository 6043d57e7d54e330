"""Checks that a training's numbers are finite: records before the update, weights before saving."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from erpd_core.faults import Fault
from erpd_core.parallel import SINGLE, WorkerGroup, local

SLOWER = "lower the learning rate or constrain the loss"

Suspects = Mapping[str, tuple[Iterable[Tensor], str]]
"""Name of an input of a step -> its tensors, and the remedy if they are not finite."""


def non_finite(values: Tensor) -> int:
    """The number of values that are NaN or infinite."""
    if bool(torch.isfinite(values.sum())):  # cheaper than a mask
        return 0
    return int((~torch.isfinite(values)).sum())


def require_finite(
    record: Mapping[str, float], step: int, suspects: Callable[[], Suspects], remedy: str = SLOWER
) -> None:
    """Check that every number of a step's record is finite.

    **Arguments:**
        suspects: Returns the inputs of the step; called only if a number is not finite.
        remedy: The remedy if all suspects are finite.
    **Raises:** Fault that names the first suspect that is not finite, or else the number itself.
    """
    wrong = [(name, value) for name, value in record.items() if not math.isfinite(value)]
    if not wrong:
        return
    for name, (tensors, own_remedy) in suspects().items():
        if count := sum(map(non_finite, tensors)):
            raise Fault(
                f"{count} values of {name} are not finite ({_listed(wrong)})",
                own_remedy,
                f"step {step}",
            )
    raise Fault(_listed(wrong), remedy, f"step {step}")


def _listed(wrong: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} is {value}" for name, value in wrong[:3])


def require_finite_weights(
    named: Iterable[tuple[str, Tensor]], step: int, workers: WorkerGroup = SINGLE
) -> None:
    """Check that all weights are finite.

    Every worker has to call it, with its own shards. If any shard is not finite, all workers raise.

    **Raises:** Fault with the number of such weights and the name of the first.
    """
    own = [name for name, weight in named if non_finite(local(weight.detach()))]
    if wrong := sorted({name for names in workers.gather(own) for name in names}):
        raise Fault(
            f"{len(wrong)} weights have become NaN or infinite, first {wrong[0]}",
            SLOWER,
            f"step {step}",
        )


def require_finite_column(values: Tensor, what: str, remedy: str) -> None:
    """Check that every value of a column is finite; raises Fault otherwise."""
    if count := non_finite(values):
        raise Fault(f"{count} of {len(values)} {what} are not finite", remedy)


def require_bounded_kl(record: Mapping[str, float], guessing: float, step: int) -> None:
    """Check that a student has not drifted from old further than a uniform guess over all tokens.

    A student has to stay near old; a teacher may go anywhere (Sec. 3.1). The estimate is k1 of
    KL(old || theta), sampled by old, in nats per token. k3 would not do: a single token that old
    found unlikely and theta finds likely dominates k3 of a minibatch.

    **Arguments:**
        record: The step's record, with `kl_old_theta_on_old_batch` (k3) and `ratio_mean`.
        guessing: Logarithm of the vocabulary size: no uniform guess is further from old.
    **Raises:** Fault if the KL exceeds `guessing`.
    """
    kl = record["kl_old_theta_on_old_batch"] + 1 - record["ratio_mean"]
    if kl > guessing:
        raise Fault(
            f"KL(old || student) is {kl:.3g} nats per token; even guessing among all tokens has "
            f"no more than {guessing:.3g}",
            "lower the learning rate, or set distill.kl_stop to stop earlier and keep the student "
            "of that step",
            f"step {step}",
        )
