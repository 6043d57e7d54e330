"""The paper's numbers as data: files load, averages match their columns, and tables agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

import flows.recipes.paper
from erpd_core.config import TEMPLATES, CampaignConfig
from flows.recipes.load import load_recipe, recipe_names
from flows.recipes.paper import PaperRow, PaperTable, load_paper, load_paper_settings, paper_names
from flows.recipes.studies import is_study, load_study
from tasks.datasets import concrete
from tasks.datasets.catalogue import entry

ROOT = Path(__file__).parents[2]
TABLES = [f"table{number}" for number in range(1, 13)]
FIGURES = [f"fig{number}" for number in range(4, 11)]

PRINTED_OTHERWISE = {
    # (table, group, key): the printed row, where the mean of its columns rounds to another last
    # digit than the printed average
    ("table1", "Nanbeige4-3B-2511-Thinking", "grpo"): "GRPO 90.4 86.4 67.3 55.3 68.9 73.6",  # 73.66
    ("table2", "With distillation", "batch1.teacher"): "83.6 67.6 70.4 73.8",  # 73.87
    ("table2", "With distillation", "batch1.student"): "82.5 62.9 68.1 71.1",  # 71.17
    ("table2", "With distillation", "batch2.teacher"): "85.8 68.7 72.5 75.6",  # 75.67
    ("table2", "With distillation", "batch4.teacher"): "86.1 71.4 75.2 77.5",  # 77.57
    ("table2", "Without distillation", "batch1.a"): "83.6 67.6 70.4 73.8",  # 73.87
    ("table2", "Without distillation", "batch1.b"): "83.3 61.2 67.5 70.6",  # 70.67
    ("table2", "Without distillation", "batch2.b"): "79.2 61.2 65.0 68.4",  # 68.47
    ("table11", "Qwen3.5-27B", "batch2.student"): "92.2 93.0 88.0 85.2 89.5",  # 89.6
}


def texts(value: Any) -> list[str]:
    """Every text in a tree of YAML values."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in texts(inner)]
    return [value] if isinstance(value, str) else []


class NoTwice(yaml.SafeLoader):
    """A loader that rejects equal keys, of which YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key is repeated: {keys}"
        return super().construct_mapping(node, deep)


# ---------------------------------------------------------------------------------------- the files


def test_every_table_and_every_figure_with_a_measurement_is_there() -> None:
    assert paper_names() == [*FIGURES, *TABLES]


@pytest.mark.parametrize("name", [*FIGURES, *TABLES])
def test_a_file_says_what_it_is_and_where_it_comes_from(name: str) -> None:
    table = load_paper(name)
    spoken = re.sub(
        r"([a-z]+)(\d+)",
        lambda match: f"{'Figure' if match[1] == 'fig' else 'Table'} {match[2]}",
        name,
    )
    assert table.title.startswith(f"{spoken}: ")
    assert table.source.startswith("Sec. ") and table.source.endswith(
        name.capitalize().replace("Fig", "Fig. ").replace("Table", "Table ")
    )
    assert bool(table.rows) == name.startswith("table")
    assert all(row.values for row in table.rows)


@pytest.mark.parametrize(
    "path", sorted(flows.recipes.paper.FOLDER.glob("*.yaml")), ids=lambda path: path.stem
)
def test_no_key_is_overwritten_and_no_number_is_read_as_text(path: Path) -> None:
    tree = yaml.load(path.read_text(encoding="utf-8"), NoTwice)
    assert [text for text in texts(tree) if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text)] == [], (
        "YAML 1.1 reads 1e-6 as text: write 1.0e-6"
    )


@pytest.mark.parametrize("name", TABLES)
def test_keys_are_unique_within_a_group_and_every_column_is_used(name: str) -> None:
    table = load_paper(name)
    assert len({(row.group, row.key) for row in table.rows}) == len(table.rows)
    assert {column for row in table.rows for column in row.values} == {
        *table.benchmarks,
        *table.other,
    }
    scores = [
        row.values[column]
        for row in table.rows
        for column in table.benchmarks
        if column in row.values
    ]
    assert all(0 < score < 100 and round(score, 1) == score for score in scores)


def test_the_wheel_takes_every_file() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    paths = [path.relative_to(ROOT / "flows") for path in (ROOT / "flows").rglob("*.yaml")]
    missing = [
        path
        for path in paths
        if not any(path.match(pattern) for pattern in setuptools["package-data"]["flows"])
    ]
    assert paths and not missing


# -------------------------------------------------------------------------------------- the numbers


def averaged(name: str) -> list[tuple[str, str, float, float]]:
    """(group, key, printed average, mean of its columns) of every row with an average."""
    averages = []
    for row in load_paper(name).rows:
        columns = [
            row.values[column]
            for column in load_paper(name).benchmarks
            if column in row.values and column not in ("Avg", "LiveCodeBench v6")
        ]
        if "Avg" in row.values:
            averages.append((row.group, row.key, row.values["Avg"], sum(columns) / len(columns)))
    return averages


@pytest.mark.parametrize("name", ["table1", "table2", "table11"])
def test_a_printed_average_is_that_of_its_columns(name: str) -> None:
    for group, key, printed, mean in averaged(name):
        assert abs(printed - mean) < 0.1 + 1e-9, (
            f"{name} {group} {key}: beyond what rounding of the columns explains"
        )
        rounds = abs(printed - mean) <= 0.05 + 1e-9
        assert rounds != ((name, group, key) in PRINTED_OTHERWISE), (
            f"{name} {group} {key}: {printed} is printed, the mean is {mean:.3f}"
        )


def test_exceptions_are_as_printed() -> None:
    for (name, group, key), raw in PRINTED_OTHERWISE.items():
        row, columns = load_paper(name).row(key, group), load_paper(name).benchmarks
        assert [row.values[column] for column in columns if column in row.values] == [
            float(word) for word in raw.split() if word[0].isdigit()
        ]


def scores(name: str, key: str, group: str | None = None) -> dict[str, float]:
    return load_paper(name).row(key, group).values


def test_a_base_model_scores_the_same_wherever_it_is_reported() -> None:
    settings = load_paper_settings()
    seen: dict[tuple[str, str], float] = {}
    for name in TABLES:
        table = load_paper(name)
        alone = table.settings.get("model")
        for row in table.rows:
            if row.key in ("base", "base.step0"):
                named = (
                    row.group
                    if any(row.group in model.names for model in settings.models.values())
                    else str(alone and alone.value)
                )
                for column in (
                    column
                    for column in table.benchmarks
                    if column in row.values and column != "Avg"
                ):
                    assert (
                        seen.setdefault((settings.model(named).id, column), row.values[column])
                        == row.values[column]
                    ), (name, column)
    assert len(seen) > 15


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("table1", "mse+distill", "Qwen3-4B-Thinking-2507"), ("table12", "min", "Qwen3-4B")),
        (("table1", "mse+distill", "Nanbeige4-3B-2511-Thinking"), ("table12", "min", "NBG4-3B")),
        (("table10", "mse+distill", "Qwen3-4B"), ("table12", "min", "Qwen3-4B")),
        (("table10", "mse+distill", "NBG4-3B"), ("table12", "all", "NBG4-3B")),
        (("table1", "ce", "Qwen3-4B-Thinking-2507"), ("table2", "batch1.teacher", None)),
        (("table2", "batch1.teacher", None), ("table2", "batch1.a", None)),
        (("table1", "ce+distill", "Qwen3-4B-Thinking-2507"), ("table8", "old-ce0.001", None)),
        (("table1", "mse+distill", "Qwen3-4B-Thinking-2507"), ("table8", "un-mse", None)),
        (("table1", "sapo", "Nanbeige4-3B-2511-Thinking"), ("table5", "sapo@120", None)),
        (("table1", "sapo+distill", "Nanbeige4-3B-2511-Thinking"), ("table5", "steps32", None)),
        (("table4", "sapo+distill@32", None), ("table5", "steps32", None)),
        (("table7", "e70-un10", None), ("table12", "all", "Qwen3-4B")),
        *(
            (
                ("table2", f"batch{n}.student", None),
                ("table6", f"batch{n}.student", "(a) w/o Entropy Loss"),
            )
            for n in (1, 2, 3)
        ),
    ],
    ids=lambda cell: f"{cell[0]}-{cell[1]}",
)
def test_one_result_printed_in_two_tables_is_one_result(
    one: tuple[str, str, str | None], other: tuple[str, str, str | None]
) -> None:
    here, there = scores(*one), scores(*other)
    both = (here.keys() & there.keys()) - {"Step", "Steps", "Avg"}
    assert both and {column: here[column] for column in both} == {
        column: there[column] for column in both
    }


# ------------------------------------------------------------------------------------- the settings


def test_settings_cover_what_the_tables_name() -> None:
    settings = load_paper_settings()
    for name in paper_names():
        table = load_paper(name)
        assert {
            column for column in table.benchmarks if column != "Avg"
        } <= settings.benchmarks.keys(), name
        for key in ("model", "models"):
            if key in table.settings:
                value = table.settings[key].value
                for model in value if isinstance(value, tuple) else (value,):
                    assert name in settings.model(str(model)).experiments, (name, model)
    assert {name for model in settings.models.values() for name in model.experiments} <= set(
        paper_names()
    )


def test_the_catalogue_has_every_set_of_the_paper_as_the_paper_uses_it() -> None:
    settings = load_paper_settings()
    for name, benchmark in settings.benchmarks.items():
        listed = entry(name)
        assert (listed.use, listed.rows, listed.samples) == (
            "benchmark",
            benchmark.count,
            benchmark.samples,
        ), name
        assert (listed.source.id, listed.source.split) == (benchmark.id, benchmark.split), name  # type: ignore[union-attr]
        if benchmark.tools in ("polaris", "matharena"):
            assert (listed.source.problem_column, listed.source.answer_column) == (
                benchmark.problem_column,
                benchmark.answer_column,
            ), name  # type: ignore[union-attr]
            assert listed.source.template == TEMPLATES[benchmark.tools], name
    for name, use in (
        ("POLARIS-53K", settings.prompts["math"]),
        ("AReaL-boba-2-RL-Code", settings.prompts["code"]),
    ):
        listed = entry(name)
        assert listed.use == "training" and listed.source.template == use.template, name
        assert (listed.source.id, listed.source.problem_column, listed.source.answer_column) == (
            use.id,
            use.problem_column,
            use.answer_column,
        )  # type: ignore[union-attr]


def test_settings_are_the_papers() -> None:
    settings = load_paper_settings()
    assert {
        name: benchmark.samples
        for name, benchmark in settings.benchmarks.items()
        if benchmark.samples != 32
    } == {
        "BeyondAIME": 16,
        "IMO AnswerBench": 4,
        "LiveCodeBench v6": None,
    }
    assert [name for name, benchmark in settings.benchmarks.items() if benchmark.validation] == [
        "HMMT Feb 25"
    ]
    limits = {name: model.evaluation.max_new_tokens for name, model in settings.models.items()}
    assert (limits["Qwen3-4B"], limits["NBG4-3B"], limits["Qwen3.5-9B"], limits["Qwen3.5-27B"]) == (
        81_920,
        65_536,
        192_000,
        192_000,
    )
    for name, model in settings.models.items():
        assert (
            model.sampling.temperature
            == model.evaluation.temperature
            == (1.0 if name.startswith("Qwen3.5") else 0.6)
        )
        assert (
            model.sampling.samples,
            model.evaluation.samples,
            model.sampling.max_new_tokens,
        ) == (16, None, 32_768)
    assert (
        settings.prompts["math"].template.replace("{problem}", "2+2?").endswith("within \\boxed{}.")
    )


# ------------------------------------------------------------------------------------------- errors


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(flows.recipes.paper, "FOLDER", tmp_path)
    return tmp_path


def complaint(folder: Path, **changes: Any) -> str:
    tree = {
        "title": "Table 1: x",
        "source": "Sec. 1, Table 1",
        "benchmarks": ["AIME24"],
        "rows": [{"key": "ce", "label": "CE", "values": {"AIME24": 1.0}}],
        "findings": ["x"],
        "settings": {"lr": {"value": 1e-6, "section": "Sec. 4.1"}},
    }
    (folder / "table1.yaml").write_text(yaml.safe_dump(tree | changes))
    with pytest.raises(ValueError) as caught:
        load_paper("table1")
    assert not isinstance(caught.value, ValidationError)
    return str(caught.value)


def test_what_is_wrong_with_a_file_is_said_with_its_place(folder: Path) -> None:
    row = {"key": "ce", "label": "CE", "values": {"AIME24": 1.0}}
    assert "row /ce appears twice" in complaint(folder, rows=[row, row])
    assert "row /ce: ['AIME25'] are not columns" in complaint(
        folder, rows=[row | {"values": {"AIME25": 1.0}}]
    )
    assert "rows.0.key" in complaint(folder, rows=[row | {"key": "CE + Distill"}])
    assert "rows.0.values.AIME24" in complaint(folder, rows=[row | {"values": {"AIME24": "high"}}])
    assert "settings.lr.section" in complaint(folder, settings={"lr": {"value": 1e-6}})
    assert all(message.startswith("table1.yaml: ") for message in [complaint(folder, note="x")])


def test_broken_yaml_is_named(folder: Path) -> None:
    (folder / "table1.yaml").write_text("title: [")
    with pytest.raises(ValueError, match=r"table1\.yaml: broken YAML: .*line"):
        load_paper("table1")


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"no 'table13' here; choose one of: fig4, .*table12"):
        load_paper("table13")
    with pytest.raises(ValueError, match=r"0 rows have key 'dpo' .*NBG4-3B/min"):
        load_paper("table12").row("dpo")
    with pytest.raises(ValueError, match="2 rows have key 'min'"):
        load_paper("table12").row("min")
    with pytest.raises(ValueError, match="the paper has no model 'GPT-2'"):
        load_paper_settings().model("GPT-2")
    assert isinstance(load_paper("table12").row("min", "NBG4-3B"), PaperRow)


def test_a_table_is_frozen() -> None:
    table: PaperTable = load_paper("table1")
    with pytest.raises(ValidationError):
        table.title = "mine"  # type: ignore[misc]


# --------------------------------------------------------------------- recipes at the paper's scale


def at_scale() -> list[tuple[str, CampaignConfig]]:
    """The recipe `paper`, and every arm of every study at the paper's scale."""
    arms = [
        arm
        for name in recipe_names()
        if is_study(name)
        for arm in load_study(name, ["scale=paper"]).arms
    ]
    return [("paper", load_recipe("paper")), *((arm.config.name, arm.config) for arm in arms)]


@pytest.mark.parametrize(("name", "config"), at_scale())
def test_recipes_at_the_papers_scale_say_what_the_paper_says(
    name: str, config: CampaignConfig
) -> None:
    settings = load_paper_settings()
    model = next(
        candidate
        for candidate in settings.models.values()
        if candidate.id == getattr(config.model, "id", None)
    )
    assert (config.sampling.samples, config.sampling.temperature) == (
        model.sampling.samples,
        model.sampling.temperature,
    )
    assert config.sampling.max_new_tokens == model.sampling.max_new_tokens
    for sampling in (config.evaluation.sampling, config.evaluation.validation_sampling):
        assert (sampling.temperature, sampling.top_p) == (
            model.evaluation.temperature,
            model.evaluation.top_p,
        )
        assert sampling.max_new_tokens == model.evaluation.max_new_tokens
    known = {benchmark.id: (benchmark, key) for key, benchmark in settings.benchmarks.items()}
    benchmarks = {slug: concrete(source) for slug, source in config.evaluation.benchmarks.items()}
    prompts, validation = concrete(config.prompts), concrete(config.evaluation.validation)
    paper_prompts = settings.prompts["code" if prompts.extractor == "code" else "math"]
    assert prompts.id == paper_prompts.id and prompts.count == settings.prompts["math"].count  # type: ignore[union-attr]
    for slug, source in benchmarks.items():
        benchmark, key = known[source.id]  # type: ignore[union-attr]
        assert slug.replace("-", " ") == key and source.split == benchmark.split  # type: ignore[union-attr]
        # for LiveCodeBench the paper gives no number
        paper_k = benchmark.samples or config.evaluation.sampling.samples
        assert config.evaluation.samples.get(slug, config.evaluation.sampling.samples) == paper_k
    assert validation.id == next(  # type: ignore[union-attr]
        benchmark.id for benchmark in settings.benchmarks.values() if benchmark.validation
    )
    for source in (
        source
        for source in (prompts, validation, *benchmarks.values())
        if source.extractor != "code"
    ):
        assert r"\boxed{}" in source.template and "{{" not in source.template
