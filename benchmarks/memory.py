"""Compares the peak memory of a teacher step (SAPO) and of scoring with TRL's.

    python -m benchmarks.memory --json

Each side has its own process. The figure is the peak resident set of the whole process, libraries
and model included, over two rounds; the second has the optimizer's state. The headline is the
teacher step on the GSM8K-like batch; `ratio` is the peer's memory over ours.
"""

from __future__ import annotations

from benchmarks import _ours
from benchmarks._batches import BATCHES
from benchmarks._report import finish, parser, said
from benchmarks._work import BUDGETS, Row, alone


def main() -> None:
    args = parser(__doc__, rounds=2).parse_args()
    _ours.smollm2()
    results = [
        said(compare(work, batch, args.rounds)) for batch in BATCHES for work in ("step", "score")
    ]
    finish(
        args.json,
        "memory",
        "GB",
        results,
        model="SmolLM2-135M",
        peer="TRL GRPOTrainer, 8 rows per device batch",
        token_budget=BUDGETS,
    )


def compare(work: str, batch: str, rounds: int) -> Row:
    """Compare both sides' memory, in GB, on one batch."""
    ours, peer = (
        alone(work, side, "sapo", batch, rounds)[-1]["peak_GB"] for side in ("ours", "peer")
    )
    return {
        "work": work,
        "batch": batch,
        "ours": round(ours, 2),
        "peer": round(peer, 2),
        "ratio": round(peer / ours, 3),
    }


if __name__ == "__main__":
    main()
