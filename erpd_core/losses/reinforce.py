"""REINFORCE: the policy gradient without a ratio (Williams 1992). Token mean over the minibatch.

Williams sums over the tokens of an episode. The token mean is ours; with it the gradient at ratio 1
equals that of CISPO and DISPO. On a fixed batch this is the on-policy gradient only at the first
step: it keeps pushing, however far theta has moved.
"""

from __future__ import annotations

from torch import Tensor

from erpd_core.config import Reinforce
from erpd_core.losses.inputs import LossInputs, Metrics


def reinforce(config: Reinforce, x: LossInputs) -> tuple[Tensor, Metrics]:
    """Per token `-A lp`; `signal_N` is the group-normalized advantage of the token's trajectory."""
    return x.token_mean(-x.signal_N * x.lp_N), {}
