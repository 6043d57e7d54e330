"""Config of the optimizer of every training."""

from __future__ import annotations

from pydantic import PositiveFloat

from erpd_core.config.common import Config, NonNegative


class OptimizerConfig(Config):
    """AdamW (Sec. 4.1: learning rate 1e-6).

    The paper names no betas, weight decay or clipping; the defaults are the usual values.
    """

    lr: PositiveFloat = 1e-6
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the two moments."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """L2 norm to which gradients are clipped."""
