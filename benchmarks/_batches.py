"""Batches that are like real ones in what costs time: the lengths of prompts and responses. Tokens are random."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import _ours
from benchmarks._report import finish, parser, said
from erpd_core.batch import TokenBatch


def gsm8k_like(vocabulary: int) -> TokenBatch:
    """4 prompts of about 83 tokens x 8 responses of 20 to 300: the skew of model solutions to GSM8K."""
    return _batch(vocabulary, prompts=(62, 71, 85, 115), samples=8, shortest=20, longest=300, mean=132, spread=0.6)


def short(vocabulary: int) -> TokenBatch:
    """8 prompts of 50 tokens x 16 short answers to arithmetic, 8 to 60 tokens."""
    return _batch(vocabulary, prompts=(50,) * 8, samples=16, shortest=8, longest=60, mean=23, spread=0.45)


def _batch(vocabulary: int, prompts: tuple[int, ...], samples: int, shortest: int, longest: int, mean: float, spread: float) -> TokenBatch:
    """Log-normal lengths, cut to their range; half of the responses right."""
    rng = random.Random(20_260_525)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(count)]

    lengths = [
        min(longest, max(shortest, round(mean * rng.lognormvariate(-(spread**2) / 2, spread)))) for _ in range(len(prompts) * samples)
    ]
    lengths[0] = longest
    return TokenBatch.build(
        prompts=[tokens(length) for length in prompts],
        responses=[tokens(length) for length in lengths],
        groups=[index // samples for index in range(len(lengths))],
        rewards=[float(index % 2) for index in range(len(lengths))],
    )


BATCHES = {"gsm8k-like": gsm8k_like, "short": short}


def on_batches(name: str, about: str | None, rounds: int, peer: str, compare: Callable[[Path, str, int], dict[str, Any]]) -> None:
    """The whole of a benchmark that sets one piece of work on each batch against TRL's: `compare(model, batch, rounds)` makes a row.

    The headline is the GSM8K-like batch.
    """
    arguments = parser(about, rounds)
    arguments.add_argument("--batch", choices=list(BATCHES))
    args = arguments.parse_args()
    folder = _ours.smollm2()
    batches = [args.batch] if args.batch else list(BATCHES)
    results = [said({"batch": batch, **compare(folder, batch, args.rounds)}) for batch in batches]
    finish(args.json, name, "response tokens/s", results, model="SmolLM2-135M", peer=peer)
