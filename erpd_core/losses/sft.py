"""SFT: negative log-likelihood of right responses (paper Table 9).

The aggregation is a mean over the tokens of right responses in the minibatch.
"""

from __future__ import annotations

from torch import Tensor

from erpd_core.config import SFT
from erpd_core.losses.inputs import LossInputs, Metrics


def sft(config: SFT, x: LossInputs) -> tuple[Tensor, Metrics]:
    """Mean of `-lp` over tokens with R = 1.

    A minibatch without a right response has loss 0 and gradient 0.
    """
    return -(x.lp_N * x.reward_N).sum() / max(x.totals.positive_tokens, 1), {}
