"""How much of the outcomes of a fixed batch any policy could explain by its token probabilities.

    python -m scripts.evidence.ceiling --problems 256 --samples 16

The responses to a problem share beginnings. A token that ends a beginning which right and wrong
responses share has one probability and two outcomes: at best the probability is the share of right
ones (Eq. 10's optimum), and what is left is the variance within such tokens.
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
    """`tokens`; `shared`, the share of them that end a beginning of both outcomes; `variance`, the
    most that can be explained (of 1).

    Raises ZeroDivisionError for a batch of one outcome, which leaves nothing to explain.
    """
    seen: Counter[tuple[int, tuple[int, ...]]] = Counter()
    right: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for index in range(batch.sequences):
        response = batch.response(index).tolist()
        for end in range(1, len(response) + 1):
            beginning = int(batch.group_S[index]), tuple(response[:end])
            seen[beginning] += 1
            right[beginning] += int(batch.reward_S[index])
    tokens = seen.total()
    share = right.total() / tokens
    within = sum(right[one] * (count - right[one]) / count for one, count in seen.items()) / tokens
    shared = sum(count for one, count in seen.items() if 0 < right[one] < count) / tokens
    return {
        "tokens": tokens,
        "shared": round(shared, 3),
        "variance": round(1 - within / (share * (1 - share)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.evidence.ceiling", description="What MSE could explain of a batch."
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
