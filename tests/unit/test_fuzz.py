"""Readers on random input: they return, or raise the program's input error in one line.

They never raise another exception and never hang. `HYPOTHESIS_PROFILE=long` tries a hundred times
as many examples.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch  # noqa: F401 (reading safetensors imports it, which takes longer than a case may)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erpd_core.config import FileProblems
from flows.recipes.load import apply_overrides, config_of, load_recipe, read_tree, recipe_path
from tasks.datasets import read_problems
from tasks.grading.code.cases import livecodebench_tests, read_tests
from tasks.grading.code.files import read_code_rows
from tasks.grading.extract import extract
from tasks.grading.fast import quick_verdict
from tasks.grading.files import read_rows, write_rows
from tasks.grading.normalize import balance_braces, drop_approximation, strip_delimiters, unify
from tasks.models.model_check import weights
from tasks.registry.database import _dumps
from tasks.store.manifest import Manifest
from tasks.untrusted.yaml_files import read_yaml

FEW = 40
TENSOR = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
settings.register_profile(
    "long", max_examples=100 * FEW, deadline=5000, suppress_health_check=list(HealthCheck)
)
settings.register_profile(
    "small", max_examples=FEW, deadline=5000, suppress_health_check=list(HealthCheck)
)
PROFILE = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "small"))

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
YAML = st.text(alphabet="ab01:-[]{}&*!|>'\"#%@,?~.eE+_ \n\t<=", max_size=60) | st.text(max_size=40)
TAGGED = st.builds(
    "a: !!{} {}".format,
    st.sampled_from(["bool", "int", "float", "timestamp", "binary", "null", "set", "omap"]),
    YAML,
)
LATEX = st.lists(
    st.sampled_from(
        [
            r"\frac",
            r"\boxed",
            "{",
            "}",
            "$",
            r"\(",
            r"\)",
            "1",
            "x",
            "^",
            "_",
            "%",
            "####",
            r"\text",
            " ",
            "\n",
            "-",
            "\\",
        ]
    ),
    max_size=25,
).map("".join) | st.text(max_size=40)
LINES = st.binary(max_size=60) | st.lists(VALUES, max_size=4).map(
    lambda rows: "\n".join(map(json.dumps, rows)).encode()
)


def answers(read: Callable[[], Any]) -> Any:
    """A reader's result; None if it raises the program's input error, shown as one line."""
    try:
        return read()
    except ValueError as error:
        assert str(error).strip()
        return None


def on_file(content: bytes, name: str, read: Callable[[Path], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return answers(lambda: read(path))


@PROFILE
@given(YAML | TAGGED)
def test_yaml_of_any_kind(text: str):
    answers(lambda: read_yaml(text, "here"))


@PROFILE
@given(st.binary(max_size=80) | YAML.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_recipe_files(content: bytes):
    on_file(content, "r.yaml", lambda path: load_recipe(str(path)))


@PROFILE
@given(
    st.dictionaries(
        st.sampled_from(
            ["seed", "teacher", "model", "prompts", "evaluation", "runtime", "sampling", "name"]
        ),
        VALUES,
    )
)
def test_configs_of_any_values(changes: dict[str, Any]):
    tree = read_tree(recipe_path("tiny")) | changes
    answers(lambda: config_of(tree, "mine"))


@PROFILE
@given(
    st.lists(
        YAML
        | st.builds(
            "{}={}".format, st.sampled_from(["seed", "teacher.steps", "model.kind", "a.b"]), YAML
        ),
        max_size=3,
    )
)
def test_overrides(overrides: list[str]):
    tree = read_tree(recipe_path("tiny"))
    if answers(lambda: apply_overrides(tree, overrides) or tree):
        answers(lambda: config_of(tree, "mine"))


@PROFILE
@given(
    LINES,
    st.sampled_from(["p.jsonl", "p.json", "p.csv", "p.parquet"]),
    st.sampled_from(["plain", "unit_tests", "livecodebench"]),
)
def test_problem_files(content: bytes, name: str, reader: Any):
    on_file(
        content, name, lambda path: read_problems(FileProblems(path=str(path), reader=reader), 0)
    )


@PROFILE
@given(
    st.dictionaries(st.sampled_from(["problem", "answer", "id"]), VALUES),
    st.sampled_from(["plain", "unit_tests"]),
)
def test_problem_rows(row: dict[str, Any], reader: Any):
    on_file(
        json.dumps(row).encode(),
        "p.jsonl",
        lambda path: read_problems(FileProblems(path=str(path), reader=reader), 0),
    )


@PROFILE
@given(
    LINES
    | st.builds(lambda a, b: json.dumps({"gold": a, "prediction": b}).encode(), VALUES, VALUES)
)
def test_grade_rows_that_are_read_can_be_written(content: bytes):
    rows = on_file(content, "g.jsonl", read_rows)
    if rows:
        with tempfile.TemporaryDirectory() as folder:
            write_rows(Path(folder) / "out.jsonl", rows)
            again = (Path(folder) / "out.jsonl").read_text(encoding="utf-8").splitlines()
    on_file(content, "c.jsonl", read_code_rows)
    assert not rows or len(again) >= len(rows)


@PROFILE
@given(
    st.fixed_dictionaries({"inputs": VALUES, "outputs": VALUES}, optional={"fn_name": VALUES})
    | VALUES
)
def test_unit_tests(tests: Any):
    answers(lambda: read_tests(tests))
    answers(lambda: read_tests(json.dumps(tests)))


@PROFILE
@given(st.text(max_size=40), st.text(max_size=40))
def test_packed_tests(public: str, private: str):
    answers(
        lambda: livecodebench_tests({"public_test_cases": public, "private_test_cases": private})
    )


@PROFILE
@given(LATEX, LATEX, st.sampled_from(["auto", "boxed", "hash"]))
def test_votes(gold: str, prediction: str, extractor: Any):
    for change in (unify, balance_braces, drop_approximation, strip_delimiters):
        assert isinstance(change(prediction), str)
    extract(prediction, extractor)
    if gold.strip():
        assert quick_verdict(gold, prediction, extractor) in (
            "correct",
            "wrong",
            "unparsable",
            None,
        )


@PROFILE
@given(VALUES)
def test_registry_values_are_written_as_json(value: Any):
    json.loads(_dumps(value))


@PROFILE
@given(st.binary(max_size=80) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_manifests(content: bytes):
    on_file(content, "manifest.json", lambda path: Manifest.read(path.parent))


@PROFILE
@given(
    st.integers(0, 2**64 - 1) | st.none(),
    VALUES | st.just(TENSOR),
    st.binary(max_size=16),
)
def test_safetensors_headers(length: int | None, header: Any, body: bytes):
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if length is None else length) + text + body
    on_file(content, "model.safetensors", lambda path: weights(path.parent))


def test_half_a_character_is_written_as_it_was_read(tmp_path: Path):
    rows = [{"gold": "1", "prediction": "\ud800"}, {"gold": "é", "prediction": "1"}]
    write_rows(tmp_path / "out.jsonl", rows)
    assert read_rows(tmp_path / "out.jsonl") == rows
