"""Fitting a value network to the outcomes of a fixed batch, and reading its values. Another model
and another loss than `optimize`.

Its target is the Monte-Carlo return: with lambda 1 and gamma 1 that is the outcome R at every
response token (VC-PPO's value pretraining, arXiv 2503.01491). Values are not clipped around earlier
ones, as PPO's sometimes are: one critic is fitted once, so there are none.
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
    """What the loop needs of a critic; `tasks/training/critic.py` makes one of a transformers
    model.
    """

    def plan(self, batch: TokenBatch, sequences: Tensor, token_budget: int) -> Sequence[Any]:
        """As a policy's (`erpd_core.optimize.PolicyModel`)."""

    def values(self, micro: Any) -> Tensor:
        """[N] float32, on its device: the value of the state each response token of the
        micro-batch was chosen in.
        """


@torch.no_grad()
def predict_values(model: ValueModel, batch: TokenBatch, token_budget: int) -> Tensor:
    """The value at every response token: value_N, float32 on the CPU, the batch's own order."""
    value_N = torch.empty(batch.tokens)
    for micro in model.plan(batch, torch.arange(batch.sequences), token_budget):
        value_N[batch.token_index(micro.sequences)] = model.values(micro).cpu()
    return value_N


def explained_variance(return_N: Tensor, value_N: Tensor) -> float | None:
    """`1 - Var(R - V) / Var(R)`: 1 for values that know the outcome, 0 for constant ones; None
    where all outcomes are equal.
    """
    spread = return_N.double().var(unbiased=False).item()
    if spread == 0:
        return None
    return 1.0 - (return_N.double() - value_N.double()).var(unbiased=False).item() / spread


def require_sound_values(value_N: Tensor, return_N: Tensor) -> None:
    """Raises Fault for values that are not finite, or further off than right and wrong are apart:
    advantages of them would be noise.

    A mean squared error of 0.25 is what the constant 1/2 has, whatever the outcomes; more than 1 no
    critic has but one that diverged.
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
    """Take optimizer steps `start + 1 ... steps` on `(V - R)^2`, token mean over the minibatch;
    yield the record of each after it is taken.

    Records hold `value_loss`, `explained_variance` (not where a minibatch's outcomes are all equal)
    and `grad_norm` (before it is cut), all before the step's update. A run resumed at `start` with
    the optimizer's state goes on exactly as an undisturbed one. Raises Fault, before the update, at
    a loss or gradient that is not finite.
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
            lambda: {"its weights": ((one.detach() for one in model.parameters()), SLOWER)},
            SLOWER,
        )
        optimizer.step()
        explained = explained_variance(known, value)
        yield record if explained is None else {**record, "explained_variance": explained}
