"""CE: cross-entropy of the implicit reward beta * log-ratio and the outcome (paper Eq. 1-3).

The implicit reward is by Yuan et al. 2025. The aggregation is a sequence mean. Eq. 2 is printed
without the minus sign that a loss needs; this is the usual binary cross-entropy. It is computed
from logits because the sums over long responses are large.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from erpd_core.config import CE
from erpd_core.losses.inputs import LossInputs, Metrics


def ce(config: CE, x: LossInputs) -> tuple[Tensor, Metrics]:
    """`BCE(sigma(beta * sum_t (lp - old)), R)` per response.

    With `aggregate: mean` the sum over the tokens of the response is a mean.
    """
    reward_S = config.beta * x.per_sequence(x.lp_N - x.old_N)
    if config.aggregate == "mean":
        reward_S = reward_S / x.length_S
    loss_S = binary_cross_entropy_with_logits(reward_S, x.reward_S, reduction="none")
    return x.sequence_mean(loss_S), {"implicit_reward": reward_S.detach()[x.seq_N]}
