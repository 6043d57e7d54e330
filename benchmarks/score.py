"""Log-probs and entropy of a batch under a policy, without gradients, against TRL's pass for old log-probs.

python -m benchmarks.score --json [--batch short] [--rounds 3]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks import _ours, _trl
from benchmarks._batches import BATCHES, on_batches
from benchmarks._measure import compared, in_turn, rate
from erpd_core import optimize
from tasks.models import load_policy

TOKEN_BUDGET = 1400


def compare(folder: Path, batch_name: str, rounds: int) -> dict[str, Any]:
    """Both sides in turn on one batch, and how far their log-probs are apart."""
    policy = load_policy(folder, _ours.RUNTIME)
    batch = BATCHES[batch_name](policy.model.config.vocab_size)
    with _trl.grpo_trainer(folder, "sapo") as trainer:
        trainer.model.eval()
        inputs = _trl.grpo_inputs(batch, batch.reward_S, torch.zeros(batch.tokens), pad=0)
        mine_N, _ = optimize.score(policy, batch, TOKEN_BUDGET)
        theirs_N = torch.cat([lp[part["completion_mask"] > 0] for lp, part in zip(_trl.logprobs(trainer, inputs), inputs, strict=True)])
        pairs = in_turn(
            lambda: rate(batch.tokens, lambda: optimize.score(policy, batch, TOKEN_BUDGET)),
            lambda: rate(batch.tokens, lambda: _trl.logprobs(trainer, inputs)),
            rounds,
        )
    return {"tokens": batch.tokens, **compared(pairs), "largest_difference": round(float((mine_N - theirs_N).abs().max()), 6)}


if __name__ == "__main__":
    on_batches("score", __doc__, 3, "TRL GRPOTrainer's log-prob pass, 8 rows a device batch", compare)
