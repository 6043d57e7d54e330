"""The catalogue, the sources that names resolve to, and code problems in their published forms."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from erpd_core.config import FileProblems, GymProblems, HubProblems, NamedProblems, TinyProblems
from tasks.datasets import (
    benchmark_from_text,
    catalogue,
    concrete,
    draw_problems,
    read_problems,
    samples_of,
)
from tasks.datasets.catalogue import entry
from tasks.grading import grade_one, open_grader

SHARED = Path(__file__).parents[3] / "shared" / "data"


def complaint(name: str, **more: Any) -> str:
    with pytest.raises(ValueError) as caught:
        draw_problems("x", NamedProblems(name=name, **more), 0)
    return str(caught.value)


# ---------------------------------------------------------------------------------------- catalogue


def test_every_entry_is_a_source_that_says_what_it_is():
    for name, listed in catalogue().items():
        assert listed.about and "{problem}" in listed.source.template, name
        code = getattr(listed.source, "reader", "plain") != "plain"
        assert (listed.source.extractor == "code") == code, name
        assert listed.use == "training" or listed.source.split in ("test", "train"), name


def test_names_are_found_however_they_are_written():
    assert entry("hmmt feb 25") is entry("HMMT-Feb-25") is entry("HMMT_FEB_25")
    with pytest.raises(ValueError, match=r"'AIME26'; did you mean .*AIME2"):
        entry("AIME26")
    assert (
        samples_of("BeyondAIME"),
        samples_of("imo answerbench"),
        samples_of("aime24"),
        samples_of("mine.jsonl"),
    ) == (16, 4, 32, None)


def test_what_a_benchmark_may_be_called_on_the_command_line(tmp_path: Path):
    assert benchmark_from_text("tiny", None) == TinyProblems(split="test", count=200)
    assert benchmark_from_text("some/where.csv", 3) == FileProblems(path="some/where.csv", count=3)
    assert benchmark_from_text("gym:chain_sum", 5) == GymProblems(
        family="chain_sum", split="test", count=5
    )
    asked = concrete(benchmark_from_text("AIME25", 7))
    assert isinstance(asked, HubProblems) and (asked.id, asked.count) == ("MathArena/aime_2025", 7)
    with pytest.raises(ValueError, match=r"'nothing'.*erpd benchmarks.*gym:FAMILY"):
        benchmark_from_text("nothing", None)


def test_what_the_recipe_says_wins_over_the_catalogue():
    asked = concrete(
        NamedProblems(
            name="GSM8K",
            split="train",
            template="Q: {problem}",
            extractor="boxed",
            revision="v1",
            count=3,
            seed=9,
        )
    )
    expected = HubProblems(
        id="openai/gsm8k",
        revision="v1",
        split="train",
        files=("main/{split}-*.parquet",),
        problem_column="question",
        template="Q: {problem}",
        extractor="boxed",
        count=3,
        seed=9,
    )
    assert asked == expected
    assert concrete(NamedProblems(name="gym gcd", split="train")) == GymProblems(
        family="gcd", split="train"
    )


def test_what_means_nothing_to_a_set_is_refused():
    assert "generated" in complaint("gym-gcd", revision="v1")
    assert "revision" in complaint("AIME24", path="mine.jsonl", revision="v1")
    assert "is not there" in complaint("AIME24", path="mine.jsonl")
    with pytest.raises(ValueError, match="template"):
        NamedProblems(name="AIME24", template="no place")


def test_the_original_of_imo_answerbench_is_read_as_it_is_published(tmp_path: Path):
    path = tmp_path / "answerbench_v2.csv"
    path.write_text(
        '\ufeffProblem ID,Problem,Short Answer,Category\nimo-1,"Find $x$,\n$x=2$.",$2$,Algebra\n',
        encoding="utf-8",
    )
    (problem,) = read_problems(NamedProblems(name="IMO-AnswerBench", path=str(path)), 0)
    assert (problem.prompt, problem.answer) == (
        "Put your final answer within \\boxed{}.\n\nFind $x$,\n$x=2$.",
        "$2$",
    )


def test_gym_families_of_the_catalogue_can_be_graded():
    pytest.importorskip(
        "reasoning_gym", reason="reasoning-gym is not installed (pip install -e '.[problems]')"
    )
    for name, listed in catalogue().items():
        if isinstance(listed.source, GymProblems):
            for problem in read_problems(NamedProblems(name=name, count=20), 0):
                assert (
                    grade_one(problem.answer, f"It is \\boxed{{{problem.answer}}}.") == "correct"
                ), (name, problem)


@pytest.mark.skipif(
    not SHARED.is_dir(), reason="the shared data (../shared/data) is not next to this checkout"
)
def test_real_sets_are_read_whole():
    for name, file, more in (
        (
            "GSM8K-train",
            "gsm8k_train.jsonl",
            {"problem_column": "problem", "answer_column": "solution"},
        ),
        ("SVAMP", "svamp.jsonl", {"problem_column": "problem", "answer_column": "answer"}),
        (
            "IMO-AnswerBench",
            "imo_answerbench_half.jsonl",
            {"problem_column": "problem", "answer_column": "answer"},
        ),
    ):
        rows = [
            json.loads(line)
            for line in (SHARED / file).read_text(encoding="utf-8").split("\n")
            if line
        ]
        problems = read_problems(NamedProblems(name=name, path=str(SHARED / file), **more), 0)
        assert [problem.answer.replace(",", "") for problem in problems] == [
            str(row["answer"]).strip().replace(",", "") for row in rows
        ], name


# --------------------------------------------------------------------------------------------- code


def packed(tests: list[dict[str, str]]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


def lcb_row(**more: Any) -> dict[str, Any]:
    public, private = (
        [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}],
        [{"input": "2 2\n", "output": "4\n", "testtype": "stdin"}],
    )
    row = {
        "question_id": "abc300_a",
        "question_content": "Add two numbers.",
        "starter_code": "",
        "metadata": "{}",
        "difficulty": "easy",
    }
    return {
        **row,
        "public_test_cases": json.dumps(public),
        "private_test_cases": packed(private),
        **more,
    }


def lcb(path: Path, *rows: dict[str, Any]) -> list[Any]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_problems(NamedProblems(name="LiveCodeBench-v6-only", path=str(path)), 0)


def test_a_row_of_livecodebench_is_its_wording_and_all_its_tests(tmp_path: Path):
    plain = [{"input": "2 2\n", "output": "4\n", "testtype": "stdin"}]
    for private in (packed(plain), json.dumps(plain)):
        (problem,) = lcb(tmp_path / "test6.jsonl", lcb_row(private_test_cases=private))
        assert problem.id == "abc300_a"
        assert json.loads(problem.answer) == {
            "inputs": ["1 2\n", "2 2\n"],
            "outputs": ["3\n", "4\n"],
        }
        assert (
            "### Question:\nAdd two numbers.\n\n### Format: Read the inputs from stdin"
            in problem.prompt
        )
        assert problem.prompt.endswith(
            "```python\n# YOUR CODE HERE\n```\n\n### Answer: (use the provided format with "
            "backticks)\n\n"
        )


def test_a_function_of_livecodebench_has_its_name_and_starter(tmp_path: Path):
    tests = json.dumps([{"input": "[1, 2]", "output": "3", "testtype": "functional"}])
    row = lcb_row(
        public_test_cases=tests,
        private_test_cases="[]",
        starter_code="class Solution:\n    def add(self, a):\n        ",
        metadata='{"func_name": "add"}',
    )
    (problem,) = lcb(tmp_path / "test6.jsonl", row)
    assert json.loads(problem.answer) == {"inputs": ["[1, 2]"], "outputs": ["3"], "fn_name": "add"}
    assert "starter code" in problem.prompt and "def add(self, a):\n        \n```" in problem.prompt


def test_programs_are_graded_by_the_tests_that_were_drawn(tmp_path: Path):
    (problem,) = lcb(tmp_path / "test6.jsonl", lcb_row())
    right, wrong = (
        f"```python\na, b = map(int, input().split())\nprint(a {sign} b)\n```" for sign in "+-"
    )
    with open_grader("code") as grader:
        assert grader.grade_many([(problem.answer, right), (problem.answer, wrong)], "code") == [
            "correct",
            "wrong",
        ]


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("/nowhere"),)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {
                "private_test_cases": base64.b64encode(
                    zlib.compress(pickle.dumps(Harmful()))
                ).decode()
            },
            "must hold one string",
        ),
        (
            {"private_test_cases": base64.b64encode(zlib.compress(b"junk")).decode()},
            "must hold one string",
        ),
        ({"private_test_cases": "no base64!"}, "neither JSON nor base64"),
        ({"private_test_cases": '[{"input": "1"}]'}, "are not a list of"),
        ({"metadata": "[]"}, "not what LiveCodeBench publishes"),
        ({"public_test_cases": "[1"}, "neither JSON nor base64"),
    ],
)
def test_what_is_wrong_with_a_code_row_is_placed_and_never_run(
    tmp_path: Path, more: dict[str, Any], said: str
):
    with pytest.raises(ValueError, match=said) as caught:
        lcb(tmp_path / "test6.jsonl", lcb_row(), lcb_row(**more))
    assert "test6.jsonl, row 2" in str(caught.value) and "\n" not in str(caught.value)


def test_code_prompts_with_unit_tests_as_json(tmp_path: Path):
    path = tmp_path / "train.jsonl"
    rows = [
        {
            "query_id": "q1",
            "prompt": "Print 1.",
            "input_output": json.dumps({"inputs": [""], "outputs": ["1"], "fn_name": None}),
        },
        {
            "query_id": "q2",
            "prompt": "Add.",
            "input_output": {"inputs": ["[1]\n[2]"], "outputs": ["[3]"], "fn_name": "add"},
        },
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = read_problems(NamedProblems(name="AReaL-boba-2-RL-Code", path=str(path)), 0)
    assert [problem.id for problem in problems] == ["q1", "q2"]
    assert [json.loads(problem.answer).get("fn_name") for problem in problems] == [None, "add"]
    path.write_text(
        json.dumps(rows[0])
        + "\n"
        + json.dumps({**rows[1], "input_output": '{"inputs": []}'})
        + "\n"
    )
    with pytest.raises(ValueError, match=r"train\.jsonl, row 2: unit_tests need"):
        read_problems(NamedProblems(name="AReaL-boba-2-RL-Code", path=str(path)), 0)


def test_only_the_tests_of_drawn_problems_are_unpacked(tmp_path: Path):
    """A draw does not need the tests of problems it leaves out: a set's tests are gigabytes."""
    path = tmp_path / "test6.jsonl"
    rows = [
        lcb_row(question_id=f"q{n}", private_test_cases="[]" if n else "broken") for n in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = {
        problem.id
        for seed in range(30)
        if (problems := _draw_one(path, seed))
        for problem in problems
    }
    assert drawn == {f"q{n}" for n in range(1, 6)}


def _draw_one(path: Path, seed: int) -> list[Any] | None:
    try:
        return read_problems(
            NamedProblems(name="LiveCodeBench-v6-only", path=str(path), count=1), seed
        )
    except ValueError as error:
        assert "row 1" in str(error)
        return None


def test_a_directory_of_files_is_one_set_in_order_of_names(tmp_path: Path):
    for name, id in (("test.jsonl", "a"), ("test2.jsonl", "b"), ("readme.txt", "c")):
        (tmp_path / name).write_text(json.dumps(lcb_row(question_id=id)) + "\n")
    problems = read_problems(NamedProblems(name="LiveCodeBench-v6", path=str(tmp_path)), 0)
    assert [problem.id for problem in problems] == ["a", "b"]
