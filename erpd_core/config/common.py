"""What every part of a config is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from erpd_core.refs import Frozen

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Strategy = Literal["S1", "S2", "S3"]
Choice = Literal["S1", "S2", "S3", "online", "none"]
"""What an iteration may do: distil by a strategy, train online, or take the teacher itself as
its student (a control arm).
"""


LIMIT = 1 << 53
"""Whole numbers stay below it: up to there a float, a database and JavaScript hold each of them
exactly.
"""


class Config(Frozen):
    """Every number of a config is finite, and a whole one below `LIMIT`. A field's docstring is
    its text in the forms of Prefect's UI.
    """

    model_config = ConfigDict(allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        if any(isinstance(one, int) and abs(one) >= LIMIT for one in _members(value)):
            raise ValueError("whole numbers lie between -2**53 and 2**53; give another")
        return value


def _members(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Mapping):
        return tuple(value.values())
    return tuple(value) if isinstance(value, tuple | list | set | frozenset) else (value,)
