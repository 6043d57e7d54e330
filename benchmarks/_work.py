"""The work compared with TRL's, one side per process: `benchmarks._work WORK SIDE LOSS BATCH`.

A side is what its users get: TRL's trainers unchanged, and this project with the settings of a
stage (threads, memory that is kept). Each round reports its rate (response tokens/s), the process's
peak memory, and the result: the loss, or the log-probs of the batch.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks import _ours, _trl
from benchmarks._batches import BATCHES
from benchmarks._measure import compared, in_turn, rate
from benchmarks._report import finish, parser, quiet, said
from benchmarks._sides import Side, serve
from erpd_core.batch import TokenBatch
from erpd_core.config import CE, GRPO, MSE, SAPO, Distill, Loss
from erpd_core.optimize import score
from tasks.host.machine import use_threads
from tasks.models.policy import load_policy

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

Work = Callable[[], dict[str, Any]]
Row = dict[str, Any]


def set_against(work: str, loss: str, batch: str, rounds: int) -> tuple[Row, Side, Side]:
    """Compare both sides on one batch.

    **Returns:** The row of the comparison, and both sides with the results of their rounds.
    """
    with _side(work, "ours", loss, batch) as ours, _side(work, "peer", loss, batch) as peer:
        pairs = in_turn(ours.ready(), peer.ready(), rounds)
    return {"tokens": ours.rounds[0]["tokens"], **compared(pairs)}, ours, peer


def alone(work: str, side: str, loss: str, batch: str, rounds: int) -> list[Row]:
    """Run one side without the other. Returns the results of its rounds."""
    with _side(work, side, loss, batch) as only:
        only.ready()
        for _ in range(rounds):
            only()
    return only.rounds


def _side(work: str, side: str, loss: str, batch: str) -> Side:
    return Side("benchmarks._work", work, side, loss, batch)


def on_batches(
    name: str, about: str | None, rounds: int, peer: str, compare: Callable[[str, int], Row]
) -> None:
    """Run a benchmark of one kind of work; `compare(batch, rounds)` returns a row.

    The headline is the GSM8K-like batch.
    """
    arguments = parser(about, rounds)
    arguments.add_argument("--batch", choices=list(BATCHES))
    args = arguments.parse_args()
    _ours.smollm2()  # convert it before two processes need it
    batches = [args.batch] if args.batch else list(BATCHES)
    results = [said({"batch": batch, **compare(batch, args.rounds)}) for batch in batches]
    finish(args.json, name, "response tokens/s", results, model="SmolLM2-135M", peer=peer)


def main() -> None:
    work, side, loss, batch_name = sys.argv[1:]
    quiet()
    folder = _ours.smollm2()
    if side == "ours":
        use_threads(None)
    else:
        torch.set_num_threads(os.cpu_count() or 1)
    with ExitStack() as stack:
        batch_and_work: tuple[TokenBatch, Work] = {
            ("step", "ours"): lambda: our_step(folder, loss, batch_name),
            ("step", "peer"): lambda: their_step(stack, folder, loss, batch_name),
            ("score", "ours"): lambda: our_score(folder, batch_name),
            ("score", "peer"): lambda: their_score(stack, folder, batch_name),
        }[work, side]()
        batch, once = batch_and_work

        def round_(_: int) -> dict[str, Any]:
            result: dict[str, Any] = {}
            speed = rate(batch.tokens, lambda: result.update(once()))
            return {
                "rate": speed,
                "tokens": batch.tokens,
                "peak_GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
                **result,
            }

        serve(round_)


def our_step(folder: Any, loss: str, batch_name: str) -> tuple[TokenBatch, Work]:
    ours = _ours.Trainer(folder, BUDGETS[batch_name])
    batch = BATCHES[batch_name](ours.policy.model.config.vocab_size)
    old_N, signal_N = torch.full((batch.tokens,), OLD), _ours.advantage_N(batch)
    return batch, lambda: {"loss": ours.step(batch, old_N, signal_N, LOSSES[loss])["loss"]}


def their_step(
    stack: ExitStack, folder: Any, loss: str, batch_name: str
) -> tuple[TokenBatch, Work]:
    distils = loss == "distill"
    trainer = stack.enter_context(
        _trl.iw_opd_trainer(folder, folder) if distils else _trl.grpo_trainer(folder, PEER[loss])
    )
    batch = BATCHES[batch_name](trainer.model.config.vocab_size)
    if distils:
        inputs = _trl.opd_inputs(batch, pad=0)
    else:
        advantage_S = _ours.advantage_N(batch)[batch.offset_S[:-1]]
        inputs = _trl.grpo_inputs(batch, advantage_S, torch.full((batch.tokens,), OLD), pad=0)
        trainer.current_gradient_accumulation_steps = len(inputs)
    return batch, lambda: {"loss": _trl.step(trainer, inputs)}


def our_score(folder: Any, batch_name: str) -> tuple[TokenBatch, Work]:
    policy = load_policy(folder, _ours.RUNTIME)
    batch = BATCHES[batch_name](policy.model.config.vocab_size)
    return batch, lambda: {"logprobs": score(policy, batch, BUDGETS[batch_name])[0].tolist()}


def their_score(stack: ExitStack, folder: Any, batch_name: str) -> tuple[TokenBatch, Work]:
    trainer = stack.enter_context(_trl.grpo_trainer(folder, "sapo"))
    trainer.model.eval()
    batch = BATCHES[batch_name](trainer.model.config.vocab_size)
    inputs = _trl.grpo_inputs(batch, batch.reward_S, torch.zeros(batch.tokens), pad=0)

    def once() -> dict[str, Any]:
        pairs = zip(_trl.logprobs(trainer, inputs), inputs, strict=True)
        return {
            "logprobs": torch.cat([lp[part["completion_mask"] > 0] for lp, part in pairs]).tolist()
        }

    return batch, once


if __name__ == "__main__":
    main()
