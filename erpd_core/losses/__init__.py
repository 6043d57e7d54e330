"""One loss, one small file. Each takes its config and `LossInputs`, names its own aggregation,
and returns (scalar, per-token metrics).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from erpd_core.config import Loss
from erpd_core.kl import k2
from erpd_core.losses.ce import ce
from erpd_core.losses.cispo import cispo
from erpd_core.losses.dispo import dispo
from erpd_core.losses.distill import distill
from erpd_core.losses.grpo import grpo
from erpd_core.losses.inputs import LossInputs, Metrics, Totals
from erpd_core.losses.mse import mse
from erpd_core.losses.ppo import ppo
from erpd_core.losses.reinforce import reinforce
from erpd_core.losses.sapo import sapo
from erpd_core.losses.sft import sft
from erpd_core.losses.vespo import vespo

LOSSES: dict[str, Callable[[Any, LossInputs], tuple[Tensor, Metrics]]] = {
    "grpo": grpo,
    "ppo": ppo,
    "sapo": sapo,
    "ce": ce,
    "mse": mse,
    "sft": sft,
    "reinforce": reinforce,
    "cispo": cispo,
    "vespo": vespo,
    "dispo": dispo,
    "distill": distill,
}

SEQUENCE_LEVEL = frozenset({"ce", "vespo"})
"""Losses of whole responses. Every other is a sum over tokens, which may be taken chunk by chunk
(`erpd_core.logprobs.fused_loss`).
"""

__all__ = ["LOSSES", "SEQUENCE_LEVEL", "LossInputs", "Metrics", "Totals", "policy_loss"]


def policy_loss(config: Loss, x: LossInputs) -> tuple[Tensor, Metrics]:
    """The configured loss plus its KL penalty to old (k2, token mean) and minus its entropy
    bonus (token mean).
    """
    loss, metrics = LOSSES[config.kind](config, x)
    if config.kl_weight:
        loss = loss + config.kl_weight * x.token_mean(k2(x.lp_N, x.old_N))
    if config.entropy_weight:
        loss = loss - config.entropy_weight * x.token_mean(x.entropy_N)
    return loss, metrics
