"""The work compared with TRL's, one side per process: `benchmarks._work SIDE LOSS`.

A side is what its users get: TRL's trainers unchanged, and this project with the settings of a
stage (threads, memory that is kept). A request names the work, the batch and how many of its groups
are meant. Each round reports its rate (response tokens/s), the process's peak memory, and the
result: the loss, or the log-probs of the batch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import _ours, _trl
from benchmarks._batches import BATCHES
from benchmarks._measure import peak, rate
from benchmarks._pairs import Result
from benchmarks._report import quiet
from benchmarks._sides import serve
from erpd_core.batch import TokenBatch
from erpd_core.config import CE, GRPO, MSE, SAPO, Distill, Loss
from erpd_core.optimize import score
from tasks.host.machine import use_threads

LOSSES: dict[str, Loss] = {
    "sapo": SAPO(),
    "grpo": GRPO(),
    "ce": CE(beta=0.01),
    "mse": MSE(),
    "distill": Distill(),
}
PEER = {"sapo": "sapo", "grpo": "grpo", "ce": "sapo", "mse": "sapo"}
BUDGETS = {"gsm8k-like": 1000, "short": 700}
"""Input tokens per micro-batch."""
OLD = -10.0
"""Log-prob of every token under the behavior policy; a constant, so that no side needs a model."""

Prepared = Callable[[TokenBatch, int], Callable[[], Result]]
"""Prepares one round on a batch, with a limit of input tokens per micro-batch."""


class Works(NamedTuple):
    """What one side can do."""

    vocabulary: int
    step: Prepared
    score: Prepared


def main() -> None:
    side, loss = sys.argv[1:]
    quiet()
    folder = _ours.smollm2()
    if side == "ours":
        use_threads(None)
    else:
        torch.set_num_threads(os.cpu_count() or 1)
    with ExitStack() as stack:
        works = ours(folder, loss) if side == "ours" else peer(stack, folder, loss)

        def round_(request: Any) -> Result:
            name = request["batch"]
            batch = BATCHES[name].batch(works.vocabulary, request["groups"])
            work = getattr(works, request["work"])(batch, BUDGETS[name])
            result: Result = {}
            speed = rate(batch.tokens, lambda: result.update(work()))
            return {"rate": speed, "tokens": batch.tokens, "peak_GB": peak() / 1e9, **result}

        serve(round_)


def ours(folder: Path, loss: str) -> Works:
    """Return this project's side, for the model in a folder."""
    trainer = _ours.Trainer(folder)

    def step(batch: TokenBatch, budget: int) -> Callable[[], Result]:
        old_N, signal_N = torch.full((batch.tokens,), OLD), _ours.advantage_N(batch)
        return lambda: {"loss": trainer.step(batch, old_N, signal_N, LOSSES[loss], budget)["loss"]}

    def scored(batch: TokenBatch, budget: int) -> Callable[[], Result]:
        return lambda: {"logprobs": score(trainer.policy, batch, budget)[0].tolist()}

    return Works(trainer.policy.model.config.vocab_size, step, scored)


def peer(stack: ExitStack, folder: Path, loss: str) -> Works:
    """Return TRL's side, for the model in a folder. It has no micro-batches by tokens."""
    distils = loss == "distill"
    trainer = stack.enter_context(
        _trl.iw_opd_trainer(folder, folder) if distils else _trl.grpo_trainer(folder, PEER[loss])
    )

    def step(batch: TokenBatch, _: int) -> Callable[[], Result]:
        trainer.model.train()
        if distils:
            inputs = _trl.opd_inputs(batch, pad=0)
        else:
            advantage_S = _ours.advantage_N(batch)[batch.offset_S[:-1]]
            inputs = _trl.grpo_inputs(batch, advantage_S, torch.full((batch.tokens,), OLD), pad=0)
            trainer.current_gradient_accumulation_steps = len(inputs)
        return lambda: {"loss": _trl.step(trainer, inputs)}

    def scored(batch: TokenBatch, _: int) -> Callable[[], Result]:
        trainer.model.eval()
        inputs = _trl.grpo_inputs(batch, batch.reward_S, torch.zeros(batch.tokens), pad=0)

        def work() -> Result:
            pairs = zip(_trl.logprobs(trainer, inputs), inputs, strict=True)
            lp = [lp[part["completion_mask"] > 0] for lp, part in pairs]
            return {"logprobs": torch.cat(lp).tolist()}

        return work

    return Works(trainer.model.config.vocab_size, step, scored)


if __name__ == "__main__":
    main()
