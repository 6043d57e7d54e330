"""Votes of responses: right ones together, wrong ones by meaning, none without an answer."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from erpd_core.refs import PolicyRef, Problem, ProblemsRef, RolloutRef
from erpd_core.scoring import majority_at_k
from tasks.evaluation.votes import Responses, read_responses
from tasks.grading import Grader
from tasks.rollouts import SCHEMA, outcomes
from tasks.store import Store

BOX = "so it is \\boxed{%s}."


def graded(
    folder: Path, said: dict[str, tuple[str, list[str]]], extractor: str = "auto"
) -> tuple[Store, RolloutRef]:
    """Store a rollout of these texts (problem -> gold and responses), as its stage writes it.

    Verdicts come from the real grader, and each problem is a shard.
    """
    store = Store(folder)
    with store.build("problems", {"said": said}, {}, 1) as written:
        assert written is not None
        lines = [
            Problem(id=name, prompt=name, answer=gold).model_dump_json() + "\n"
            for name, (gold, _) in said.items()
        ]
        written.put("problems.jsonl", lambda path: path.write_text("".join(lines)))
        written.commit({})
    with Grader(workers=1) as grader, store.build("rollouts", {"said": said}, {}, 1) as build:
        assert build is not None
        for number, (problem, (gold, texts)) in enumerate(said.items()):
            verdicts = grader.grade_many([(gold, text) for text in texts], extractor=extractor)
            rows = [
                {
                    "problem": problem,
                    "sample": sample,
                    "prompt_tokens": [1],
                    "response_tokens": [2] * len(text),
                    "text": text,
                    "verdict": verdict,
                    "reward": float(verdict == "correct"),
                    "truncated": not text.endswith("."),
                }
                for sample, (text, verdict) in enumerate(zip(texts, verdicts, strict=True))
            ]
            table = pa.Table.from_pylist(rows, schema=SCHEMA)
            build.put(
                f"shard-{number:05d}.parquet", lambda path, table=table: pq.write_table(table, path)
            )
        build.commit({})
    count = sum(len(texts) for _, texts in said.values())
    problems = ProblemsRef(id=written.id, name="x", count=len(said), extractor=extractor)
    return store, RolloutRef(
        id=build.id,
        policy=PolicyRef(id="policy-x"),
        problems=problems,
        samples=4,
        sequences=count,
        tokens=1,
        accuracy=0,
    )


def responses(
    folder: Path, said: dict[str, tuple[str, list[str]]], extractor: str = "auto"
) -> dict[str, Responses]:
    store, ref = graded(folder, said, extractor)
    return read_responses(store, ref, outcomes(store, ref))


def majority(problems: dict[str, Responses]) -> dict[str, float]:
    return majority_at_k(
        {name: problem.outcomes for name, problem in problems.items()},
        {name: problem.groups for name, problem in problems.items()},
    )


def test_right_answers_are_one_group_however_they_are_written(tmp_path: Path):
    problem = responses(
        tmp_path, {"p": ("1/2", [BOX % "0.5", BOX % "\\frac{1}{2}", BOX % "2/4", BOX % "3"])}
    )["p"]
    assert problem.groups[0] == problem.groups[1] == problem.groups[2] != problem.groups[3]
    assert problem.outcomes == [1, 1, 1, 0]
    assert (problem.result("b", "p").answer, problem.result("b", "p").votes) == ("0.5", 3)


def test_wrong_spellings_join_where_that_decides_who_wins(tmp_path: Path):
    """Two right, three wrong in two spellings: a tie by spelling, but the wrong win by meaning."""
    texts = [
        BOX % "7",
        BOX % "7",
        BOX % "\\frac{1}{3}",
        BOX % "\\frac{1}{3}",
        BOX % "\\frac{2}{6}",
        BOX % "5",
    ]
    problems = responses(tmp_path, {"p": ("7", texts)})
    assert problems["p"].groups[2] == problems["p"].groups[4] != problems["p"].groups[5]
    assert majority(problems) == {"p": 0}
    assert problems["p"].result("b", "p").votes == 3


@pytest.mark.slow
def test_joining_goes_through_sympy_and_from_one_to_the_next(tmp_path: Path):
    texts = [BOX % "9", BOX % "x+1", BOX % "1+x", BOX % "\\frac{2x+2}{2}", BOX % "x+2"]
    problem = responses(tmp_path, {"p": ("9", texts)})["p"]
    assert len(set(problem.groups[1:4])) == 1 and len(set(problem.groups)) == 3


def test_where_the_right_answer_leads_anyway_spellings_stay_apart(tmp_path: Path):
    """The grader is not asked, because it could not change a score."""
    texts = [BOX % "7", BOX % "7", BOX % "7", BOX % "\\frac{1}{3}", BOX % "\\frac{2}{6}"]
    problems = responses(tmp_path, {"p": ("7", texts)})
    assert len(set(problems["p"].groups)) == 3 and majority(problems) == {"p": 1}


def test_no_answer_no_vote(tmp_path: Path):
    problems = responses(tmp_path, {"p": ("7", [BOX % "7", "<think>hm</think>", BOX % "", ""])})
    assert [group is None for group in problems["p"].groups] == [False, True, True, True]
    assert majority(problems) == {"p": 1}
    row = problems["p"].result("b", "p")
    assert (row.unanswered, row.solved, row.samples, row.truncated) == (3, 1, 4, 2)
    assert row.length == sum(map(len, [BOX % "7", "<think>hm</think>", BOX % "", ""])) / 4


def test_a_problem_nobody_answered(tmp_path: Path):
    row = responses(tmp_path, {"p": ("7", ["", " "])})["p"].result("b", "p")
    assert (row.answer, row.votes, row.unanswered) == (None, 0, 2)


def test_the_tiny_worlds_answers_are_exact_strings(tmp_path: Path):
    problems = responses(
        tmp_path, {"p": ("102", ["12,9#102", "1,2#102", "12,9#92", "#"])}, extractor="hash"
    )
    assert problems["p"].answers == ["102", "102", "92", None]
    assert majority(problems) == {"p": 1}


def test_problems_of_several_shards_keep_their_order_and_their_samples(tmp_path: Path):
    texts = {name: (name, [BOX % name, BOX % "0"] * 2) for name in ("31", "12", "25")}
    problems = responses(tmp_path, texts)
    assert list(problems) == list(texts)
    assert all(
        problem.outcomes == [1, 0, 1, 0] and problem.gold == name
        for name, problem in problems.items()
    )
    assert majority(problems) == dict.fromkeys(texts, 0.5)


def test_a_later_verdict_counts_where_it_is_given(tmp_path: Path):
    """Outcomes are passed in: a judge may accept what the rules called unparsable or wrong."""
    store, ref = graded(
        tmp_path, {"p": ("impossible", [BOX % "cannot be done", BOX % "3", "I give up."])}
    )
    assert outcomes(store, ref) == {"p": [0, 0, 0]}
    problems = read_responses(store, ref, {"p": [1.0, 0.0, 0.0]})
    assert problems["p"].result("b", "p").solved == 1
    assert problems["p"].result("b", "p").answer == "cannot be done"
