"""Distillation of a fixed token signal under the trust region (paper Eq. 9). Token mean.

The aggregation follows the expectation over (s, a) as it is written.
"""

from __future__ import annotations

from torch import Tensor

from erpd_core.config import Distill
from erpd_core.losses.clipped import clipped_surrogate
from erpd_core.losses.inputs import LossInputs, Metrics


def distill(config: Distill, x: LossInputs) -> tuple[Tensor, Metrics]:
    """Clipped surrogate; `signal_N` is the fixed, whitened signal A_hat (`erpd_core.signals`)."""
    loss_N, metrics = clipped_surrogate(x, config.clip_low, config.clip_high)
    return x.token_mean(loss_N), metrics
