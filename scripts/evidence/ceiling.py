"""Computes how much of a fixed batch's outcomes any policy's token probabilities can explain.

    python -m scripts.evidence.ceiling --problems 256 --samples 16

Responses to a problem share prefixes. If right and wrong responses share a prefix, its last token
has one probability but two outcomes. The best probability is the share of right responses (the
optimum of Eq. 10). The variance within such tokens cannot be explained.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from erpd_core.batch import TokenBatch
from erpd_core.config import EmbeddedModel, RuntimeConfig, SamplingConfig, TinyProblems
from tasks.datasets import draw_problems
from tasks.execution.progress import Progress
from tasks.execution.stage import Context, get_or_compute
from tasks.models.import_policy import import_policy
from tasks.rollouts import SampleRollouts, load_batch, shards
from tasks.store import Store

SEED = 100


def ceiling(batch: TokenBatch) -> dict[str, float]:
    """Return the most that any policy can explain of a batch's outcomes.

    **Returns:** `tokens`, their number; `shared`, the share of tokens that end a prefix of both
        right and wrong responses; `variance`, the largest explained variance (of 1).
    **Raises:** ZeroDivisionError if all responses have the same outcome.
    """
    seen: Counter[tuple[int, tuple[int, ...]]] = Counter()
    right: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for index in range(batch.sequences):
        response = batch.response(index).tolist()
        for end in range(1, len(response) + 1):
            prefix = int(batch.group_S[index]), tuple(response[:end])
            seen[prefix] += 1
            right[prefix] += int(batch.reward_S[index])
    tokens = seen.total()
    share = right.total() / tokens
    within = (
        sum(right[prefix] * (count - right[prefix]) / count for prefix, count in seen.items())
        / tokens
    )
    shared = sum(count for prefix, count in seen.items() if 0 < right[prefix] < count) / tokens
    return {
        "tokens": tokens,
        "shared": round(shared, 3),
        "variance": round(1 - within / (share * (1 - share)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.evidence.ceiling",
        description="Compute how much of a batch's outcomes MSE could explain.",
    )
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--samples", type=int, default=16)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        here = Context(Store(Path(folder)), RuntimeConfig(ray="off"), Progress(None, "ceiling"))
        base = get_or_compute(import_policy(EmbeddedModel()), here)
        problems = get_or_compute(
            draw_problems("prompts", TinyProblems(count=args.problems), SEED), here
        )
        sampling = SamplingConfig(
            samples=args.samples, temperature=1.0, max_new_tokens=24, shard=256
        )
        rollouts = get_or_compute(
            SampleRollouts(policy=base, problems=problems, sampling=sampling, seed=SEED), here
        )
        print(json.dumps(ceiling(load_batch(shards(here.store, rollouts)))))


if __name__ == "__main__":
    main()
