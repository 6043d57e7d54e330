"""What the forms of Prefect's UI ask: the parameters of the deployed flows, and the configs they
stand for.

A field's docstring is its text in the form; what is wrong is refused by the form or, where only the
whole config can tell, by one line.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, PositiveFloat, PositiveInt

from erpd_core.config import CampaignConfig, Choice, TeacherLoss
from flows.recipes.load import load_recipe, recipe_names
from flows.recipes.studies import Scale, Study, is_study, load_study

Change = Annotated[str, Field(title="key.path=value")]


_STUDIES = {name: is_study(name) for name in recipe_names()}
CampaignRecipe = Annotated[
    str, Field(json_schema_extra={"enum": [name for name, study in _STUDIES.items() if not study]})
]
StudyRecipe = Annotated[
    str,
    Field(
        title="Of the paper",
        json_schema_extra={"enum": [name for name, study in _STUDIES.items() if study]},
    ),
]


class _Tabs:
    """Beside a union: Prefect's UI has tabs for `anyOf`; of `oneOf` it knows nothing and asks
    for JSON.
    """

    def __get_pydantic_json_schema__(
        self, core_schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": handler(core_schema)["oneOf"]}


def as_fields(schema: dict[str, Any]) -> None:
    """An optional number or text is a field that may stay empty, not a choice between it and
    "None"; alternatives are one row of tabs.
    """
    for field in schema["properties"].values():
        ways = [way for one in field.pop("anyOf", []) for way in one.get("oneOf", [one])]
        given = [way for way in ways if way != {"type": "null"}]
        if len(given) == 1:
            field |= given[0]
            del field["default"]
        elif ways:
            field["anyOf"] = ways


class Form(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, json_schema_extra=as_fields
    )


class FromRecipe(Form):
    """A recipe of the list, and what is changed in it. Every empty field is as in the recipe."""

    model_config = ConfigDict(title="A recipe")

    kind: Literal["recipe"] = "recipe"
    recipe: CampaignRecipe = "tiny"
    """`erpd recipes` says what each is about."""
    seed: int | None = None
    """Another seed is another campaign."""
    iterations: Annotated[int, Field(ge=1, le=1000)] | None = None
    """A campaign that has run is gone on with: more of them add to it."""
    decision: Literal["auto", "ask", "fixed"] | None = None
    """Who chooses the signal after each teacher: the validation scores, you (the run pauses), or
    the list below.
    """
    strategies: Annotated[list[Choice], Field(min_length=1)] | None = None
    """For a fixed decision: what iteration 1, 2, ... does; the last one repeats."""
    teacher_loss: TeacherLoss | None = None
    """The loss of stage 1."""
    teacher_steps: PositiveInt | None = None
    """Optimizer steps of stage 1."""
    distill_steps: PositiveInt | None = None
    """Optimizer steps of stage 2."""
    kl_budget: Annotated[PositiveFloat | None, Field(title="KL budget")] = None
    """Nats per token that the student may be from its start."""
    changes: list[Change] = Field(default_factory=list)
    """Anything else of the recipe, as `key.path=value`; `erpd show RECIPE` prints every key."""

    def overrides(self) -> list[str]:
        """The form as `--set` would say it."""
        given = {
            "seed": self.seed,
            "iterations": self.iterations,
            "decision.fixed": self.strategies,
            "decision.mode": self.decision,
            "teacher.loss": self.teacher_loss and self.teacher_loss.model_dump(mode="json"),
            "teacher.steps": self.teacher_steps,
            "distill.steps": self.distill_steps,
            "distill.kl_budget": self.kl_budget,
        }
        return [
            *(f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None),
            *self.changes,
        ]

    def resolve(self) -> tuple[CampaignConfig, str]:
        """The config, and the recipe's name. Raises ValueError in one line for what cannot be."""
        return load_recipe(self.recipe, self.overrides()), self.recipe


class FromFile(Form):
    """A recipe file on the machine that runs it."""

    model_config = ConfigDict(title="A file")

    kind: Literal["file"] = "file"
    path: Annotated[str, Field(pattern=r"\.ya?ml$")]
    """Path of a YAML recipe."""
    changes: list[Change] = Field(default_factory=list)
    """What is changed in it, as `key.path=value`."""

    def resolve(self) -> tuple[CampaignConfig, str]:
        """The config, and the file's path. Raises ValueError in one line for what cannot be."""
        return load_recipe(self.path, self.changes), self.path


class Written(Form):
    """Every setting of a campaign."""

    model_config = ConfigDict(title="All settings")

    kind: Literal["written"] = "written"
    config: CampaignConfig
    recipe: str = ""
    """The recipe it comes from, for the record."""

    def resolve(self) -> tuple[CampaignConfig, str]:
        return self.config, self.recipe


What = Annotated[
    FromFile | FromRecipe | Written, Field(discriminator="kind", title="What to run"), _Tabs()
]


class StudyChoice(Form):
    """A table or figure of the paper (or a study of your own), at a scale."""

    study: StudyRecipe | Annotated[str, Field(pattern=r"\.ya?ml$", title="Path of a YAML file")]
    """Each is several campaigns that share what they have in common."""
    scale: Scale = "tiny"
    """`tiny` takes minutes on a CPU, `paper` days on GPUs."""
    changes: list[Change] = Field(default_factory=list)
    """What is changed in every arm, as `key.path=value`."""

    def resolve(self) -> Study:
        """The study. Raises ValueError in one line for what cannot be."""
        return load_study(self.study, [f"scale={self.scale}", *self.changes])

    @classmethod
    def of(cls, study: Study) -> StudyChoice:
        """How a study was asked for."""
        return cls(study=study.recipe, scale=study.scale, changes=list(study.overrides))
