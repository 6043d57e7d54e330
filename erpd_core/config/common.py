"""What every part of a config is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from erpd_core.refs import Frozen

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Strategy = Literal["S1", "S2", "S3"]
Choice = Literal["S1", "S2", "S3", "online", "none"]
"""What an iteration may do: distil by a strategy, train online, or take the teacher itself as its student (a control arm)."""


class Config(Frozen):
    """Every number of a config is finite. A field's docstring is its text in the forms of Prefect's UI."""

    model_config = ConfigDict(allow_inf_nan=False, use_attribute_docstrings=True)
