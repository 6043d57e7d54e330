"""Machines: a table of them, a file of that form, or this one, measured."""

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
"""The name that means the machine at hand."""
ROWS = 2048
"""Tokens of the products that are timed, as a micro-batch has them."""
ASSUMED = Efficiency(train=0.75, score=0.75, memory=0.3)
"""Of the best that was measured: products of a model's own sizes come near it, small operations
into fresh memory reach a third of a copy (docs/scaling.md has what this gives beside what was
measured).
"""


def machine_names() -> list[str]:
    return [*_table(FILE), THIS]


def machine(name: str, shape: ModelShape | None) -> Machine:
    """A machine of the table, of a YAML file with one, or this one, measured on products of the
    sizes of `shape`.

    Raises ValueError for a name that is not there, or a file that does not say what a machine
    needs.
    """
    if name == THIS:
        return this_machine(shape)
    path = Path(name)
    table = (
        _table(path)
        if path.suffix in (".yaml", ".yml")
        else {known: one for known, one in _table(FILE).items() if known == name}
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
            name: Machine.model_validate({"name": name, **one})
            for name, one in read_mapping(path, "a file of machines").items()
        }
    except (ValidationError, TypeError) as error:
        raise ValueError(
            f"{path}: {short(' '.join(str(error).split()), 300)}; see {FILE.name} for what a "
            f"machine needs"
        ) from error


def this_machine(shape: ModelShape | None) -> Machine:
    """This machine as one device on CPUs: its float32 matrix rate on products of a model's sizes,
    its copying rate, its cost of a call.

    Takes about a second. Of several tries the best counts, and one thread stands for each core, so
    that a busy machine is taken for the idle one it would be. Cores share the memory: its rate is
    one thread's.
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
        one = _seconds(lambda: torch.nn.functional.silu(small(thin)) * 2.0)
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
        call=CALLS * one,
        step=CALLS * one,
        efficiency=ASSUMED,
    )


CALLS = 15
"""A decoder layer has about 45 operations; three are timed together."""


def _seconds(
    work: Callable[[], object], least: float = 0.3, tries: int = 30, most: float = 2.0
) -> float:
    """Seconds of the quickest of some calls, after a warm-up: what else runs here is not the
    machine's speed.
    """
    work()
    taken: list[float] = []
    while sum(taken) < least or (len(taken) < tries and sum(taken) < most):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)
