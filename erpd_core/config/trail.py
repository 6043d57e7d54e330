"""Base config of every training: its steps, and those that are kept."""

from __future__ import annotations

from typing import Self

from pydantic import PositiveInt, field_validator, model_validator

from erpd_core.config.common import Config


class TrailConfig(Config):
    """A training that keeps its model at some steps."""

    steps: PositiveInt
    """Number of optimizer steps."""
    keep: tuple[PositiveInt, ...] = ()
    """Steps whose model is kept, in addition to the last step."""

    @field_validator("keep")
    @classmethod
    def _sorted(cls, keep: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(keep)))

    @model_validator(mode="after")
    def _keep_within_steps(self) -> Self:
        if self.keep and self.keep[-1] > self.steps:
            raise ValueError(
                f"keep: step {self.keep[-1]} is beyond the last step {self.steps}; lower it or "
                f"raise steps"
            )
        return self

    @property
    def trail(self) -> tuple[int, ...]:
        """All kept steps, ascending. The last step is always kept."""
        return tuple(sorted({*self.keep, self.steps}))
