"""Draws: disjoint over iterations while the pool lasts, by difficulty, without overlap."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from helpers import context

from erpd_core.config import (
    DifficultyConfig,
    FileProblems,
    GymProblems,
    OverlapConfig,
    TinyProblems,
)
from erpd_core.refs import ProblemsRef
from tasks.datasets import draw_problems, load_problems, read_problems
from tasks.datasets.overlap import find_shared, ngrams, normalized, plain_problem
from tasks.datasets.subset import draw, weight_of
from tasks.execution.stage import Context, get_or_compute
from tasks.store import Store

# --------------------------------------------------------------------------------------- iterations


def test_draws_of_one_campaign_share_nothing_until_the_pool_is_used_up():
    seeds = [11, 12, 13, 14]
    drawn = [draw(100, 30, seed, seeds[:index]) for index, seed in enumerate(seeds)]
    assert all(len(set(draws)) == 30 for draws in drawn)
    first_three = [place for draws in drawn[:3] for place in draws]
    assert len(set(first_three)) == 90
    left = set(range(100)) - set(first_three)
    assert left < set(drawn[3]), "the last ten are drawn before any is repeated"


def test_a_new_round_begins_where_the_last_one_ended():
    seeds = [1, 2, 3, 4, 5]
    drawn = [set(draw(10, 4, seed, seeds[:index])) for index, seed in enumerate(seeds)]
    assert not drawn[0] & drawn[1]
    assert set(range(10)) - drawn[0] - drawn[1] < drawn[2]
    assert not drawn[3] & drawn[2], "the third draw is not repeated at once"


def test_the_first_draw_is_what_it_was_before_there_were_others():
    import random

    assert draw(50, 7, 3) == random.Random(3).sample(range(50), 7)


def write(path: Path, rows: Iterable[dict[str, Any]]) -> FileProblems:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return FileProblems(path=str(path))


def test_earlier_draws_are_part_of_the_question_and_of_nothing_they_do_not_change(tmp_path: Path):
    source = write(
        tmp_path / "p.jsonl", ({"problem": f"p{n}", "answer": n} for n in range(30))
    ).model_copy(update={"count": 8})
    plain, later = draw_problems("a", source, 3), draw_problems("a", source, 3, earlier=[1, 2])
    assert plain.identity() != later.identity() and "earlier" not in plain.spec()
    here = context(Store(tmp_path / "store"))
    drawn = [
        {problem.id for problem in load_problems(here.store, get_or_compute(stage, here))}
        for stage in (draw_problems("a", source, 1), later)
    ]
    assert not drawn[0] & drawn[1]
    for fixed in (
        source.model_copy(update={"seed": 5}),
        source.model_copy(update={"count": None}),
        TinyProblems(),
    ):
        assert draw_problems("a", fixed, 3, earlier=[1, 2]) == draw_problems("a", fixed, 3)


def test_gym_iterations_share_no_question():
    pytest.importorskip(
        "reasoning_gym", reason="reasoning-gym is not installed (pip install -e '.[problems]')"
    )
    source = GymProblems(family="gcd", count=20)
    first, second = read_problems(source, 1), read_problems(source, 2, earlier=[1])
    assert not {problem.prompt for problem in first} & {problem.prompt for problem in second}


# --------------------------------------------------------------------------------------- difficulty

LEVELS = [{"problem": f"p{n}", "answer": str(n), "difficulty": f"{n % 8}/8"} for n in range(80)]


def drawn(source: FileProblems, seed: int = 0, **difficulty: Any) -> list[int]:
    asked = source.model_copy(update={"difficulty": DifficultyConfig(**difficulty)})
    return [int(problem.answer) for problem in read_problems(asked, seed)]


def test_a_range_of_difficulty_reads_fractions_as_numbers(tmp_path: Path):
    source = write(tmp_path / "p.jsonl", LEVELS)
    assert {n % 8 for n in drawn(source, low=0.25, high=0.5)} == {2, 3, 4}
    assert {n % 8 for n in drawn(source, high=0.0)} == {0}
    assert len(drawn(source.model_copy(update={"count": 12}), low=0.25, high=0.5)) == 12


def test_weights_draw_as_often_as_they_say_and_never_what_they_do_not_name(tmp_path: Path):
    source = write(tmp_path / "p.jsonl", LEVELS).model_copy(update={"count": 4})
    counts = Counter(
        n % 8
        for seed in range(200)
        for n in drawn(source, seed, weights={"1/8": 3.0, "2/8": 1.0, "3/8": 0.0})
    )
    assert set(counts) == {1, 2}
    assert 2.0 < counts[1] / counts[2] < 4.0  # 3 in the limit of a large pool


def test_what_is_wrong_with_a_difficulty_is_placed(tmp_path: Path):
    source = write(
        tmp_path / "p.jsonl", [*LEVELS[:2], {"problem": "x", "answer": "1", "difficulty": "hard"}]
    )
    with pytest.raises(
        ValueError, match=r"p.jsonl, row 3: difficulty 'hard' is neither a number nor a fraction"
    ):
        drawn(source, low=0.1)
    with pytest.raises(ValueError, match="row 1: no level"):
        drawn(source, column="level", low=0.1)
    with pytest.raises(
        ValueError, match="40 problems asked for, it has 80, 10 of them left by difficulty"
    ):
        drawn(
            write(tmp_path / "q.jsonl", LEVELS).model_copy(update={"count": 40}),
            weights={"1/8": 1.0},
        )


@pytest.mark.parametrize("wrong", [{}, {"low": 0.5, "high": 0.2}, {"weights": {"1/8": 0.0}}])
def test_a_difficulty_that_says_nothing_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError):
        DifficultyConfig(**wrong)


def test_numbers_are_levels_too():
    assert [weight_of(value, DifficultyConfig(low=3)) for value in (2, 3, "4", 5.0)] == [
        0.0,
        1.0,
        1.0,
        1.0,
    ]


# ------------------------------------------------------------------------------------------ overlap

LONG = (
    "A train leaves the station at noon and travels east at sixty miles per hour until it has "
    "covered half of the distance to the sea"
)
OTHER = (
    "Let $ABC$ be a triangle whose circumcircle has radius five and whose incircle touches "
    "side $BC$ at a point $D$ with $BD = 3$ exactly"
)


def test_equal_texts_are_found_whatever_their_spacing_and_dollars():
    assert normalized(r"Find  $\left( x \right)$.") == normalized("find (x).")
    assert normalized("1 + 2") != normalized("1 - 2")
    matches = find_shared(
        ["What is 2 + 2?", "What is 2 + 3?"], {"test": {"t1": "what is $2+2$?"}}, OverlapConfig()
    )
    assert [(match.place, match.problem, match.kind) for match in matches] == [(0, "t1", "exact")]


def test_shared_runs_of_words_are_found_and_few_are_not():
    against = {"test": {"t1": LONG, "t2": OTHER}}
    longer = f"Consider this. {LONG.upper()} shore. How long does it take?"
    tail = (
        f"Something else that is much longer than it need be goes first here, and then: "
        f"{' '.join(LONG.split()[-14:])}"
    )
    matches = find_shared([longer, tail, "unrelated words only"], against, OverlapConfig())
    assert [(match.place, match.problem, match.kind, match.share) for match in matches] == [
        (0, "t1", "ngram", 1.0)
    ]
    matches = find_shared([longer, tail], against, OverlapConfig(share=0.1))
    assert [match.place for match in matches] == [0, 1]


def test_an_instruction_that_every_problem_carries_is_no_overlap():
    instruction = (
        "Please reason step by step and write the final answer of this problem as one integer "
        "in a box at the end. "
    )
    against = {"test": {f"t{n}": f"{instruction} What is {n} plus {n + 1}?" for n in range(20)}}
    assert (
        find_shared([f"{instruction} What is 70 times 3?"], against, OverlapConfig(share=0.2)) == []
    )


def test_the_wording_is_taken_off_before_texts_are_compared():
    template = "Solve: {problem} Put it in a box."
    assert plain_problem(template.replace("{problem}", LONG), template) == LONG


def test_ngrams_by_hand():
    assert ngrams("a b, C + 1", 3) == {("a", "b", "c"), ("b", "c", "+"), ("c", "+", "1")}
    assert ngrams("a b", 3) == set()


@pytest.fixture
def measured(tmp_path: Path) -> tuple[Context, ProblemsRef]:
    here = context(Store(tmp_path / "store"))
    source = write(
        tmp_path / "bench.jsonl",
        [{"problem": LONG, "answer": "1"}, {"problem": OTHER, "answer": "2"}],
    )
    return here, get_or_compute(
        draw_problems("bench", source.model_copy(update={"template": "Answer this: {problem}"}), 0),
        here,
    )


def checked(
    tmp_path: Path, measured: tuple[Context, ProblemsRef], **overlap: Any
) -> tuple[Context, ProblemsRef]:
    here, bench = measured
    rows = [{"problem": f"a problem of its own, number {n}", "answer": str(n)} for n in range(10)]
    rows[3]["problem"], rows[7]["problem"] = LONG.lower(), f"{OTHER}. Find $AD$."
    source = write(tmp_path / "train.jsonl", rows).model_copy(
        update={"count": 8, "overlap": OverlapConfig(**overlap)}
    )
    return here, get_or_compute(draw_problems("prompts", source, 0, against={"bench": bench}), here)


def test_overlapping_prompts_are_dropped_from_the_pool_and_said(
    tmp_path: Path, measured: tuple[Context, ProblemsRef]
):
    here, ref = checked(tmp_path, measured, action="drop")
    assert {problem.id for problem in load_problems(here.store, ref)} == {
        f"row-{n}" for n in (1, 2, 3, 5, 6, 7, 9, 10)
    }
    assert ref.overlap and (
        ref.overlap.checked,
        ref.overlap.exact,
        ref.overlap.ngram,
        ref.overlap.benchmarks,
    ) == (10, 1, 1, {"bench": 2})
    manifest = here.store.manifest(ref.id)
    assert manifest.meta["ref"]["overlap"]["exact"] == 1 and manifest.inputs == {
        "against-bench": measured[1].id
    }
    listed = [
        json.loads(line)
        for line in (here.store.path(ref.id) / "overlap.jsonl").read_text().splitlines()
    ]
    assert [(row["prompt"], row["benchmark"], row["problem"], row["kind"]) for row in listed] == [
        ("row-4", "bench", "row-1", "exact"),
        ("row-8", "bench", "row-2", "ngram"),
    ]


def test_overlapping_prompts_are_only_reported_by_default(
    tmp_path: Path, measured: tuple[Context, ProblemsRef]
):
    here, ref = checked(tmp_path, measured)
    assert ref.count == 8 and ref.overlap and ref.overlap.checked == 8
    drawn = {problem.id for problem in load_problems(here.store, ref)}
    listed = [
        json.loads(line)["prompt"]
        for line in (here.store.path(ref.id) / "overlap.jsonl").read_text().splitlines()
    ]
    assert (
        set(listed) == drawn & {"row-4", "row-8"}
        and ref.overlap.exact + ref.overlap.ngram == len(listed) > 0
    )


def test_overlapping_prompts_are_refused_by_name(
    tmp_path: Path, measured: tuple[Context, ProblemsRef]
):
    with pytest.raises(ValueError, match=r"row-\d with row-\d of bench.*overlap.action"):
        checked(tmp_path, measured, action="refuse")


def test_the_check_is_part_of_the_question_only_where_it_is_asked_for(
    tmp_path: Path, measured: tuple[Context, ProblemsRef]
):
    source = write(tmp_path / "train.jsonl", [{"problem": "a", "answer": "1"}])
    plain = draw_problems("a", source, 0)
    assert (
        draw_problems("a", source, 0, against={"bench": measured[1]}) == plain
        and "overlap" not in plain.spec()["source"]
    )
    asked = source.model_copy(update={"overlap": OverlapConfig()})
    identities = {
        draw_problems("a", asked, 0).identity(),
        draw_problems("a", asked, 0, against={"bench": measured[1]}).identity(),
        draw_problems(
            "a", source.model_copy(update={"overlap": OverlapConfig(share=0.4)}), 0
        ).identity(),
        plain.identity(),
    }
    assert len(identities) == 4
