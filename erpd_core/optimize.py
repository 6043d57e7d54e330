"""The one training loop: a generator that yields a record per step. No printing, no files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from erpd_core.batch import TokenBatch, minibatches
from erpd_core.columns import Column
from erpd_core.config import Loss, OptimizerConfig
from erpd_core.finite import SLOWER, Suspects, require_finite
from erpd_core.kl import k3
from erpd_core.logprobs import fused_loss, token_logprobs
from erpd_core.losses import SEQUENCE_LEVEL, LossInputs, Totals, policy_loss
from erpd_core.parallel import ALONE, Team, deal, local
from erpd_core.signals import Signal

Record = dict[str, float]


class Trainable(Protocol):
    """What an optimizer needs of a model."""

    def parameters(self) -> list[torch.nn.Parameter]: ...


class PolicyModel(Trainable, Protocol):
    """What the loop needs of a model; `tasks/models/policy.py` makes one of a transformers
    model.
    """

    def plan(self, batch: TokenBatch, sequences: Tensor, token_budget: int) -> Sequence[Any]:
        """The sequences as micro-batches of its own layout (`erpd_core.layout`,
        `erpd_core.padded`): `sequences` and `token_N` in each.
        """

    def hidden(self, micro: Any) -> Tensor:
        """[N, H] hidden states that predict the micro-batch's response tokens."""

    def head(self) -> Tensor:
        """[V, H] output head."""


def make_optimizer(model: Trainable, config: OptimizerConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


@torch.no_grad()
def score(model: PolicyModel, batch: TokenBatch, token_budget: int) -> tuple[Tensor, Tensor]:
    """Log-prob and entropy of every response token under the model: (lp_N, entropy_N), float32
    on the CPU, the batch's own order.
    """
    lp_N = torch.empty(batch.tokens)
    entropy_N = torch.empty(batch.tokens)
    for micro in model.plan(batch, torch.arange(batch.sequences), token_budget):
        index = batch.token_index(micro.sequences)
        lp, entropy = token_logprobs(
            model.hidden(micro), model.head(), micro.token_N.to(model.head().device)
        )
        lp_N[index], entropy_N[index] = lp.cpu(), entropy.cpu()
    return lp_N, entropy_N


def optimize(
    model: PolicyModel,
    optimizer: torch.optim.Optimizer,
    batch: TokenBatch,
    old_N: Column,
    signal: Signal,
    loss: Loss,
    *,
    steps: int,
    minibatch: int,
    seed: int,
    max_grad_norm: float,
    token_budget: int,
    start: int = 0,
    team: Team = ALONE,
) -> Iterator[Record]:
    """Take optimizer steps `start + 1 ... steps` on a fixed batch; yield the record of each after
    it is taken.

    **Arguments:** `old_N` a column over the batch's tokens; `signal` what the loss sees as
    advantage; `seed` fixes the data order, so a run resumed at `start` with the optimizer's state
    goes on exactly as an undisturbed one; `team` who else trains this model: every member makes the
    same call, does its part of each minibatch, and yields the same records. Raises Fault, before
    the update, at a loss, a gradient or any other number of the record that is not finite.
    """
    order = minibatches(batch.sequences, minibatch, seed, start)
    for step in range(start + 1, steps + 1):
        yield _step(
            model,
            optimizer,
            batch,
            next(order),
            old_N,
            signal,
            loss,
            max_grad_norm,
            token_budget,
            step,
            team,
        )


def _step(
    model: PolicyModel,
    optimizer: torch.optim.Optimizer,
    batch: TokenBatch,
    chosen: Tensor,
    old_N: Column,
    signal: Signal,
    loss: Loss,
    max_grad_norm: float,
    token_budget: int,
    step: int,
    team: Team,
) -> Record:
    length = batch.length_S[chosen]
    totals = Totals(int(length.sum()), len(chosen), int(length[batch.reward_S[chosen] > 0.5].sum()))
    statistics = StepStatistics()
    optimizer.zero_grad(set_to_none=True)
    value = 0.0
    mine = model.plan(batch, deal(batch, chosen, team.size)[team.rank], token_budget)
    calls = max(team.gather(len(mine)))
    for micro in mine:
        hidden, head = model.hidden(micro), model.head()
        device = hidden.device
        index = batch.token_index(micro.sequences)
        lengths = batch.length_S[micro.sequences].to(device)
        old_n, reward_S = old_N[index].to(device), batch.reward_S[micro.sequences].to(device)
        seq_n = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)

        def part_loss(
            part: slice,
            lp_n: Tensor,
            entropy_n: Tensor,
            index: Tensor = index,
            old_n: Tensor = old_n,
            seq_n: Tensor = seq_n,
            reward_S: Tensor = reward_S,
            lengths: Tensor = lengths,
        ) -> Tensor:
            """What some tokens of the micro-batch add to the minibatch's loss; their statistics
            are taken on the way.
            """
            signal_n = signal.at(index[part], lp_n.detach())
            x = LossInputs(
                lp_n, old_n[part], signal_n, entropy_n, reward_S, seq_n[part], lengths, totals
            )
            added, metrics = policy_loss(loss, x)
            statistics.add(x, metrics)
            return added

        token_n = micro.token_N.to(device)
        if loss.kind in SEQUENCE_LEVEL:
            added = part_loss(slice(None), *token_logprobs(hidden, head, token_n))
        else:
            added = fused_loss(hidden, head, token_n, part_loss)
        added.backward()
        value += added.item()
    for _ in range(calls - len(mine)):
        _keep_company(model, batch, chosen)
    value = sum(team.gather(value))
    norm = team.clip(model.parameters(), max_grad_norm)
    record = {"step": step, "loss": value, "grad_norm": norm, **statistics.record(team)}

    def suspects() -> Suspects:
        place = batch.token_index(chosen)
        return {
            "the old policy's log-probs": ([old_N[place]], "start from another policy"),
            "the signal": (
                [signal.at(place, old_N[place])],
                "look at the policies of its two sides",
            ),
            "the weights": (
                (local(parameter.detach()) for parameter in model.parameters()),
                SLOWER,
            ),
        }

    require_finite(record, step, suspects)
    optimizer.step()
    return record


def _keep_company(model: PolicyModel, batch: TokenBatch, chosen: Tensor) -> None:
    """A model call without a gradient, on the shortest sequence: members that still have a
    micro-batch need everyone's shards.
    """
    shortest = int(chosen[batch.length_S[chosen].argmin()])
    (micro,) = model.plan(batch, chosen.new_tensor([shortest]), 1)
    hidden, head = model.hidden(micro), model.head()
    torch.autograd.backward((hidden, head), (torch.zeros_like(hidden), torch.zeros_like(head)))


class StepStatistics:
    """Means over a minibatch's tokens of what Fig. 4, 5, 9 and 10 plot, taken before the step's
    update. Only sums are kept.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._ratios: list[float] = []
        """The smallest and the largest of each part."""

    def add(self, x: LossInputs, metrics: dict[str, Tensor]) -> None:
        lp_N, reward_N, old_N = (
            column.detach().double() for column in (x.lp_N, x.reward_N, x.old_N)
        )
        log_ratio_N, prob_N, positive_N = lp_N - old_N, lp_N.exp(), (reward_N > 0.5).double()
        error_N = reward_N - prob_N
        columns = {
            "tokens": torch.ones_like(lp_N),
            "entropy": x.entropy_N.detach(),
            "kl_old_theta_on_old_batch": k3(x.old_N, x.lp_N.detach()),
            **metrics,
            "ratio_mean": log_ratio_N.exp(),
            **{f"reward^{power}": reward_N**power for power in (1, 2)},
            **{f"error^{power}": error_N**power for power in (1, 2)},
        }
        for name, mask_N in (("positive", positive_N), ("negative", 1 - positive_N)):
            columns |= {
                f"{name}s": mask_N,
                f"prob_{name}": prob_N * mask_N,
                f"log_ratio_{name}": log_ratio_N * mask_N,
            }
        sums = torch.stack([column.double().sum() for column in columns.values()])
        ends = log_ratio_N.aminmax()
        *found, low, high = torch.cat([sums, ends.min.exp()[None], ends.max.exp()[None]]).tolist()
        for name, value in zip(columns, found, strict=True):
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._ratios += [low, high]

    def record(self, team: Team = ALONE) -> Record:
        """Of the tokens of all members, the same for each.

        `kl_old_theta_on_old_batch` is KL(old || theta), k3, sampled by old: not the tables' KL,
        which is on fresh samples of theta.
        """
        told = team.gather((self._sums, self._ratios))
        names = next(sums for sums, _ in told if sums)
        sums = {name: math.fsum(one[name] for one, _ in told if one) for name in names}
        ratios = [ratio for _, found in told for ratio in found]
        tokens = sums.pop("tokens")
        spread, left = (
            sums.pop(f"{name}^2") / tokens - (sums.pop(f"{name}^1") / tokens) ** 2
            for name in ("reward", "error")
        )
        of_sign: Record = {}
        for name in ("positive", "negative"):
            count, parts = (
                sums.pop(f"{name}s"),
                {key: sums.pop(f"{key}_{name}") for key in ("prob", "log_ratio")},
            )
            if count:
                of_sign |= {f"{key}_{name}": total / count for key, total in parts.items()}
        record = {name: total / tokens for name, total in sums.items()}
        record |= {"ratio_max": max(ratios), "ratio_min": min(ratios), **of_sign}
        if spread > 1e-12:  # explained variance has no meaning where all outcomes are equal
            record["explained_variance"] = 1.0 - left / spread
        return record
