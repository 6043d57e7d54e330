"""Problems: drawn from the embedded world, files, the hub, the catalogue or a reasoning-gym
family, as one ordered list in the store.
"""

from tasks.datasets.catalogue import (
    CatalogueEntry,
    benchmark_from_text,
    catalogue,
    concrete,
    samples_of,
)
from tasks.datasets.stage import (
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
