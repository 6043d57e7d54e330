"""Profiles our teacher step (SAPO): `python -m benchmarks._profile gsm8k-like`.

Prints torch.profiler's table.
"""

from __future__ import annotations

import sys

from torch.profiler import ProfilerActivity, profile

from benchmarks import _ours
from benchmarks._batches import BATCHES
from benchmarks._report import quiet
from benchmarks._work import BUDGETS, ours
from tasks.host.machine import use_threads


def main() -> None:
    quiet()
    shape, works = BATCHES[sys.argv[1]], ours(_ours.smollm2(), "sapo")
    use_threads(None)
    step = works.step(shape.batch(works.vocabulary, shape.sizes[-1]), BUDGETS[sys.argv[1]])
    step()  # the first step allocates memory that later ones reuse
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    print(
        profiler.key_averages().table(
            sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60
        )
    )


if __name__ == "__main__":
    main()
