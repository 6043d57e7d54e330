"""Compares scoring (log-probs and entropy, no gradients) with TRL's pass for old log-probs.

python -m benchmarks.score --json [--batch short] [--rounds 3]
"""

from __future__ import annotations

from benchmarks._work import Row, on_batches, set_against


def compare(batch: str, rounds: int) -> Row:
    """Compare both sides on one batch; the row has the largest difference of their log-probs."""
    row, *sides = set_against("score", "none", batch, rounds)
    mine, theirs = (side.rounds[0]["logprobs"] for side in sides)
    return {
        **row,
        "largest_difference": round(
            max(abs(our_lp - their_lp) for our_lp, their_lp in zip(mine, theirs, strict=True)), 6
        ),
    }


if __name__ == "__main__":
    on_batches(
        "score", __doc__, 3, "TRL GRPOTrainer's log-prob pass, 8 rows per device batch", compare
    )
