"""What an estimate has to know of the world: a model's shape, a machine's speed, how many problems
there are.

models.py with shapes.yaml (config.json on disk, else the catalogue), machines.py with machines.yaml
(a table, or this machine measured), problems.py (counts).
"""

from tasks.estimate.model_shapes import KnownModel, known_model
from tasks.estimate.problem_counts import problem_counts
from tasks.execution.machines import machine, machine_names, this_machine

__all__ = [
    "KnownModel",
    "known_model",
    "machine",
    "machine_names",
    "problem_counts",
    "this_machine",
]
