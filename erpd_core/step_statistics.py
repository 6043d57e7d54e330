"""The statistics of an optimizer step that Fig. 4, 5, 9 and 10 plot."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from erpd_core.kl import k3
from erpd_core.losses import LossInputs
from erpd_core.parallel import SINGLE, WorkerGroup

Record = dict[str, float]
"""Name -> number: the metrics of one optimizer step."""


class StepStatistics:
    """Token means over a minibatch, measured before the update of the step.

    Only sums are kept, so micro-batches can be added one by one.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._ratios: list[float] = []
        """The smallest and the largest ratio theta / old of each part."""

    def add(self, x: LossInputs, metrics: dict[str, Tensor]) -> None:
        """Add the tokens of a micro-batch, or of a part of it, with the metrics of the loss."""
        lp_N, reward_N, old_N = (
            column.detach().double() for column in (x.lp_N, x.reward_N, x.old_N)
        )
        log_ratio_N, prob_N, positive_N = lp_N - old_N, lp_N.exp(), (reward_N > 0.5).double()
        error_N = reward_N - prob_N
        columns = {
            "tokens": torch.ones_like(lp_N),
            "entropy": x.entropy_N.detach(),
            "kl_old_theta_on_old_batch": k3(x.old_N, x.lp_N.detach()),
            **metrics,
            "ratio_mean": log_ratio_N.exp(),
            **{f"reward^{power}": reward_N**power for power in (1, 2)},
            **{f"error^{power}": error_N**power for power in (1, 2)},
        }
        for name, mask_N in (("positive", positive_N), ("negative", 1 - positive_N)):
            columns |= {
                f"{name}s": mask_N,
                f"prob_{name}": prob_N * mask_N,
                f"log_ratio_{name}": log_ratio_N * mask_N,
            }
        sums = torch.stack([column.double().sum() for column in columns.values()])
        ends = log_ratio_N.aminmax()
        *totals, low, high = torch.cat([sums, ends.min.exp()[None], ends.max.exp()[None]]).tolist()
        for name, value in zip(columns, totals, strict=True):
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._ratios += [low, high]

    def record(self, workers: WorkerGroup = SINGLE) -> Record:
        """The record over the tokens of all workers; the same for each of them.

        `kl_old_theta_on_old_batch` is KL(old || theta), k3, sampled by old, in nats per token. It
        is not the KL of the paper's tables, which is on fresh samples of theta.
        `explained_variance` is 1 - Var(R - p) / Var(R), with p the probability of the token under
        theta.
        """
        gathered = workers.gather((self._sums, self._ratios))
        names = next(own_sums for own_sums, _ in gathered if own_sums)
        sums = {
            name: math.fsum(own_sums[name] for own_sums, _ in gathered if own_sums)
            for name in names
        }
        ratios = [ratio for _, own_ratios in gathered for ratio in own_ratios]
        tokens = sums.pop("tokens")
        spread, left = (
            sums.pop(f"{name}^2") / tokens - (sums.pop(f"{name}^1") / tokens) ** 2
            for name in ("reward", "error")
        )
        of_sign: Record = {}
        for name in ("positive", "negative"):
            count, parts = (
                sums.pop(f"{name}s"),
                {key: sums.pop(f"{key}_{name}") for key in ("prob", "log_ratio")},
            )
            if count:
                of_sign |= {f"{key}_{name}": total / count for key, total in parts.items()}
        record = {name: total / tokens for name, total in sums.items()}
        record |= {"ratio_max": max(ratios), "ratio_min": min(ratios), **of_sign}
        if spread > 1e-12:  # explained variance is undefined if all outcomes are equal
            record["explained_variance"] = 1.0 - left / spread
        return record
