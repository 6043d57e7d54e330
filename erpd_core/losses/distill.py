"""Distillation of a fixed token signal under the trust region (paper Eq. 9). Token mean, as the
expectation over (s, a) is written.
"""

from __future__ import annotations

from torch import Tensor

from erpd_core.config import Distill
from erpd_core.losses.clipped import clipped_surrogate
from erpd_core.losses.inputs import LossInputs, Metrics


def distill(config: Distill, x: LossInputs) -> tuple[Tensor, Metrics]:
    """`signal_N` is the whitened log-ratio A_hat (`erpd_core.signals`), held fixed."""
    loss_N, metrics = clipped_surrogate(x, config.clip_low, config.clip_high)
    return x.token_mean(loss_N), metrics
