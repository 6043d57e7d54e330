"""Compares stage 1's optimizer step with TRL's.

    python -m benchmarks.teacher_step --json [--loss grpo] [--batch short] [--rounds 2]

Both sides do forward, loss, backward, clipping and AdamW on the same sequences. Without --loss and
--batch, it measures SAPO, GRPO, CE and MSE on the GSM8K-like batch and on the short one. TRL has no
such CE and MSE; they are compared with its SAPO step, which makes the same model passes. The
headline is SAPO on the GSM8K-like batch.
"""

from __future__ import annotations

import json

from benchmarks import _ours
from benchmarks._batches import BATCHES
from benchmarks._measure import matrix_rate
from benchmarks._report import finish, parser, said
from benchmarks._work import BUDGETS, PEER, Row, set_against
from erpd_core.estimates import Counts, ModelShape, training_flops


def main() -> None:
    arguments = parser(__doc__, rounds=2)
    arguments.add_argument("--loss", choices=list(PEER))
    arguments.add_argument("--batch", choices=list(BATCHES))
    args = arguments.parse_args()
    _ours.smollm2()  # convert it before two processes need it
    losses = [args.loss] if args.loss else list(PEER)
    batches = [args.batch] if args.batch else list(BATCHES)
    results = [said(compare(loss, batch, args.rounds)) for batch in batches for loss in losses]
    peer = "TRL GRPOTrainer, 8 rows per device batch"
    finish(
        args.json,
        "teacher_step",
        "response tokens/s",
        results,
        model="SmolLM2-135M",
        peer=peer,
        token_budget=BUDGETS,
    )


def compare(loss: str, batch_name: str, rounds: int) -> Row:
    """Compare both sides on one batch.

    The row also has our rate of necessary FLOP as a share of the best matrix rate.
    """
    rates = [matrix_rate()]
    row, ours, peer = set_against("step", loss, batch_name, rounds)
    rates.append(matrix_rate())
    shape = ModelShape.from_config(json.loads((_ours.smollm2() / "config.json").read_text()))
    needed = training_flops(shape, Counts.of(BATCHES[batch_name](shape.vocab)))
    gflops = needed / 1e9 * row["ours"] / row["tokens"]
    row |= {
        "gflops": round(gflops, 1),
        "best_matrix_gflops": round(max(rates), 1),
        "share_of_best": round(gflops / max(rates), 3),
    }
    if loss == PEER[loss]:  # the losses of the first step, before any update
        row |= {
            f"loss_{name}": round(side.rounds[0]["loss"], 7)
            for name, side in (("ours", ours), ("peer", peer))
        }
    return {"loss": loss, "batch": batch_name, **row}


if __name__ == "__main__":
    main()
