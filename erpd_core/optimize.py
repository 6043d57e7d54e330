"""The one training loop: a generator that yields a record per step. No printing, no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from erpd_core.batch import TokenBatch, minibatches
from erpd_core.columns import Column
from erpd_core.config import Loss, OptimizerConfig
from erpd_core.finite import SLOWER, Suspects, require_finite
from erpd_core.kl import k2
from erpd_core.logprobs import fused_loss, token_logprobs
from erpd_core.losses import LOSSES, LossInputs, Metrics, Totals
from erpd_core.parallel import SINGLE, WorkerGroup, local, partition
from erpd_core.signals import FixedSignal, Signal
from erpd_core.step_statistics import Record, StepStatistics


class Trainable(Protocol):
    """What an optimizer needs of a model."""

    def parameters(self) -> list[torch.nn.Parameter]: ...


class PolicyModel(Trainable, Protocol):
    """The interface of a policy; `tasks/models/policy.py` implements it with transformers."""

    def plan(self, batch: TokenBatch, sequences: Tensor, token_budget: int) -> Sequence[Any]:
        """The sequences as micro-batches, with `sequences` and `token_N` in each.

        The layout is that of the model: `erpd_core.layout` or `erpd_core.padded`.
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
    """Log-prob and entropy of every response token under the model, in nats.

    **Returns:** (lp_N, entropy_N), float32 on the CPU, in the order of the batch.
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


def objective(config: Loss, x: LossInputs) -> tuple[Tensor, Metrics]:
    """The configured loss, plus its KL penalty to old (k2) and minus its entropy bonus.

    Penalty and bonus are token means over the minibatch (Sec. 4.2; Tables 5, 6).
    """
    loss, metrics = LOSSES[config.kind](config, x)
    if config.kl_weight:
        loss = loss + config.kl_weight * x.token_mean(k2(x.lp_N, x.old_N))
    if config.entropy_weight:
        loss = loss - config.entropy_weight * x.token_mean(x.entropy_N)
    return loss, metrics


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
    workers: WorkerGroup = SINGLE,
) -> Iterator[Record]:
    """Take optimizer steps `start + 1 ... steps` on a fixed batch.

    **Arguments:**
        old_N: Log-probs of the policy that sampled the batch, one per response token.
        signal: What the loss sees as advantage.
        minibatch: Responses of a step.
        seed: Fixes the order of the data, so that a run resumed at `start` with the optimizer's
            state equals an undisturbed one.
        token_budget: Input tokens of one forward pass, at most.
        workers: The processes that train this model together. Each makes the same call, works on
            its part of every minibatch, and yields the same records.
    **Yields:** The record of each step, after it is taken. Responses that need no pass
        (`skips_zero_signal` of the loss) are not part of its statistics; `skipped` counts them.
    **Raises:** Fault, before the update, if a number of the record is not finite.
    """
    needed_S = (
        signal.present_S(batch.offset_S)
        if loss.skips_zero_signal and isinstance(signal, FixedSignal)
        else None
    )
    job = _Job(
        model, optimizer, batch, old_N, signal, loss, needed_S, max_grad_norm, token_budget, workers
    )
    order = minibatches(batch.sequences, minibatch, seed, start)
    for step in range(start + 1, steps + 1):
        yield _Step(job, next(order), step).take()


@dataclass(frozen=True)
class _Job:
    """What stays the same from step to step."""

    model: PolicyModel
    optimizer: torch.optim.Optimizer
    batch: TokenBatch
    old_N: Column
    signal: Signal
    loss: Loss
    needed_S: Tensor | None
    """bool [S]: the responses that need a pass; None if all do."""
    max_grad_norm: float
    token_budget: int
    workers: WorkerGroup


class _Step:
    """One optimizer step on a minibatch: `chosen_S` are its sequences in the batch."""

    def __init__(self, job: _Job, chosen_S: Tensor, number: int) -> None:
        self.job, self.chosen_S, self.number = job, chosen_S, number
        length_S = job.batch.length_S[chosen_S]
        right_S = job.batch.reward_S[chosen_S] > 0.5
        self.totals = Totals(int(length_S.sum()), len(chosen_S), int(length_S[right_S].sum()))
        self.statistics = StepStatistics()

    def take(self) -> Record:
        """Accumulate gradients, check every number, update the weights."""
        model, workers = self.job.model, self.job.workers
        self.job.optimizer.zero_grad(set_to_none=True)
        needed_S = self._needed()
        own_S = partition(self.job.batch, needed_S, workers.size)[workers.rank]
        micros = model.plan(self.job.batch, own_S, self.job.token_budget)
        most = max(workers.gather(len(micros)))  # before the first collective of the model
        value = 0.0
        for micro in micros:
            value += self._backward(micro)
        for _ in range(most - len(micros)):
            _dummy_backward(model, self.job.batch, self.chosen_S)
        value = sum(workers.gather(value))
        norm = workers.clip(model.parameters(), self.job.max_grad_norm)
        statistics = self.statistics.record(workers)
        record = {"step": self.number, "loss": value, "grad_norm": norm, **statistics}
        if self.job.needed_S is not None:
            record["skipped"] = len(self.chosen_S) - len(needed_S)
        require_finite(record, self.number, self._suspects)
        self.job.optimizer.step()
        return record

    def _needed(self) -> Tensor:
        """The responses of the minibatch that need a pass: at least the shortest one.

        The optimizer thus always gets gradients, and moves by its momentum where they are all zero.
        """
        if self.job.needed_S is None:
            return self.chosen_S
        needed_S = self.chosen_S[self.job.needed_S[self.chosen_S]]
        shortest = self.job.batch.length_S[self.chosen_S].argmin()
        return needed_S if len(needed_S) else self.chosen_S[shortest][None]

    def _backward(self, micro: Any) -> float:
        """Add a micro-batch's gradients; returns what it adds to the minibatch's loss."""
        model = self.job.model
        hidden, head = model.hidden(micro), model.head()
        part_loss = self._part_loss(micro, hidden.device)
        token_N = micro.token_N.to(hidden.device)
        if self.job.loss.SEQUENCE_LEVEL:
            added = part_loss(slice(None), *token_logprobs(hidden, head, token_N))
        else:
            added = fused_loss(hidden, head, token_N, part_loss)
        added.backward()
        return added.item()

    def _part_loss(
        self, micro: Any, device: torch.device
    ) -> Callable[[slice, Tensor, Tensor], Tensor]:
        """The loss of a stretch of a micro-batch's tokens, as a function of their log-probs."""
        job = self.job
        index_N = job.batch.token_index(micro.sequences)
        length_S = job.batch.length_S[micro.sequences].to(device)
        old_N = job.old_N[index_N].to(device)
        reward_S = job.batch.reward_S[micro.sequences].to(device)
        seq_N = torch.repeat_interleave(torch.arange(len(length_S), device=device), length_S)

        def part_loss(part: slice, lp_N: Tensor, entropy_N: Tensor) -> Tensor:
            x = LossInputs(
                lp_N=lp_N,
                old_N=old_N[part],
                signal_N=job.signal.at(index_N[part], lp_N.detach()),
                entropy_N=entropy_N,
                reward_S=reward_S,
                seq_N=seq_N[part],
                length_S=length_S,
                totals=self.totals,
            )
            added, metrics = objective(job.loss, x)
            self.statistics.add(x, metrics)
            return added

        return part_loss

    def _suspects(self) -> Suspects:
        """Where to look when a number is not finite, each with its remedy."""
        job = self.job
        index_N = job.batch.token_index(self.chosen_S)
        weights = (local(parameter.detach()) for parameter in job.model.parameters())
        return {
            "the old policy's log-probs": ([job.old_N[index_N]], "start from another policy"),
            "the signal": (
                [job.signal.at(index_N, job.old_N[index_N])],
                "look at the policies of its two sides",
            ),
            "the weights": (weights, SLOWER),
        }


def _dummy_backward(model: PolicyModel, batch: TokenBatch, chosen_S: Tensor) -> None:
    """Zero-gradient pass, so that ranks without work still join the FSDP collectives."""
    shortest = int(chosen_S[batch.length_S[chosen_S].argmin()])
    (micro,) = model.plan(batch, chosen_S.new_tensor([shortest]), 1)
    hidden, head = model.hidden(micro), model.head()
    torch.autograd.backward((hidden, head), (torch.zeros_like(hidden), torch.zeros_like(head)))
