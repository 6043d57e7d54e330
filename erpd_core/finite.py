"""Are the numbers of a training finite? Asked of a step's record before its update, and of
weights before they are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from erpd_core.faults import Fault
from erpd_core.parallel import SINGLE, WorkerGroup, local

SLOWER = "lower the learning rate or constrain the loss"

Suspects = Mapping[str, tuple[Iterable[Tensor], str]]
"""What a step's numbers are made of -> where it lies, and how to mend it."""


def non_finite(values: Tensor) -> int:
    """How many of them are NaN or infinite."""
    if bool(torch.isfinite(values.sum())):  # costs less than a mask
        return 0
    return int((~torch.isfinite(values)).sum())


def require_finite(
    record: Mapping[str, float], step: int, suspects: Callable[[], Suspects], mend: str = SLOWER
) -> None:
    """Raises Fault when a number of the record is not finite. It blames the first of `suspects`
    that is not, else the number itself.
    """
    wrong = [(name, value) for name, value in record.items() if not math.isfinite(value)]
    if not wrong:
        return
    for name, (tensors, its_mend) in suspects().items():
        if count := sum(map(non_finite, tensors)):
            raise Fault(
                f"{count} values of {name} are not finite ({_told(wrong)})",
                its_mend,
                f"step {step}",
            )
    raise Fault(_told(wrong), mend, f"step {step}")


def _told(wrong: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} is {value}" for name, value in wrong[:3])


def require_finite_weights(
    named: Iterable[tuple[str, Tensor]], step: int, workers: WorkerGroup = SINGLE
) -> None:
    """Raises Fault when weights are not finite. Every member of the workers calls it, with its
    shards, and all of them raise.
    """
    own = [name for name, weight in named if non_finite(local(weight.detach()))]
    if wrong := sorted({name for names in workers.gather(own) for name in names}):
        raise Fault(
            f"{len(wrong)} weights have become NaN or infinite, first {wrong[0]}",
            SLOWER,
            f"step {step}",
        )


def require_finite_column(values: Tensor, what: str, mend: str) -> None:
    """Raises Fault when a value of the column is not finite."""
    if count := non_finite(values):
        raise Fault(f"{count} of {len(values)} {what} are not finite", mend)


def require_bounded_kl(record: Mapping[str, float], guessing: float, step: int) -> None:
    """Raises Fault when KL(old || theta), nats per token of old's samples, exceeds `guessing`, the
    logarithm of the vocabulary.

    A policy that guesses evenly among all tokens is nearer to old then. A student is to stay near;
    a teacher may go anywhere (Sec. 3.1). It is the plain estimate (k1): one token that old found
    unlikely and theta does not carries k3 of a minibatch away.
    """
    kl = record["kl_old_theta_on_old_batch"] + 1 - record["ratio_mean"]
    if kl > guessing:
        raise Fault(
            f"KL(old || student) is {kl:.3g} nats per token; even guessing among all tokens has "
            f"no more than {guessing:.3g}",
            "lower the learning rate, or set distill.kl_stop to end there and go on with the "
            "student it has by then",
            f"step {step}",
        )
