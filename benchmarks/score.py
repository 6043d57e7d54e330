"""Compares scoring (log-probs and entropy, no gradients) with TRL's pass for old log-probs.

python -m benchmarks.score --json [--batch short] [--minutes 5]
"""

from __future__ import annotations

from benchmarks import _on_batches
from benchmarks._pairs import Pair, Row
from benchmarks._sides import Side


def main() -> None:
    _on_batches.run(
        _on_batches.options(__doc__).parse_args(),
        "score",
        "score",
        "sapo",
        difference,
        peer="TRL GRPOTrainer's log-prob pass, 8 rows per device batch",
    )


def difference(_: Row, pairs: list[Pair], __: Side) -> Row:
    """Return the largest difference of both sides' log-probs of a token."""
    logprobs = zip(pairs[-1].ours["logprobs"], pairs[-1].peer["logprobs"], strict=True)
    return {"largest_difference": round(max(abs(ours - peer) for ours, peer in logprobs), 6)}


if __name__ == "__main__":
    main()
