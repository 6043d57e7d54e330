"""Log-probs and entropy of a batch under a policy, without gradients, against TRL's pass for old
log-probs.

python -m benchmarks.score --json [--batch short] [--rounds 3]
"""

from __future__ import annotations

from benchmarks._work import Row, on_batches, set_against


def compare(batch: str, rounds: int) -> Row:
    """Both sides in turn on one batch, and how far their log-probs are apart."""
    found, *sides = set_against("score", "none", batch, rounds)
    mine, theirs = (side.rounds[0]["logprobs"] for side in sides)
    return {
        **found,
        "largest_difference": round(
            max(abs(one - other) for one, other in zip(mine, theirs, strict=True)), 6
        ),
    }


if __name__ == "__main__":
    on_batches(
        "score", __doc__, 3, "TRL GRPOTrainer's log-prob pass, 8 rows a device batch", compare
    )
