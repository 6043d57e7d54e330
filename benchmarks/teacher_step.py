"""Compares stage 1's optimizer step with TRL's.

    python -m benchmarks.teacher_step --json [--loss grpo] [--batch short] [--minutes 5]

Both sides do forward, loss, backward, clipping and AdamW on the same sequences: as many groups of
the GSM8K-like batch and of the short one as there is time for. TRL has no CE and MSE like ours;
they are compared with its SAPO step, which makes the same model passes. The headline is the
GSM8K-like batch.
"""

from __future__ import annotations

import json

from benchmarks import _on_batches, _ours
from benchmarks._batches import BATCHES
from benchmarks._measure import matrix_rate
from benchmarks._pairs import Pair, Row
from benchmarks._sides import Side
from benchmarks._work import BUDGETS, PEER
from erpd_core.estimates import Counts, ModelShape, training_flops


def main() -> None:
    arguments = _on_batches.options(__doc__)
    arguments.add_argument("--loss", choices=list(PEER), default="sapo")
    args = arguments.parse_args()
    best = matrix_rate()
    shape = ModelShape.from_config(json.loads((_ours.smollm2() / "config.json").read_text()))

    def details(row: Row, pairs: list[Pair], _: Side) -> Row:
        """Return the loss, our rate of necessary FLOP, its share of the best, and both values.

        The values of the loss are the warm-up's. Until then both sides took the same steps.
        """
        batch = BATCHES[row["batch"]].batch(shape.vocab, pairs[-1].size)
        needed = training_flops(shape, Counts.of(batch))
        gflops = needed / 1e9 * row["ours"] / row["tokens"]
        rates = {
            "loss": args.loss,
            "gflops": round(gflops, 1),
            "share_of_best": round(gflops / best, 3),
        }
        if args.loss != PEER[args.loss]:
            return rates
        first = {"loss_ours": pairs[0].ours["loss"], "loss_peer": pairs[0].peer["loss"]}
        return rates | {name: round(loss, 7) for name, loss in first.items()}

    _on_batches.run(
        args,
        "teacher_step",
        "step",
        args.loss,
        details,
        peer="TRL GRPOTrainer, 8 rows per device batch",
        token_budget=BUDGETS,
        best_matrix_gflops=round(best, 1),
    )


if __name__ == "__main__":
    main()
