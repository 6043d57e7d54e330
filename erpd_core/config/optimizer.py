"""How weights are moved, whatever is trained."""

from __future__ import annotations

from pydantic import PositiveFloat

from erpd_core.config.common import Config, NonNegative


class OptimizerConfig(Config):
    """AdamW (Sec. 4.1: lr 1e-6). The paper names no betas, decay or clipping; these are the
    field's usual ones.
    """

    lr: PositiveFloat = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NonNegative = 0.0
    max_grad_norm: PositiveFloat = 1.0
