"""The time that a benchmark has."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class TimeUp(Exception):
    """The time is over before what was under way was measured."""


class Deadline:
    """The moment after which a benchmark measures nothing more.

    **Example:** `Deadline(60).share(3).left` is 20 seconds; its `whole` has 60.
    """

    def __init__(self, seconds: float, whole: Deadline | None = None) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds
        self.whole = whole or self
        """The deadline that this one is a share of; a whole one is its own."""

    @classmethod
    def in_minutes(cls, text: str) -> Deadline:
        """Parse an option. Raises ArgumentTypeError unless it is a number above 0."""
        with suppress(ValueError):
            if 0 < (minutes := float(text)) < math.inf:
                return cls(60 * minutes)
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes above 0")

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def fits(self, seconds: float) -> bool:
        """Whether work of this length would end in time. Nothing fits once the time is over."""
        return seconds < self.left

    def share(self, parts: int) -> Deadline:
        """Return one of `parts` equal shares of the time that is left; it begins now."""
        return Deadline(self.left / parts, self)


def in_shares(
    names: Sequence[str], measure: Callable[[str, Deadline], T], deadline: Deadline
) -> dict[str, T]:
    """Measure one after the other, each in an equal share of the time that is left.

    What a measurement leaves of its share is the others'. Returns those that did not raise TimeUp.
    """
    measured = {}
    for number, name in enumerate(names):
        if deadline.left:
            with suppress(TimeUp):
                measured[name] = measure(name, deadline.share(len(names) - number))
    return measured
