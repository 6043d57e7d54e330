"""Measures two sides alternately, because a machine's speed drifts, for as long as there is time.

Ratios are those of consecutive measurements; results are medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks._budget import Deadline, TimeUp

ENOUGH = 2
"""Pairs that a comparison should have: one has no spread, and the first warms up."""

Result = dict[str, Any]
"""What one side reports of one measurement, as JSON."""
Row = dict[str, Any]
"""The result of one comparison, as JSON."""
Once = Callable[[int], Result]
"""One side: it does work of a size."""


class Figure(NamedTuple):
    """The figure of a result that is compared."""

    name: str = "rate"
    less_is_better: bool = False

    def of(self, pair: Pair) -> tuple[float, float, float]:
        """Return (ours, peer, ratio); a ratio above 1 is better than the peer."""
        ours, peer = pair.ours[self.name], pair.peer[self.name]
        return ours, peer, peer / ours if self.less_is_better else ours / peer


class Pair(NamedTuple):
    """Consecutive measurements of both sides on work of one size."""

    size: int
    ours: Result
    peer: Result


def in_turn(ours: Once, peer: Once) -> Callable[[int, int], tuple[Result, Result]]:
    """Return a measurement of a pair, by number and size; the side that goes first alternates."""

    def pair(number: int, size: int) -> tuple[Result, Result]:
        if number % 2:
            second = peer(size)
            return ours(size), second
        first = ours(size)
        return first, peer(size)

    return pair


def repeated(
    name: str,
    pair: Callable[[int, int], tuple[Result, Result]],
    share: Deadline,
    rounds: int,
    sizes: Sequence[int] = (1,),
    figure: Figure = Figure(),
) -> list[Pair]:
    """Measure pairs and print each at once, until the time is over or there are enough.

    The first pair warms up, on the smallest size. The others have the largest size that fits into
    the share ENOUGH times and once more, since the machine may become slower. A pair begins only if
    it fits. The first ENOUGH may take more than the share, because a comparison without them says
    little. A pair under way when all time is over is dropped.

    **Arguments:**
        pair: Measures (ours, peer), given the number of the pair and a size.
        rounds: Most pairs after the first.
        sizes: Increasing; the time that a pair takes is about proportional.
    **Raises:** TimeUp if the first pair was not measured in time.
    """
    pairs: list[Pair] = []
    size, expected = sizes[0], 0.0
    while len(pairs) <= rounds and (share if len(pairs) >= ENOUGH else share.whole).fits(expected):
        started = time.perf_counter()
        try:
            pairs.append(Pair(size, *pair(len(pairs), size)))
        except TimeUp:
            break
        expected = time.perf_counter() - started
        _say(name, pairs, figure)
        if len(pairs) == 1:
            needed = expected / size * (min(rounds, ENOUGH) + 1)
            size = max([larger for larger in sizes if share.fits(needed * larger)] or sizes[:1])
            expected *= size / sizes[0]
    if not pairs:
        raise TimeUp
    return pairs


def _say(name: str, pairs: list[Pair], figure: Figure) -> None:
    ours, peer, ratio = figure.of(pairs[-1])
    number = f"pair {len(pairs) - 1}" if len(pairs) > 1 else "warm-up"
    print(
        f"{name}, {number}: ours {ours:.2f}, peer {peer:.2f}, ratio {ratio:.3f} "
        f"(size {pairs[-1].size})",
        flush=True,
    )


def counted(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Return the pairs that make the result: all but the warm-up, unless there is no other."""
    return pairs[1:] or pairs


def compared(pairs: Sequence[Pair], figure: Figure = Figure()) -> Row:
    """Return each side's median figure, the median and range of the ratios, and how many they are.

    `preliminary` says that there is only the warm-up.
    """
    ours, peer, ratios = zip(*map(figure.of, counted(pairs)), strict=True)
    return {
        "ours": round(statistics.median(ours), 2),
        "peer": round(statistics.median(peer), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "pairs": len(ratios),
        "preliminary": len(pairs) == 1,
    }
