"""Compares stage 2's optimizer step with TRL's importance-weighted on-policy distillation (IW-OPD).

    python -m benchmarks.distill_step --json [--batch short] [--rounds 2]

TRL runs its live teacher at every step. Our step reads the signal from columns that were scored
once. The cost of that scoring is printed too; a campaign pays it once for all steps and all
distillations. TRL's teacher is a copy of the base, since the teacher's weights do not affect time.
"""

from __future__ import annotations

from benchmarks._work import Row, alone, on_batches, set_against


def compare(batch: str, rounds: int) -> Row:
    """Compare both sides on one batch."""
    row, *_ = set_against("step", "distill", batch, rounds)
    scoring = alone("score", "ours", "none", batch, 2)[-1]
    return {**row, "seconds_of_one_column": round(scoring["tokens"] / scoring["rate"], 2)}


if __name__ == "__main__":
    on_batches(
        "distill_step",
        __doc__,
        2,
        "TRL IWOPDTrainer with a local teacher, 8 rows per device batch",
        compare,
    )
