"""Stage 2's optimizer step against TRL's importance-weighted on-policy distillation (IW-OPD), which runs its live teacher at every step.

    python -m benchmarks.distill_step --json [--batch short] [--rounds 2]

Ours reads the signal from columns that were scored once; what that one scoring costs is printed beside it, since a campaign pays it once
for all its steps and all its distillations. The headline is the GSM8K-like batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks import _ours, _trl
from benchmarks._batches import BATCHES, on_batches
from benchmarks._measure import compared, in_turn, rate, seconds
from erpd_core.config import Distill, SignalSpec
from erpd_core.optimize import score
from erpd_core.signals import build_signal

TOKEN_BUDGET = 1400


def compare(folder: Path, batch_name: str, rounds: int) -> dict[str, Any]:
    """Both sides in turn on one batch. The teacher is a copy of the base: what it says costs the same whatever it is."""
    ours = _ours.Trainer(folder, TOKEN_BUDGET)
    batch = BATCHES[batch_name](ours.policy.model.config.vocab_size)
    old_N, _ = score(ours.policy, batch, TOKEN_BUDGET)
    scoring = seconds(lambda: score(ours.policy, batch, TOKEN_BUDGET))
    numerator_N = old_N + 0.1 * torch.randn(batch.tokens, generator=torch.Generator().manual_seed(0))
    signal_N = build_signal(SignalSpec(), numerator_N, old_N, batch.reward_S[batch.seq_N] > 0.5)[:]
    with _trl.iw_opd_trainer(folder, folder) as trainer:
        inputs = _trl.opd_inputs(batch, pad=0)
        pairs = in_turn(
            lambda: rate(batch.tokens, lambda: ours.step(batch, old_N, signal_N, Distill())),
            lambda: rate(batch.tokens, lambda: _trl.step(trainer, inputs)),
            rounds,
        )
    return {"tokens": batch.tokens, **compared(pairs), "seconds_of_one_column": round(scoring, 2)}


if __name__ == "__main__":
    on_batches("distill_step", __doc__, 2, "TRL IWOPDTrainer with a local teacher, 8 rows a device batch", compare)
