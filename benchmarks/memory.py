"""Compares the peak memory of a teacher step (SAPO) and of scoring with TRL's.

    python -m benchmarks.memory --json [--minutes 5]

Each comparison has its own two processes. The figure is the peak resident set of the whole process,
libraries and model included, after two rounds. The first round has one group of the batch; the
second has the optimizer's state, and as many groups as there is time for. The headline is the
teacher step on the GSM8K-like batch; `ratio` is the peer's memory over ours.
"""

from __future__ import annotations

from benchmarks import _on_batches, _ours
from benchmarks._batches import BATCHES
from benchmarks._budget import Deadline, in_shares
from benchmarks._pairs import Figure, Row
from benchmarks._report import finish, parser, said
from benchmarks._work import BUDGETS

CASES = {f"{work}, {batch}": (work, batch) for batch in BATCHES for work in ("step", "score")}


def main() -> None:
    args = parser(__doc__, rounds=1).parse_args()
    _ours.smollm2()  # convert it before two processes need it

    def compare(case: str, share: Deadline) -> Row:
        work, batch = CASES[case]
        figure = Figure("peak_GB", less_is_better=True)
        with _on_batches.sides("sapo", share.whole) as sides:
            row, _ = _on_batches.measured(sides, work, batch, share, args.rounds, figure)
        return said({"work": work, **row})

    rows = in_shares(list(CASES), compare, args.deadline)
    finish(
        args,
        "memory",
        "GB",
        rows,
        list(CASES),
        model="SmolLM2-135M",
        peer="TRL GRPOTrainer, 8 rows per device batch",
        token_budget=BUDGETS,
    )


if __name__ == "__main__":
    main()
