"""Machines to estimate for: from the table, from a YAML file, or this machine, measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from pydantic import ValidationError

from erpd_core.estimates import Machine, ModelShape
from erpd_core.estimates.machine import Efficiency
from tasks.untrusted.input_files import short
from tasks.untrusted.yaml_files import read_mapping

FILE = Path(__file__).with_name("machines.yaml")
THIS = "this"
"""Name of the machine that this process runs on."""
ROWS = 2048
"""Tokens in the timed matrix products, as in a micro-batch."""
ASSUMED = Efficiency(train=0.75, score=0.75, memory=0.3)
"""Fractions of the best measured rates. Products of a model's own sizes come near them; small
operations into fresh memory reach a third of a copy's rate. docs/scaling.md compares the resulting
estimates with measurements.
"""


def machine_names() -> list[str]:
    """The names of the table, and `THIS`."""
    return [*_table(FILE), THIS]


def machine(name: str, shape: ModelShape | None) -> Machine:
    """A machine from the table or from a YAML file, or this machine, measured.

    **Arguments:**
        name: A name of the table, the path of a YAML file (its first machine counts), or `THIS`.
        shape: The model whose sizes the measured matrix products have.
    **Raises:** ValueError for an unknown name or an invalid file.
    """
    if name == THIS:
        return this_machine(shape)
    path = Path(name)
    table = (
        _table(path)
        if path.suffix in (".yaml", ".yml")
        else {known: entry for known, entry in _table(FILE).items() if known == name}
    )
    if not table:
        raise ValueError(
            f"--machine {name}: not in the table; choose one of {', '.join(machine_names())}, or "
            f"give a YAML file"
        )
    return next(iter(table.values()))


def _table(path: Path) -> dict[str, Machine]:
    try:
        return {
            name: Machine.model_validate({"name": name, **entry})
            for name, entry in read_mapping(path, "a file of machines").items()
        }
    except (ValidationError, TypeError) as error:
        raise ValueError(
            f"{path}: {short(' '.join(str(error).split()), 300)}; see {FILE.name} for what a "
            f"machine needs"
        ) from error


def this_machine(shape: ModelShape | None) -> Machine:
    """This machine as one CPU device: matrix rate in float32, copy rate, and cost of a call.

    Takes about a second. Measures the best of several tries on one thread and multiplies the matrix
    rate by the number of cores, so that a busy machine gives the numbers of an idle one. The copy
    rate is that of one thread, because cores share the memory.

    **Arguments:**
        shape: The model whose sizes the matrix products have; typical sizes if None.
    """
    import torch
    from torch import nn

    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    torch.set_num_threads(1)
    hidden, wide = (
        (min(shape.hidden, 4096), min(shape.intermediate, 8192)) if shape else (1024, 4096)
    )
    rows, thin = torch.randn(ROWS, hidden), torch.randn(1, hidden)
    up, down = torch.randn(hidden, wide), torch.randn(wide, hidden)
    products = _seconds(lambda: rows @ up @ down)
    large = torch.randn(1 << 24)
    target = torch.empty_like(large)
    copied = _seconds(lambda: target.copy_(large))
    small = nn.Linear(hidden, hidden)
    with torch.inference_mode():
        timed = _seconds(lambda: torch.nn.functional.silu(small(thin)) * 2.0)
    torch.set_num_threads(threads)
    return Machine(
        name=THIS,
        source=f"measured just now: one thread, times {cores} cores, float32, load "
        f"{os.getloadavg()[0]:.1f}",
        matrix_flops=dict.fromkeys(
            ("float32", "bfloat16"), cores * 2 * 2 * ROWS * hidden * wide / products
        ),
        bandwidth=2 * 4 * len(large) / copied,
        memory=float(psutil.virtual_memory().total),
        call=CALLS * timed,
        step=CALLS * timed,
        efficiency=ASSUMED,
    )


CALLS = 15
"""Timed groups of three operations in a decoder layer, which has about 45 operations."""


def _seconds(
    work: Callable[[], object], least: float = 0.3, tries: int = 30, most: float = 2.0
) -> float:
    """Seconds of the quickest of several calls, after a warm-up.

    The quickest is least disturbed by other processes.
    """
    work()
    taken: list[float] = []
    while sum(taken) < least or (len(taken) < tries and sum(taken) < most):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)
