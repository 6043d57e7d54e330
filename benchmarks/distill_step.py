"""Compares stage 2's optimizer step with TRL's importance-weighted on-policy distillation (IW-OPD).

    python -m benchmarks.distill_step --json [--batch short] [--minutes 5]

TRL runs its live teacher at every step. Our step reads the signal from columns that were scored
once. The cost of that scoring is printed too; a campaign pays it once for all steps and all
distillations. TRL's teacher is a copy of the base, since the teacher's weights do not affect time.
"""

from __future__ import annotations

from contextlib import suppress

from benchmarks import _on_batches
from benchmarks._budget import TimeUp
from benchmarks._pairs import Pair, Row
from benchmarks._sides import Side


def main() -> None:
    _on_batches.run(
        _on_batches.options(__doc__).parse_args(),
        "distill_step",
        "step",
        "distill",
        column,
        peer="TRL IWOPDTrainer with a local teacher, 8 rows per device batch",
    )


def column(row: Row, pairs: list[Pair], ours: Side) -> Row:
    """Return the seconds in which we score one column of the row's tokens, if there is time."""
    with suppress(TimeUp):
        scoring = _on_batches.request(ours, "score", row["batch"], pairs[-1].size)
        return {"seconds_of_one_column": round(scoring["tokens"] / scoring["rate"], 2)}
    return {}


if __name__ == "__main__":
    main()
