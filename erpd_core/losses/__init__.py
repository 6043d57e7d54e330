"""The losses, one file each, named after the `kind` of their config.

A loss takes its config and `LossInputs`, chooses its own aggregation, and returns a scalar and
per-token metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import Tensor

from erpd_core.config.losses import LOSS_CONFIGS
from erpd_core.losses.inputs import LossInputs, Metrics, Totals

LossFunction = Callable[[Any, LossInputs], tuple[Tensor, Metrics]]


def _function(kind: str) -> LossFunction:
    function: LossFunction = getattr(import_module(f"{__name__}.{kind}"), kind)
    return function


LOSSES: dict[str, LossFunction] = {
    kind: _function(kind)
    for kind in (config.model_fields["kind"].default for config in LOSS_CONFIGS)
}
"""Kind -> the function of that name, in the file of that name."""

__all__ = ["LOSSES", "LossFunction", "LossInputs", "Metrics", "Totals"]
