"""Compares the output head's float32 product on a CPU with torch's own.

    python -m benchmarks.head --json [--rounds 20] [--minutes 5]

Ours is that of `erpd_core.logprobs`. Sizes are SmolLM2's (576 by 49,152). The headline is a chunk
of scoring; the other row is a chunk of training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks._budget import Deadline, in_shares
from benchmarks._measure import rate
from benchmarks._pairs import Once, Row, compared, in_turn, repeated
from benchmarks._report import finish, parser, said
from erpd_core.logprobs import CHUNK, FORWARD_CHUNK, logits
from tasks.host.machine import use_threads

HIDDEN, VOCABULARY = 576, 49_152
CHUNKS = {"scoring": FORWARD_CHUNK, "training": CHUNK}


def main() -> None:
    args = parser(__doc__, rounds=20).parse_args()
    use_threads(None)

    def compare(chunk: str, share: Deadline) -> Row:
        rows = CHUNKS[chunk]
        hidden_nH, weight_VH = torch.randn(rows, HIDDEN), torch.randn(VOCABULARY, HIDDEN)

        def side(product: Callable[[], Tensor]) -> Once:
            gflop = 2 * rows * HIDDEN * VOCABULARY / 1e9
            return lambda _: {"rate": rate(gflop, product)}

        ours, peer = (
            side(lambda: logits(hidden_nH, weight_VH)),
            side(lambda: hidden_nH @ weight_VH.T),
        )
        pairs = repeated(f"{rows} rows", in_turn(ours, peer), share, args.rounds)
        return said({"rows": rows, **compared(pairs)})

    rows = in_shares(list(CHUNKS), compare, args.deadline)
    finish(
        args,
        "head",
        "GFLOP/s",
        rows,
        list(CHUNKS),
        hidden=HIDDEN,
        vocabulary=VOCABULARY,
        peer="hidden @ weight.T",
    )


if __name__ == "__main__":
    main()
