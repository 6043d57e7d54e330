"""Draws problems from a source into the store, as one ordered list.

The source is the embedded tiny world, files, the hub, the catalogue or a reasoning-gym family.
"""

from tasks.datasets.catalogue import (
    CatalogueEntry,
    benchmark_from_text,
    catalogue,
    concrete,
    samples_of,
)
from tasks.datasets.draw import (
    DrawProblems,
    check_problems,
    draw_problems,
    load_problems,
    read_problems,
)

__all__ = [
    "CatalogueEntry",
    "DrawProblems",
    "benchmark_from_text",
    "catalogue",
    "check_problems",
    "concrete",
    "draw_problems",
    "load_problems",
    "read_problems",
    "samples_of",
]
