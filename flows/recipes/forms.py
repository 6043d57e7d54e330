"""Forms of Prefect's UI: the parameters of the deployed flows, and the configs they resolve to.

A field's docstring is its text in the form. The form refuses invalid values. A value that is only
invalid together with others is refused when the config is resolved, with a message of one line.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, PositiveFloat, PositiveInt

from erpd_core.config import CampaignConfig, Choice, TeacherLoss
from flows.recipes.load import load_recipe, recipe_names
from flows.recipes.studies import Scale, Study, is_study, load_study

Change = Annotated[str, Field(title="key.path=value")]


def _list_campaigns(schema: dict[str, Any]) -> None:
    """Add the names of the campaign recipes; they are read when a form is asked for."""
    schema["enum"] = [name for name in recipe_names() if not is_study(name)]


def _list_studies(schema: dict[str, Any]) -> None:
    """Add the names of the study recipes."""
    schema["enum"] = [name for name in recipe_names() if is_study(name)]


CampaignRecipe = Annotated[str, Field(json_schema_extra=_list_campaigns)]
StudyRecipe = Annotated[str, Field(title="Of the paper", json_schema_extra=_list_studies)]


class _Tabs:
    """Annotation of a union that gives it tabs in Prefect's UI.

    The UI shows `anyOf` as tabs. It does not support `oneOf` and asks for JSON instead.
    """

    def __get_pydantic_json_schema__(
        self, core_schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": handler(core_schema)["oneOf"]}


def as_fields(schema: dict[str, Any]) -> None:
    """Change a form's JSON schema so that Prefect's UI shows simple fields.

    An optional number or text becomes a field that may stay empty, instead of a choice between the
    value and "None". Alternatives become one row of tabs.
    """
    for field in schema["properties"].values():
        ways = [way for option in field.pop("anyOf", []) for way in option.get("oneOf", [option])]
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
    """A recipe from the list, and changes to it. An empty field keeps the recipe's value."""

    model_config = ConfigDict(title="A recipe")

    kind: Literal["recipe"] = "recipe"
    recipe: CampaignRecipe = "tiny"
    """`erpd recipes` describes each recipe."""
    seed: int | None = None
    """Another seed is another campaign."""
    iterations: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Total number. A larger number continues a campaign that has already run."""
    decision: Literal["auto", "ask", "fixed"] | None = None
    """Who chooses the signal after each teacher: the validation scores (auto), you (ask; the run
    pauses), or the list below (fixed).
    """
    strategies: Annotated[list[Choice], Field(min_length=1)] | None = None
    """For a fixed decision: the strategy of iteration 1, 2, ...; the last one repeats."""
    teacher_loss: TeacherLoss | None = None
    """The loss of stage 1."""
    teacher_steps: PositiveInt | None = None
    """Optimizer steps of stage 1."""
    distill_steps: PositiveInt | None = None
    """Optimizer steps of stage 2."""
    kl_budget: Annotated[PositiveFloat | None, Field(title="KL budget")] = None
    """Largest KL of the student to its start, in nats per token."""
    changes: list[Change] = Field(default_factory=list)
    """Other settings of the recipe, as `key.path=value`; `erpd show RECIPE` prints every key."""

    def overrides(self) -> list[str]:
        """The form's values as `--set` overrides."""
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
        """The config and the recipe's name. Raises ValueError, in one line, for invalid values."""
        return load_recipe(self.recipe, self.overrides()), self.recipe


class FromFile(Form):
    """A recipe file on the machine that runs the campaign."""

    model_config = ConfigDict(title="A file")

    kind: Literal["file"] = "file"
    path: Annotated[str, Field(pattern=r"\.ya?ml$")]
    """Path of a YAML recipe."""
    changes: list[Change] = Field(default_factory=list)
    """Changes to the recipe, as `key.path=value`."""

    def resolve(self) -> tuple[CampaignConfig, str]:
        """The config and the file's path. Raises ValueError, in one line, for invalid values."""
        return load_recipe(self.path, self.changes), self.path


class Written(Form):
    """All settings of a campaign."""

    model_config = ConfigDict(title="All settings")

    kind: Literal["written"] = "written"
    config: CampaignConfig
    """Every setting, as `erpd show RECIPE` prints them."""
    recipe: str = ""
    """Name of the recipe that the settings come from; it is only recorded."""

    def resolve(self) -> tuple[CampaignConfig, str]:
        return self.config, self.recipe


What = Annotated[
    FromFile | FromRecipe | Written, Field(discriminator="kind", title="What to run"), _Tabs()
]


class StudyChoice(Form):
    """A table or figure of the paper, or a study of your own, at a scale."""

    study: StudyRecipe | Annotated[str, Field(pattern=r"\.ya?ml$", title="Path of a YAML file")]
    """A study is several campaigns; what they have in common is computed once."""
    scale: Scale = "tiny"
    """`tiny` takes minutes on a CPU, `paper` days on GPUs."""
    changes: list[Change] = Field(default_factory=list)
    """Changes to every arm, as `key.path=value`."""

    def resolve(self) -> Study:
        """The study. Raises ValueError, in one line, for invalid values."""
        return load_study(self.study, [f"scale={self.scale}", *self.changes])
