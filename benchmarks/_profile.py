"""Profiles our teacher step (SAPO): `python -m benchmarks._profile gsm8k-like`.

Prints torch.profiler's table.
"""

from __future__ import annotations

import sys

from torch.profiler import ProfilerActivity, profile

from benchmarks import _ours
from benchmarks._report import quiet
from benchmarks._work import our_step
from tasks.host.machine import use_threads


def main() -> None:
    quiet()
    folder = _ours.smollm2()
    use_threads(None)
    _, step = our_step(folder, "sapo", sys.argv[1])
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
