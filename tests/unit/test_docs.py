"""What the documents say exists does: links, paths, names, keys, commands, defaults, and the grader's examples."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from pydantic import BaseModel

from erpd_core.batch import TokenBatch
from erpd_core.config import CampaignConfig, SignalSpec
from erpd_core.losses import LOSSES, LossInputs, Totals
from erpd_core.online import fresh_record
from erpd_core.optimize import StepStatistics
from erpd_core.refs import EvalReport
from flows.recipes import load_recipe
from flows.studies import is_study, load_study
from tasks.online import OnlineLoop

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs" / "paper_index.md"
GRADING = ROOT / "docs" / "grading.md"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("erpd_core", "tasks", "flows", "deployments")
PATH = re.compile(rf"(?:{'|'.join((*PACKAGES, 'tests', 'docs', 'scripts', 'benchmarks', 'docker'))})/[\w./*-]*")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"(`+)(.+?)\1")
NOTHING = "–"


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def fences(path: Path) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return FENCE.findall(path.read_text(encoding="utf-8"))


def spans(path: Path) -> list[str]:
    """The code spans of a document outside its fenced blocks, each once."""
    return list(dict.fromkeys(content.strip() for _, content in SPAN.findall(prose(path))))


def commands(path: Path, program: str) -> list[list[str]]:
    """Every command of `program` in code spans and shell blocks, as words without comments."""
    shell = [line for language, block in fences(path) if language in ("bash", "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in (*spans(path), *shell) if line.startswith(f"{program} ")]


def rows(path: Path, *columns: str) -> Iterator[list[str]]:
    """The rows of every table of a document whose header has exactly these columns."""
    header: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not header:
            header = cells
        elif header == list(columns) and not set("".join(cells)) <= set("-: "):
            assert len(cells) == len(columns), f"{path.name}: a row of {len(cells)} cells under {len(columns)} columns: {line}"
            yield cells


# ------------------------------------------------------------------------------------------------------------- Python names


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def names_in(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """What a module's or class's body defines or imports, by name."""
    found: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
        elif isinstance(node, ast.Assign):
            found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
    return found


def python_name_exists(name: str) -> bool:
    """`package.module.symbol.attribute`, read from the source: nothing is imported, so heavy modules cost nothing."""
    folder, parts = ROOT, name.split(".")
    while parts and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    path = folder / f"{parts[0]}.py" if parts and (folder / f"{parts[0]}.py").is_file() else folder / "__init__.py"
    symbols = parts[1:] if path.name != "__init__.py" else parts
    if not path.is_file():
        return False
    body = tree(path).body
    for index, symbol in enumerate(symbols):
        node = names_in(body).get(symbol)
        if isinstance(node, ast.ImportFrom) and node.module:
            return python_name_exists(".".join([node.module, *symbols[index:]]))
        if node is None:
            return False
        body = getattr(node, "body", [])
    return True


# ------------------------------------------------------------------------------------------------------------------ config


def models(annotation: Any) -> list[type[BaseModel]]:
    """The config classes an annotation may hold: through Optional, unions, tuples and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) if not isinstance(inner, str) for model in models(inner)]


def config_fields(key: str) -> list[Any]:
    """The pydantic fields a key such as `teacher.loss.beta` may mean; none when there is no such key."""
    here: list[type[BaseModel]] = [CampaignConfig]
    found: list[Any] = []
    for part in key.split("."):
        found = [model.model_fields[part] for model in here if part in model.model_fields]
        here = [model for field in found for model in models(field.annotation)]
    return found


def value_at(config: BaseModel, key: str) -> Any:
    """The value of a key, or None where this config has none (a key of another loss, say)."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


@cache
def plain() -> CampaignConfig:
    """A config that says nothing it need not say: its values are the defaults."""
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
    return config_fields(key)[0].get_default(call_default_factory=True) if value is None and config_fields(key) else value


@cache
def config_words() -> frozenset[str]:
    """Top-level keys and every word that is a value somewhere in a recipe."""

    def words(schema: Any) -> Iterator[str]:
        if isinstance(schema, dict):
            yield from (word for word in (*schema.get("enum", ()), schema.get("const")) if isinstance(word, str))
            for inner in schema.values():
                yield from words(inner)
        elif isinstance(schema, list):
            for inner in schema:
                yield from words(inner)

    return frozenset(words(CampaignConfig.model_json_schema())) | set(CampaignConfig.model_fields)


@cache
def record_keys() -> frozenset[str]:
    """Every key that a step's record can have, from real losses on two tokens."""
    config: dict[str, Any] = {field.default: model for model in _loss_models() for field in [model.model_fields["kind"]]}
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
    """Keys that only a step of on-policy training has: those of its fresh batch, and those that `OnlineLoop` writes out."""
    batch = TokenBatch.build(prompts=[[1]], responses=[[1]], groups=[0], rewards=[1])
    written = re.findall(r'^ +"(\w+)": ', inspect.getsource(OnlineLoop), re.MULTILINE)
    return {*fresh_record(batch, torch.zeros(1), torch.zeros(1), torch.zeros(1)), *written}


def _loss_models() -> list[type[BaseModel]]:
    return [model for key in ("teacher.loss", "distill.loss") for field in config_fields(key) for model in models(field.annotation)]


# ------------------------------------------------------------------------------------------------------------ the documents


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_resolve(document: Path) -> None:
    broken = []
    for target in LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert not broken, f"{document.name} links to what is not there: {broken}"


def anchors(path: Path) -> set[str]:
    """The anchors GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_of_the_repository_in_code_spans_exist(document: Path) -> None:
    missing = [span for span in spans(document) if PATH.fullmatch(span) and not path_exists(span)]
    assert not missing, f"{document.name} names paths that are not there: {missing}"


def path_exists(span: str) -> bool:
    """In the tree, or one that a user makes and git ignores (`docker/.env`)."""
    if "*" in span:
        return any(ROOT.glob(span))
    return (ROOT / span).exists() or subprocess.run(["git", "check-ignore", "-q", span], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_make_targets_exist(document: Path) -> None:
    from deployments.cli import app

    known = set(typer.main.get_command(app).commands)
    wrong = [words for words in commands(document, "erpd") if re.fullmatch(r"[a-z-]+", words[1]) and words[1] not in known]
    assert not wrong, f"{document.name}: the command line has only {sorted(known)}"
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wrong = [words for words in commands(document, "make") if words[1] not in targets]
    assert not wrong, f"{document.name}: the Makefile has only {sorted(targets)}"


def test_readme_names_commands() -> None:
    assert {"run", "recipes", "show", "eval", "grade", "report", "doctor"} <= {words[1] for words in commands(DOCUMENTS[0], "erpd")}


# -------------------------------------------------------------------------------------------------------------- paper index


SIDES = r"(teacher|weak)(@\d+)?|unlearned|student:\d+|old|base|none|live"


def what_is_wrong(span: str) -> str | None:
    """Why a code span of the paper index does not name something that exists; None when it does."""
    if span.startswith(("erpd ", "make ")):
        return None  # checked as commands
    if "/" in span:
        return None if path_exists(span) else "no such path"
    first, _, rest = span.partition(".")
    if first in PACKAGES:
        return None if python_name_exists(span) else "no such Python name"
    if first == "record" and rest:
        return None if rest in record_keys() else f"no such key in a step's record: {sorted(record_keys())}"
    if first == "report" and rest:
        return None if rest in EvalReport.model_fields else f"no such key in a report: {sorted(EvalReport.model_fields)}"
    if span in config_words() or re.fullmatch(SIDES, span) or (rest and config_fields(span)):
        return None
    return "neither a path, a Python name, a key or value of a recipe, a record or report key, nor a command"


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
        found = [number for several in re.findall(rf"{kind} ([\d, ]+)", listed) for number in re.findall(r"\d+", several)]
        assert sorted(map(int, found)) == list(range(1, last + 1)), kind
    assert [name for name in LOSSES if f"erpd_core.losses.{name}.{name}" not in spans(INDEX)] == []


def settings() -> list[list[str]]:
    return list(rows(INDEX, "what", "paper", "key", "default", "tiny", "remark"))


def agrees(cell: str, value: Any) -> bool:
    """Whether a cell of the settings tables says `value`."""
    cell = cell.strip("`")
    if isinstance(value, list | tuple):
        parts = cell.split(", ")
        return len(parts) == len(value) and all(agrees(part, item) for part, item in zip(parts, value, strict=True))
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
        for column, cell, value in zip(("default", "tiny"), (default, in_tiny), values, strict=True):
            if cell != NOTHING:
                checked += 1
                if not agrees(cell, value):
                    wrong.append(f"{what} (`{key}`), column {column}: the page says {cell}, it is {value}")
    assert not wrong, "mend the cells of docs/paper_index.md: " + "; ".join(wrong)
    assert checked > 50


@pytest.mark.slow
def test_runs_in_the_paper_index_are_valid_configs() -> None:
    runs = [words for words in commands(INDEX, "erpd") if words[1] == "run"]
    assert len(runs) > 5
    for _, _, recipe, *options in runs:
        assert options[::2] == ["--set"] * (len(options) // 2) and len(options) % 2 == 0
        (load_study if is_study(recipe) else load_recipe)(recipe, options[1::2])


# ------------------------------------------------------------------------------------------------------------------ grading


def test_examples_of_the_grading_page_get_the_verdict_it_says() -> None:
    from tasks.grading import grade_one

    examples = [cells[1:4] for cells in rows(GRADING, "convention", "gold", "prediction", "verdict")]
    assert len(examples) > 20
    unquoted = [[SPAN.sub(r"\2", cell) for cell in cells] for cells in examples]
    assert [cells for cells in unquoted if grade_one(cells[0], cells[1]) != cells[2]] == []


def test_programs_of_the_grading_page_are_python_that_imports_what_exists() -> None:
    programs = [block for language, block in fences(GRADING) if language == "bash" and "<<'END'" in block]
    assert programs
    for program in programs:
        module = ast.parse(program.partition("<<'END'\n")[2].partition("\nEND")[0])
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
                assert all(python_name_exists(f"{node.module}.{alias.name}") for alias in node.names)


def test_python_names_are_found_where_they_are() -> None:
    assert isinstance(python_name_exists, types.FunctionType)
    assert python_name_exists("erpd_core.losses.LossInputs.per_sequence")
    assert python_name_exists("flows.iteration.IterationResult.seconds")
    assert not python_name_exists("erpd_core.losses.LossInputs.nothing")
