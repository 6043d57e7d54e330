"""What a batch can teach: how many of its responses are right, wrong, cut or empty, and how many
groups tell one from the other.
"""

from __future__ import annotations

from erpd_core.refs import Frozen


class Outcomes(Frozen):
    """Counts over a batch. Right and wrong are those that have a token.

    Example: `Outcomes(responses=512, right=201, empty=0, truncated=3, groups=64, telling=48)`
    """

    responses: int
    right: int
    empty: int
    """Responses without a token: nothing can be learned from them, so they are left out of
    trainings.
    """
    truncated: int
    """Responses that were cut at the length limit."""
    groups: int
    """Problems, each with its responses."""
    telling: int
    """Groups with both right and wrong responses: all others have group-normalised advantages of
    0.
    """

    @property
    def wrong(self) -> int:
        return self.responses - self.right - self.empty

    def __str__(self) -> str:
        return (
            f"of {self.responses} responses {self.right} are right, {self.wrong} wrong, "
            f"{self.truncated} cut at the limit, "
            f"{self.empty} empty; {self.telling} of {self.groups} groups have both right and "
            f"wrong ones"
        )
