"""Base class and common types of all configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from erpd_core.refs import Frozen

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Strategy = Literal["S1", "S2", "S3"]
Choice = Literal["S1", "S2", "S3", "online", "none"]
"""What an iteration does: distil by a strategy, train online, or take the teacher itself as its
student (a control arm).
"""


LIMIT = 1 << 53
"""Upper bound of whole numbers. Below it a float, a database and JavaScript represent each of them
exactly.
"""


class Config(Frozen):
    """Base of all configs: numbers are finite, and whole numbers are below `LIMIT`.

    The docstring of a field is its text in the forms of Prefect's UI.
    """

    model_config = ConfigDict(allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        if any(isinstance(member, int) and abs(member) >= LIMIT for member in _members(value)):
            raise ValueError("whole numbers must be between -2**53 and 2**53; choose another")
        return value


def _members(value: Any) -> tuple[Any, ...]:
    if isinstance(value, Mapping):
        return tuple(value.values())
    return tuple(value) if isinstance(value, tuple | list | set | frozenset) else (value,)
