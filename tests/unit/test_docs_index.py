"""docs/paper_index.md: its names exist, its defaults are the code's, and the paper is covered."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from doc_names import PACKAGES, ROOT, commands, path_exists, python_name_exists, rows, spans
from pydantic import BaseModel

from erpd_core.batch import TokenBatch
from erpd_core.config import CampaignConfig, SignalSpec
from erpd_core.losses import LOSSES, LossInputs, Totals
from erpd_core.online import fresh_record
from erpd_core.refs import EvalReport
from erpd_core.step_statistics import StepStatistics
from flows.recipes.load import load_recipe
from flows.recipes.studies import is_study, load_study
from tasks.training.online import OnlineLoop

INDEX = ROOT / "docs" / "paper_index.md"
NOTHING = "–"
SIDES = r"(teacher|weak)(@\d+)?|unlearned|student:\d+|old|base|none|live"


def models(annotation: Any) -> list[type[BaseModel]]:
    """The config classes in an annotation, also inside Optional, unions, tuples and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [
        model
        for inner in typing.get_args(annotation)
        if not isinstance(inner, str)
        for model in models(inner)
    ]


def config_fields(key: str) -> list[Any]:
    """The pydantic fields that a key such as `teacher.loss.beta` may name; none if unknown."""
    here: list[type[BaseModel]] = [CampaignConfig]
    fields: list[Any] = []
    for part in key.split("."):
        fields = [model.model_fields[part] for model in here if part in model.model_fields]
        here = [model for field in fields for model in models(field.annotation)]
    return fields


def value_at(config: BaseModel, key: str) -> Any:
    """The value of a key; None if this config lacks it (for example, a key of another loss)."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


@cache
def plain() -> CampaignConfig:
    """A config with required keys only: all other values are the defaults."""
    problems = {"kind": "file", "path": "problems.jsonl"}
    return CampaignConfig.model_validate(
        {
            "name": "plain",
            "model": {"kind": "directory", "path": "."},
            "prompts": problems,
            "weak_teacher": {},
            "evaluation": {"validation": problems, "benchmarks": {"one": problems}},
        }
    )


def default_of(key: str) -> Any:
    value = value_at(plain(), key)
    return (
        config_fields(key)[0].get_default(call_default_factory=True)
        if value is None and config_fields(key)
        else value
    )


@cache
def config_words() -> frozenset[str]:
    """Top-level keys, and every word that may be a value in a recipe."""

    def words(schema: Any) -> Iterator[str]:
        if isinstance(schema, dict):
            yield from (
                word
                for word in (*schema.get("enum", ()), schema.get("const"))
                if isinstance(word, str)
            )
            for inner in schema.values():
                yield from words(inner)
        elif isinstance(schema, list):
            for inner in schema:
                yield from words(inner)

    return frozenset(words(CampaignConfig.model_json_schema())) | set(CampaignConfig.model_fields)


@cache
def record_keys() -> frozenset[str]:
    """Every key that a step's record can have, collected from real losses on two tokens."""
    config: dict[str, Any] = {
        field.default: model for model in _loss_models() for field in [model.model_fields["kind"]]
    }
    keys = {"step", "loss", "grad_norm"}
    for kind, loss in LOSSES.items():
        x = LossInputs(
            lp_N=torch.tensor([-1.0, -2.0]),
            old_N=torch.tensor([-1.5, -1.5]),
            signal_N=torch.tensor([1.0, -1.0]),
            entropy_N=torch.ones(2),
            reward_S=torch.tensor([1.0, 0.0]),
            seq_N=torch.tensor([0, 1]),
            length_S=torch.tensor([1, 1]),
            totals=Totals(2, 2, 1),
        )
        statistics = StepStatistics()
        statistics.add(x, loss(config[kind](), x)[1])
        keys |= statistics.record().keys()
    return frozenset(keys | online_record_keys())


def online_record_keys() -> set[str]:
    """Keys of on-policy steps only: those of the fresh batch, and those that `OnlineLoop` adds."""
    batch = TokenBatch.build(prompts=[[1]], responses=[[1]], groups=[0], rewards=[1])
    written = re.findall(r'^ +"(\w+)": ', inspect.getsource(OnlineLoop), re.MULTILINE)
    return {*fresh_record(batch, torch.zeros(1), torch.zeros(1), torch.zeros(1)), *written}


def _loss_models() -> list[type[BaseModel]]:
    return [
        model
        for key in ("teacher.loss", "distill.loss")
        for field in config_fields(key)
        for model in models(field.annotation)
    ]


def what_is_wrong(span: str) -> str | None:
    """Why a code span of the paper index names nothing that exists; None if it does."""
    if span.startswith(("erpd ", "make ")):
        return None  # checked as commands
    if "/" in span:
        return None if path_exists(span) else "no such path"
    first, _, rest = span.partition(".")
    if first in PACKAGES:
        return None if python_name_exists(span) else "no such Python name"
    if first == "record" and rest:
        return (
            None
            if rest in record_keys()
            else f"no such key in a step's record: {sorted(record_keys())}"
        )
    if first == "report" and rest:
        return (
            None
            if rest in EvalReport.model_fields
            else f"no such key in a report: {sorted(EvalReport.model_fields)}"
        )
    if span in config_words() or re.fullmatch(SIDES, span) or (rest and config_fields(span)):
        return None
    return (
        "neither a path, a Python name, a key or value of a recipe, a record or report key, "
        "nor a command"
    )


def test_every_code_span_of_the_paper_index_names_something_that_exists() -> None:
    wrong = {span: reason for span in spans(INDEX) if (reason := what_is_wrong(span))}
    assert not wrong, wrong


@pytest.mark.parametrize(
    "span",
    [
        "erpd_core/losses/ppo2.py",
        "erpd_core.signals.nothing",
        "erpd_core.nothing",
        "teacher.loss.betta",
        "record.nothing",
        "report.nothing",
        "sapoo",
    ],
)
def test_what_does_not_exist_is_noticed(span: str) -> None:
    assert what_is_wrong(span)


def test_every_equation_table_figure_and_loss_is_in_the_paper_index() -> None:
    equations = [row[0] for row in rows(INDEX, "equation", "what it says", "where", "differs")]
    assert equations == [str(number) for number in range(1, 11)]
    listed = ", ".join(row[0] for row in rows(INDEX, "id", "recipe", "what of it is not here"))
    for kind, last in (("Table", 12), (r"Fig\.", 10)):
        listed_numbers = [
            number
            for several in re.findall(rf"{kind} ([\d, ]+)", listed)
            for number in re.findall(r"\d+", several)
        ]
        assert sorted(map(int, listed_numbers)) == list(range(1, last + 1)), kind
    assert [name for name in LOSSES if f"erpd_core.losses.{name}.{name}" not in spans(INDEX)] == []


def settings() -> list[list[str]]:
    return list(rows(INDEX, "what", "paper", "key", "default", "tiny", "remark"))


def agrees(cell: str, value: Any) -> bool:
    """Whether a cell of the settings tables says `value`."""
    cell = cell.strip("`")
    if isinstance(value, list | tuple):
        parts = cell.split(", ")
        return len(parts) == len(value) and all(
            agrees(part, item) for part, item in zip(parts, value, strict=True)
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(cell.replace(",", "")) == value
        except ValueError:
            return False
    return cell == value


def test_defaults_in_the_paper_index_are_the_code_s_and_the_recipe_s() -> None:
    tiny = load_recipe("tiny")
    signal = tiny.distill.S1[0].signal
    wrong = []
    checked = 0
    for what, _, key, default, in_tiny, _ in settings():
        key = key.strip("`")
        if not key:
            continue
        if key.startswith("erpd_core.config.SignalSpec."):
            field = key.rpartition(".")[2]
            values = (SignalSpec.model_fields[field].default, getattr(signal, field))
        else:
            values = (default_of(key), value_at(tiny, key))
        for column, cell, value in zip(
            ("default", "tiny"), (default, in_tiny), values, strict=True
        ):
            if cell != NOTHING:
                checked += 1
                if not agrees(cell, value):
                    wrong.append(
                        f"{what} (`{key}`), column {column}: the page says {cell}, it is {value}"
                    )
    assert not wrong, "fix the cells of docs/paper_index.md: " + "; ".join(wrong)
    assert checked > 50


@pytest.mark.slow
def test_runs_in_the_paper_index_are_valid_configs() -> None:
    runs = [words for words in commands(INDEX, "erpd") if words[1] == "run"]
    assert len(runs) > 5
    for _, _, recipe, *options in runs:
        assert options[::2] == ["--set"] * (len(options) // 2) and len(options) % 2 == 0
        (load_study if is_study(recipe) else load_recipe)(recipe, options[1::2])
