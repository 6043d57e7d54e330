"""Analyzes the signals of claims 10 and 12.

    python -m scripts.evidence.signals --seed 0

It prints two JSON lines: how far two teachers agree, and how much of the signal negative log-ratios
of right responses hold. The studies `ensemble` and `masking` must have been run on the seed.
"""

from __future__ import annotations

import argparse
import json
from contextlib import closing

import torch
from torch import Tensor

from erpd_core.refs import LogprobRef, RolloutRef
from erpd_core.signals import whiten
from flows.ablation import begun
from flows.recipes.studies import load_study
from flows.steps.preflight import study_campaigns
from scripts.evidence.running import STUDIES
from tasks.registry import Attached, Registry, open_registry
from tasks.rollouts import load_batch, shards
from tasks.rollouts.score import load_column
from tasks.store import Store, open_store

FAR = 0.1
"""A log-ratio farther from 0 than this many nats is more than noise."""
STRONG = 0.5
"""A whitened signal farther from 0 than this many standard deviations is more than noise."""


def agreement(ours_N: Tensor, theirs_N: Tensor) -> dict[str, float]:
    """Compare two log-ratios, [N] nats each, after whitening.

    **Returns:** Their `correlation`, and `same_sign`, the share of tokens with equal signs among
        those where either is beyond STRONG.
    """
    ours_N, theirs_N = whiten(ours_N, "shift"), whiten(theirs_N, "shift")
    strong_N = (ours_N.abs() > STRONG) | (theirs_N.abs() > STRONG)
    same = (ours_N * theirs_N)[strong_N] > 0
    return _rounded(
        correlation=torch.corrcoef(torch.stack([ours_N, theirs_N]))[0, 1],
        same_sign=same.float().mean(),
    )


def outliers(ratio_N: Tensor, right_N: Tensor) -> dict[str, float]:
    """Measure the negative log-ratios of right responses.

    **Arguments:**
        ratio_N: Log-ratios, [N] nats.
        right_N: [N] bool, True for tokens of right responses.
    **Returns:** As shares of all tokens: `negative`, tokens of right responses with a negative
        log-ratio, and `far`, those below -FAR. As shares of the sum of |log-ratio|:
        `held_by_right`, that of right responses, and `held_by_far`, that of the far tokens.
    """
    far_N = right_N & (ratio_N < -FAR)
    everything = ratio_N.abs().sum()
    return _rounded(
        negative=(right_N & (ratio_N < 0)).float().mean(),
        far=far_N.float().mean(),
        held_by_right=ratio_N[right_N].abs().sum() / everything,
        held_by_far=ratio_N[far_N].abs().sum() / everything,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.evidence.signals",
        description="Analyze the signals of claims 10 and 12.",
    )
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    store = open_store()
    with closing(open_registry()) as registry:
        both = attached_to(registry, "ensemble", "both", seed)
        masked = attached_to(registry, "masking", "all", seed)
    strong = log_ratio(store, both, ("teacher", -1), ("base", 0))
    recovered = log_ratio(store, both, ("extra", -1), ("unlearned", 0))
    print(json.dumps({"study": "ensemble", "seed": seed} | agreement(strong, recovered)))
    weak = log_ratio(store, masked, ("unlearned", -1), ("unlearned", 0))
    print(
        json.dumps({"study": "masking", "seed": seed} | outliers(weak, right_tokens(store, masked)))
    )


def attached_to(registry: Registry, study: str, arm: str, seed: int) -> list[Attached]:
    """Return the artifacts of an arm of a study on a seed."""
    return registry.artifacts(
        begun(study_campaigns(load_study(str(STUDIES / f"{study}.yaml"), [f"seed={seed}"])))[arm]
    )


def log_ratio(
    store: Store, attached: list[Attached], numerator: tuple[str, int], denominator: tuple[str, int]
) -> Tensor:
    """Return the log-ratio of two policies on the batch, [N] nats.

    Each policy is given by its role and its position among the policies of that role, by step.
    """
    columns = [
        LogprobRef.model_validate(artifact.artifact.meta["ref"])
        for artifact in attached
        if artifact.artifact.kind == "column"
    ]

    def column(role: str, place: int) -> Tensor:
        of_role = (ref for ref in columns if ref.policy.role == role)
        return load_column(store, sorted(of_role, key=lambda ref: ref.policy.step)[place])

    return column(*numerator) - column(*denominator)


def right_tokens(store: Store, attached: list[Attached]) -> Tensor:
    """Return [N] bool, True for tokens of right responses."""
    rollouts = next(
        artifact.artifact.meta["ref"] for artifact in attached if artifact.role == "rollouts"
    )
    batch = load_batch(shards(store, RolloutRef.model_validate(rollouts)))
    return torch.repeat_interleave(batch.reward_S > 0, batch.length_S)


def _rounded(**shares: Tensor) -> dict[str, float]:
    return {name: round(float(share), 3) for name, share in shares.items()}


if __name__ == "__main__":
    main()
