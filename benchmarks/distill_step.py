"""Stage 2's optimizer step against TRL's importance-weighted on-policy distillation (IW-OPD), which
runs its live teacher at every step.

    python -m benchmarks.distill_step --json [--batch short] [--rounds 2]

Ours reads the signal from columns that were scored once; what that one scoring costs is printed
beside it, since a campaign pays it once for all its steps and all its distillations. TRL's teacher
is a copy of the base: what it says costs the same whatever it is.
"""

from __future__ import annotations

from benchmarks._work import Row, alone, on_batches, set_against


def compare(batch: str, rounds: int) -> Row:
    """Both sides in turn on one batch."""
    found, *_ = set_against("step", "distill", batch, rounds)
    scoring = alone("score", "ours", "none", batch, 2)[-1]
    return {**found, "seconds_of_one_column": round(scoring["tokens"] / scoring["rate"], 2)}


if __name__ == "__main__":
    on_batches(
        "distill_step",
        __doc__,
        2,
        "TRL IWOPDTrainer with a local teacher, 8 rows a device batch",
        compare,
    )
