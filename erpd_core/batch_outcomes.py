"""Counts of a batch's outcomes: how many responses are right, wrong, cut or empty."""

from __future__ import annotations

from erpd_core.refs import Frozen


class BatchOutcomes(Frozen):
    """Counts over a batch. Only responses that have a token count as right or wrong.

    **Example:** `BatchOutcomes(responses=512, right=201, empty=0, truncated=3, groups=64,
    mixed_groups=48)`
    """

    responses: int
    right: int
    empty: int
    """Responses without a token: training leaves them out."""
    truncated: int
    """Responses that were cut at the length limit."""
    groups: int
    """Problems, each with its responses."""
    mixed_groups: int
    """Groups with both right and wrong responses; in all others the group-normalized advantage
    is 0.
    """

    @property
    def wrong(self) -> int:
        return self.responses - self.right - self.empty

    def __str__(self) -> str:
        return (
            f"of {self.responses} responses {self.right} are right, {self.wrong} wrong, "
            f"{self.truncated} cut at the limit, {self.empty} empty; {self.mixed_groups} of "
            f"{self.groups} groups have both right and wrong ones"
        )
