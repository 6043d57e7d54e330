"""Fits a value network to the outcomes of a fixed batch, and reads its values.

The target is the Monte-Carlo return. With lambda 1 and gamma 1 that is the outcome R at every
response token (VC-PPO's value pretraining, arXiv 2503.01491). PPO sometimes clips values around
earlier ones; a critic here is fitted once, so there are no earlier values to clip around.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from erpd_core.batch import TokenBatch, minibatches
from erpd_core.faults import Fault
from erpd_core.finite import require_finite, require_finite_column
from erpd_core.optimize import Trainable
from erpd_core.step_statistics import Record

SLOWER = "lower the critic's learning rate"


class ValueModel(Trainable, Protocol):
    """The interface of a critic; `tasks/training/critic.py` implements it with transformers."""

    def plan(self, batch: TokenBatch, sequences: Tensor, token_budget: int) -> Sequence[Any]:
        """The sequences as micro-batches, as in `erpd_core.optimize.PolicyModel`."""

    def values(self, micro: Any) -> Tensor:
        """The value of the state in which each response token of the micro-batch was chosen.

        [N] float32, on the device of the model.
        """


@torch.no_grad()
def predict_values(model: ValueModel, batch: TokenBatch, token_budget: int) -> Tensor:
    """The value at every response token: value_N, float32 on the CPU, in the order of the batch."""
    value_N = torch.empty(batch.tokens)
    for micro in model.plan(batch, torch.arange(batch.sequences), token_budget):
        value_N[batch.token_index(micro.sequences)] = model.values(micro).cpu()
    return value_N


def explained_variance(return_N: Tensor, value_N: Tensor) -> float | None:
    """Explained variance of the values: `1 - Var(R - V) / Var(R)` over response tokens.

    It is 1 if the values equal the outcomes, 0 if they are constant, and None if all outcomes are
    equal.
    """
    spread = return_N.double().var(unbiased=False).item()
    if spread == 0:
        return None
    return 1.0 - (return_N.double() - value_N.double()).var(unbiased=False).item() / spread


def require_sound_values(value_N: Tensor, return_N: Tensor) -> None:
    """Check that the values of a critic can be used for advantages.

    The constant 1/2 has a mean squared error of 0.25, whatever the outcomes. Only a critic that
    diverged exceeds 1, and advantages from its values would be noise.

    **Raises:** Fault if a value is not finite, or if the mean squared error exceeds 1.
    """
    require_finite_column(value_N, "values", SLOWER)
    error = (value_N.double() - return_N.double()).square().mean().item()
    if error > 1:
        raise Fault(
            f"the critic has diverged: the mean squared error of its values is {error:.3g}, "
            f"outcomes are 0 and 1",
            SLOWER,
        )


def fit_values(
    model: ValueModel,
    optimizer: torch.optim.Optimizer,
    batch: TokenBatch,
    *,
    steps: int,
    minibatch: int,
    seed: int,
    max_grad_norm: float,
    token_budget: int,
    start: int = 0,
) -> Iterator[Record]:
    """Take optimizer steps `start + 1 ... steps` on `(V - R)^2`, token mean over the minibatch.

    **Arguments:**
        minibatch: Responses per step.
        seed: Fixes the order of the data, so that a run resumed at `start` with the optimizer's
            state equals an undisturbed one.
        token_budget: Maximum input tokens of one forward pass.
    **Yields:** The record of each step, after the step is taken. `value_loss`, `explained_variance`
        (absent if all outcomes of the minibatch are equal) and `grad_norm` (before clipping) are
        measured before the update.
    **Raises:** Fault, before the update, if the loss or the gradient is not finite.
    """
    order = minibatches(batch.sequences, minibatch, seed, start)
    return_N = batch.per_token(batch.reward_S)
    for step in range(start + 1, steps + 1):
        chosen = next(order)
        tokens = int(batch.length_S[chosen].sum())
        returns: list[Tensor] = []
        values: list[Tensor] = []
        optimizer.zero_grad(set_to_none=True)
        for micro in model.plan(batch, chosen, token_budget):
            value_N = model.values(micro)
            returns.append(return_N[batch.token_index(micro.sequences)])
            values.append(value_N.detach().cpu())
            ((value_N - returns[-1].to(value_N.device)).square().sum() / tokens).backward()
        known, value = torch.cat(returns), torch.cat(values)
        loss = (value - known).double().square().mean().item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm).item()
        record = {"step": step, "value_loss": loss, "grad_norm": norm}
        require_finite(
            record,
            step,
            lambda: {"its weights": ((weight.detach() for weight in model.parameters()), SLOWER)},
            SLOWER,
        )
        optimizer.step()
        explained = explained_variance(known, value)
        yield record if explained is None else {**record, "explained_variance": explained}
