"""Estimates: model shapes, problem counts, and the checks before a campaign.

- model_shapes.py with shapes.yaml: a model's shape from its config.json on disk, else from the
  catalogue.
- problem_counts.py: problems per set.
- preflight.py: whether a campaign can run here.
"""

from tasks.estimate.model_shapes import KnownModel, known_model
from tasks.estimate.problem_counts import problem_counts

__all__ = ["KnownModel", "known_model", "problem_counts"]
