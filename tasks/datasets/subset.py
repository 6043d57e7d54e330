"""Draws from a pool by seed and by difficulty.

No problem is drawn in two iterations while others are left.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from erpd_core.config import DifficultyConfig


def draw(
    size: int,
    count: int,
    seed: int,
    earlier: Sequence[int] = (),
    weights: Sequence[float] | None = None,
) -> list[int]:
    """`count` different places of a pool of `size`, in the order drawn by `seed`.

    **Arguments:**
        earlier: Seeds of earlier draws from the same pool, in order. Their places return only when
            the others are used up.
        weights: Relative probability of each place, above 0.
    """
    gone: set[int] = set()
    for draw_seed in (*earlier, seed):
        free = [place for place in range(size) if place not in gone]
        picked = _sample(free, min(count, len(free)), draw_seed, weights)
        # the pool is used up: take what is left, and the rest from a new round
        if len(picked) < count:
            gone = set(picked)
            picked = picked + _sample(
                [place for place in range(size) if place not in gone],
                count - len(picked),
                draw_seed,
                weights,
            )
        gone.update(picked)
    return picked


def _sample(
    places: Sequence[int], count: int, seed: int, weights: Sequence[float] | None
) -> list[int]:
    rng = random.Random(seed)
    if weights is None:
        return rng.sample(places, count)
    # Weighted, without replacement (Efraimidis and Spirakis 2006): their largest u^(1/w),
    # computed as the shortest exponential waiting time.
    waiting = {place: rng.expovariate(weights[place]) for place in places}
    return sorted(places, key=waiting.__getitem__)[:count]


def weight_of(value: Any, difficulty: DifficultyConfig) -> float:
    """Relative probability that a problem of this difficulty is drawn.

    0 means never. Without weights it is 1.

    **Raises:** ValueError for a value that is not a number if a range is set.
    """
    if difficulty.low is not None or difficulty.high is not None:
        number = _number(value, difficulty.column)
        if (difficulty.low is not None and number < difficulty.low) or (
            difficulty.high is not None and number > difficulty.high
        ):
            return 0.0
    return difficulty.weights.get(str(value).strip(), 0.0) if difficulty.weights else 1.0


def _number(value: Any, column: str) -> float:
    try:
        return float(Fraction(value.strip())) if isinstance(value, str) else float(value)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(
            f"{column} {value!r} is neither a number nor a fraction such as 3/8; name levels in "
            f"weights instead"
        ) from error
