"""Problems: seeded draws, every file format, faults placed by file and row, disjoint splits."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import context

from erpd_core.config import FileProblems, GymProblems, TinyProblems
from tasks.datasets import draw_problems, load_problems, read_problems
from tasks.execution.stage import get_or_compute
from tasks.store import Store

ROWS = [{"problem": f"{n} + {n}?", "answer": str(2 * n)} for n in range(1, 21)]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def comma(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path, seed: int = 0, **more: Any) -> list[Any]:
    return read_problems(FileProblems(path=str(path), **more), seed)


def complaint(path: Path, **more: Any) -> str:
    with pytest.raises(ValueError) as caught:
        draw_problems("problems", FileProblems(path=str(path), **more), 0)
        read(path, **more)
    message = str(caught.value)
    assert path.name in message and "\n" not in message
    return message


# -------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("name", "write"), [("p.jsonl", jsonl), ("p.csv", comma), ("p.parquet", table)]
)
def test_every_format_gives_the_same_problems(tmp_path: Path, name: str, write):
    problems = read(write(tmp_path / name, ROWS))
    assert [(problem.prompt, problem.answer) for problem in problems] == [
        (row["problem"], row["answer"]) for row in ROWS
    ]
    assert len({problem.id for problem in problems}) == len(ROWS)


def test_columns_template_and_ids_are_taken_as_asked(tmp_path: Path):
    path = jsonl(
        tmp_path / "p.jsonl", [{"q": "1+1", "a": 2, "id": "x"}, {"q": "2+2", "a": 4, "id": "y"}]
    )
    problems = read(path, problem_column="q", answer_column="a", template="Q: {problem}\nA:")
    assert [(problem.id, problem.prompt, problem.answer) for problem in problems] == [
        ("x", "Q: 1+1\nA:", "2"),
        ("y", "Q: 2+2\nA:", "4"),
    ]


def test_a_template_keeps_braces_of_latex(tmp_path: Path):
    path = jsonl(tmp_path / "p.jsonl", [{"problem": r"\frac{1}{2} {problem}", "answer": "0.5"}])
    assert (
        read(path, template=r"{problem} in \boxed{}")[0].prompt
        == r"\frac{1}{2} {problem} in \boxed{}"
    )


def test_the_reasoning_of_a_gsm8k_answer_is_left_out(tmp_path: Path):
    path = jsonl(
        tmp_path / "p.jsonl",
        [
            {"problem": "a", "answer": "2 + 2 = 4 <<2+2=4>>\nso\n#### 1,234"},
            {"problem": "b", "answer": " 5 "},
        ],
    )
    assert [problem.answer for problem in read(path)] == ["1,234", "5"]


def test_ids_that_repeat_are_replaced_so_that_problems_stay_apart(tmp_path: Path):
    path = jsonl(tmp_path / "p.jsonl", [{**row, "id": "same"} for row in ROWS])
    assert len({problem.id for problem in read(path)}) == len(ROWS)


def test_blank_lines_are_no_problems(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text('\n{"problem": "a", "answer": "1"}\n\n')
    assert len(read(path)) == 1


def test_a_draw_belongs_to_its_seed(tmp_path: Path):
    path = jsonl(tmp_path / "p.jsonl", ROWS)
    first, again, other = read(path, 1, count=8), read(path, 1, count=8), read(path, 2, count=8)
    assert first == again and len(first) == 8
    assert {problem.prompt for problem in first} != {problem.prompt for problem in other}
    assert len({problem.prompt for problem in first}) == 8


def test_the_source_seed_wins_over_the_campaigns(tmp_path: Path):
    path = jsonl(tmp_path / "p.jsonl", ROWS)
    pinned = FileProblems(path=str(path), count=8, seed=5)
    assert draw_problems("a", pinned, 1).identity() == draw_problems("a", pinned, 2).identity()
    assert (
        draw_problems("a", FileProblems(path=str(path), count=8), 5).identity()
        == draw_problems("a", pinned, 1).identity()
    )


# ------------------------------------------------------------------------------------------- faults


def test_a_file_that_is_not_there(tmp_path: Path):
    assert "is not there" in complaint(tmp_path / "nope.jsonl")


def test_a_line_that_is_not_json_is_placed(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"problem": "a", "answer": "1"}\n{"problem": \n')
    assert "line 2" in complaint(path)


def test_a_line_that_is_no_object_is_placed(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"problem": "a", "answer": "1"}\n\n[1, 2]\n')
    assert "line 3" in complaint(path)


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "a"},
        {"problem": "a", "answer": None},
        {"problem": "a", "answer": ""},
        {"problem": "", "answer": "1"},
    ],
)
def test_a_row_without_problem_or_answer_is_placed(tmp_path: Path, row: dict[str, Any]):
    message = complaint(jsonl(tmp_path / "p.jsonl", [ROWS[0], ROWS[1], row]))
    assert "row 3" in message and ("answer" in message or "problem" in message)


def test_a_wrong_column_name_lists_the_columns(tmp_path: Path):
    message = complaint(jsonl(tmp_path / "p.jsonl", ROWS), problem_column="question")
    assert "question" in message and "'problem'" in message


def test_too_few_problems(tmp_path: Path):
    message = complaint(jsonl(tmp_path / "p.jsonl", ROWS), count=21)
    assert "21" in message and "20" in message


def test_an_empty_file(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text("")
    assert "no problems" in complaint(path)


def test_a_file_that_is_no_parquet(tmp_path: Path):
    path = tmp_path / "p.parquet"
    path.write_bytes(b"not parquet at all")
    complaint(path)


def test_a_parquet_file_that_unpacks_to_far_more_than_it_is(tmp_path: Path):
    """Every row refers to one long text of a dictionary: the file is under a kilobyte."""
    path, text = tmp_path / "p.parquet", "x" * (1 << 20)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 400, pa.int32()), pa.array([text]))
    pq.write_table(pa.table({"problem": column, "answer": column}), path, compression="zstd")
    assert path.stat().st_size < 10_000
    assert "64 times its size" in complaint(path)


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv"])
def test_bytes_that_are_not_utf8(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(b'problem,answer\n{"problem": "\xff\xfe"}\n')
    complaint(path)


def test_a_csv_row_with_too_many_fields_is_placed(tmp_path: Path):
    path = tmp_path / "p.csv"
    path.write_text("problem,answer\na,1\nb\n")
    assert "row 2" in complaint(path)
    path.write_text("problem,answer\na,1\n,2,3,4\n")
    assert "row 2" in complaint(path)


# ------------------------------------------------------------------------------------------- splits


def numbers_of(problem: Any) -> tuple[int, ...]:
    return tuple(sorted(int(n) for n in problem.prompt.rstrip("=").split("+")))


def test_the_splits_of_the_tiny_world_share_no_problem_through_the_stage(tmp_path: Path):
    here = context(Store(tmp_path))
    drawn = {}
    for split in ("train", "validation", "test"):
        for seed in (0, 1):
            ref = get_or_compute(
                draw_problems(split, TinyProblems(split=split, count=400), seed), here
            )
            problems = load_problems(here.store, ref)
            assert ref.count == len(problems) == 400 == len({problem.id for problem in problems})
            assert ref.extractor == "hash"
            drawn.setdefault(split, set()).update(numbers_of(problem) for problem in problems)
    assert not drawn["train"] & drawn["validation"]
    assert not drawn["train"] & drawn["test"]
    assert not drawn["validation"] & drawn["test"]


def test_a_problem_list_reads_back_as_it_was_drawn(tmp_path: Path):
    here = context(Store(tmp_path / "store"))
    path = jsonl(tmp_path / "p.jsonl", [{"problem": "é \u2028 ∑", "answer": "½"}, *ROWS])
    ref = get_or_compute(draw_problems("mine", FileProblems(path=str(path)), 0), here)
    assert load_problems(here.store, ref) == read(path)


class TestGym:
    @pytest.fixture(autouse=True)
    def _needs_reasoning_gym(self) -> None:
        pytest.importorskip(
            "reasoning_gym", reason="reasoning-gym is not installed (pip install -e '.[problems]')"
        )

    def source(self, split: str, **more: Any) -> GymProblems:
        return GymProblems(
            family="chain_sum",
            split=split,
            count=40,
            params={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
            **more,
        )

    def test_splits_share_no_question(self):
        prompts = {
            split: {problem.prompt for problem in read_problems(self.source(split), 3)}
            for split in ("train", "validation", "test")
        }
        assert all(len(questions) == 40 for questions in prompts.values())
        assert (
            not prompts["train"] & prompts["test"]
            and not prompts["train"] & prompts["validation"]
            and not prompts["validation"] & prompts["test"]
        )

    def test_a_draw_belongs_to_its_seed(self):
        assert read_problems(self.source("train"), 3) == read_problems(self.source("train"), 3)
        assert read_problems(self.source("train"), 3) != read_problems(self.source("train"), 4)

    @pytest.mark.parametrize("params", [{}, {"no_such_thing": 1}])
    def test_an_unknown_family_or_parameter_is_named(self, params: dict[str, int]):
        family = "chain_sum" if params else "no_such_family"
        with pytest.raises(ValueError, match="no_such") as caught:
            read_problems(GymProblems(family=family, params=params), 0)
        assert family in str(caught.value)

    def test_too_few_different_questions(self):
        with pytest.raises(ValueError, match="different questions"):
            read_problems(
                GymProblems(
                    family="chain_sum",
                    count=5000,
                    params={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
                ),
                0,
            )
