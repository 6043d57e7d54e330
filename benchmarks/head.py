"""Compares the output head's float32 product on a CPU with torch's own.

    python -m benchmarks.head --json [--rounds 20]

Ours is that of `erpd_core.logprobs`. Sizes are SmolLM2's (576 by 49,152). The headline is a chunk
of scoring; the other row is a chunk of training.
"""

from __future__ import annotations

import torch

from benchmarks._measure import compared, in_turn, rate
from benchmarks._report import finish, parser, said
from benchmarks._work import Row
from erpd_core.logprobs import CHUNK, FORWARD_CHUNK, logits
from tasks.host.machine import use_threads

HIDDEN, VOCABULARY = 576, 49_152


def main() -> None:
    args = parser(__doc__, rounds=20).parse_args()
    use_threads(None)
    results = [said(compare(rows, args.rounds)) for rows in (FORWARD_CHUNK, CHUNK)]
    finish(
        args.json,
        "head",
        "GFLOP/s",
        results,
        hidden=HIDDEN,
        vocabulary=VOCABULARY,
        peer="hidden @ weight.T",
    )


def compare(rows: int, rounds: int) -> Row:
    """Compare both sides on a chunk of `rows` tokens."""
    hidden_nH, weight_VH = torch.randn(rows, HIDDEN), torch.randn(VOCABULARY, HIDDEN)
    gflop = 2 * rows * HIDDEN * VOCABULARY / 1e9
    pairs = in_turn(
        lambda: rate(gflop, lambda: logits(hidden_nH, weight_VH)),
        lambda: rate(gflop, lambda: hidden_nH @ weight_VH.T),
        rounds,
    )
    return {"rows": rows, **compared(pairs)}


if __name__ == "__main__":
    main()
