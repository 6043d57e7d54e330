"""How policies are selected on the validation problems: all samples for all, or by a race."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from erpd_core.config.common import Config


class FullSelection(Config):
    """Every candidate gets all samples of `validation_sampling`."""

    kind: Literal["full"] = "full"


class RaceSelection(Config):
    """Candidates are sampled in rounds and dropped once another is proven better.

    The race ends when one is left or the samples are spent; then the best average wins. Decisions
    about a teacher stop as soon as its gain is proven. Scores that are reported come from other
    samples than those of the race.
    """

    kind: Literal["race"] = "race"
    round: PositiveInt = 4
    """Samples per problem of a round."""
    samples: PositiveInt | None = None
    """Maximum samples per problem of one candidate in a race; if not set, half of those of
    `validation_sampling`. The other half costs more than it changes (docs/results/racing.md).
    """
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Probability, at most, that a race drops its best candidate."""

    def rounds(self, samples: int) -> list[int]:
        """Samples per problem of each round, where a full selection would take `samples`."""
        full, rest = divmod(min(self.samples or (samples + 1) // 2, samples), self.round)
        return [self.round] * full + ([rest] if rest else [])


Selection = FullSelection | RaceSelection
