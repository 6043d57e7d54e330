"""Facts that an estimate needs: a model's shape, a machine's speed, the number of problems.

- model_shapes.py with shapes.yaml: a model's shape from its config.json on disk, else from the
  catalogue.
- problem_counts.py: problems per set.
- preflight.py: checks whether a campaign can run here.
- tasks/execution/machines.py with machines.yaml: a machine's speed from a table, or measured here.
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
