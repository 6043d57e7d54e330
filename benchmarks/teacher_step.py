"""Stage 1's optimizer step against TRL's: the same sequences, forward, loss, backward, clipping and AdamW.

    python -m benchmarks.teacher_step --json [--loss grpo] [--batch short] [--rounds 2]

Without --loss and --batch: SAPO, GRPO, CE and MSE on the GSM8K-like batch and on the short one. TRL has no CE and no MSE of this kind; they
are set against its SAPO step, which makes the same model passes. The headline is SAPO on the GSM8K-like batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import _ours, _trl
from benchmarks._batches import BATCHES
from benchmarks._measure import compared, in_turn, matrix_rate, rate
from benchmarks._report import finish, parser, said
from erpd_core.config import CE, GRPO, MSE, SAPO, Loss
from erpd_core.estimates import Counts, ModelShape, training_flops
from erpd_core.optimize import score

LOSSES: dict[str, Loss] = {"sapo": SAPO(), "grpo": GRPO(), "ce": CE(beta=0.01), "mse": MSE()}
PEER = {"sapo": "sapo", "grpo": "grpo", "ce": "sapo", "mse": "sapo"}
TOKEN_BUDGET = 1400
"""Input tokens of a micro-batch, as in the recipe smollm2."""


def main() -> None:
    arguments = parser(__doc__, rounds=2)
    arguments.add_argument("--loss", choices=list(LOSSES))
    arguments.add_argument("--batch", choices=list(BATCHES))
    args = arguments.parse_args()
    folder = _ours.smollm2()
    losses = [args.loss] if args.loss else list(LOSSES)
    batches = [args.batch] if args.batch else list(BATCHES)
    results = [said(compare(folder, loss, batch, args.rounds)) for batch in batches for loss in losses]
    peer = "TRL GRPOTrainer, 8 rows a device batch"
    finish(args.json, "teacher_step", "response tokens/s", results, model="SmolLM2-135M", peer=peer)


def compare(folder: Path, loss: str, batch_name: str, rounds: int) -> dict[str, Any]:
    """Both sides in turn on one batch; and the share of the best matrix rate that the least necessary work makes up."""
    ours = _ours.Trainer(folder, TOKEN_BUDGET)
    config = ours.policy.model.config
    batch = BATCHES[batch_name](config.vocab_size)
    old_N, _ = score(ours.policy, batch, TOKEN_BUDGET)
    advantage_N = _ours.advantage_N(batch)
    with _trl.grpo_trainer(folder, PEER[loss]) as trainer:
        inputs = _trl.grpo_inputs(batch, advantage_N[batch.offset_S[:-1]], old_N, pad=0)
        trainer.current_gradient_accumulation_steps = len(inputs)
        mine, theirs = ours.step(batch, old_N, advantage_N, LOSSES[loss]), _trl.step(trainer, inputs)  # before any update: equal losses
        rates = [matrix_rate()]
        pairs = in_turn(
            lambda: rate(batch.tokens, lambda: ours.step(batch, old_N, advantage_N, LOSSES[loss])),
            lambda: rate(batch.tokens, lambda: _trl.step(trainer, inputs)),
            rounds,
        )
        rates.append(matrix_rate())
    found = compared(pairs)
    gflops = training_flops(ModelShape.from_config(config.to_dict()), Counts.of(batch)) / 1e9 * found["ours"] / batch.tokens
    found |= {"gflops": round(gflops, 1), "best_matrix_gflops": round(max(rates), 1), "share_of_best": round(gflops / max(rates), 3)}
    if loss == PEER[loss]:
        found |= {"loss_ours": round(mine["loss"], 7), "loss_peer": round(theirs, 7)}
    return {"loss": loss, "batch": batch_name, "tokens": batch.tokens, **found}


if __name__ == "__main__":
    main()
