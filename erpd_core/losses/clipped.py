"""The clipped surrogate that GRPO, PPO and distillation share (Eq. 5, Eq. 9)."""

from __future__ import annotations

import torch
from torch import Tensor

from erpd_core.losses.inputs import LossInputs, Metrics


def clipped_surrogate(x: LossInputs, clip_low: float, clip_high: float) -> tuple[Tensor, Metrics]:
    """Per token `-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)`, with `r = exp(lp - old)`.

    **Returns:** (loss_N, metrics). The caller aggregates the loss.
    """
    ratio_N = torch.exp(x.lp_N - x.old_N)
    clipped_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    surrogate_N = torch.minimum(ratio_N * x.signal_N, clipped_N * x.signal_N)
    cut_N = ((ratio_N > 1 + clip_high) & (x.signal_N > 0)) | (
        (ratio_N < 1 - clip_low) & (x.signal_N < 0)
    )
    return -surrogate_N, {"clip_fraction": cut_N.float()}
