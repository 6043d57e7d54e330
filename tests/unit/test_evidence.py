"""The evidence: intervals and verdicts by hand, claims on their studies, the page from records."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from rich.console import Console

from erpd_core.batch import TokenBatch
from flows.recipes.studies import load_study
from scripts.evidence.ceiling import ceiling
from scripts.evidence.claims import CLAIMS, entropy, kl, online_seconds, points, policy
from scripts.evidence.curves import PANELS
from scripts.evidence.drift import BOUND, FOUND, by_distance, cost_follows_drift
from scripts.evidence.drift import TRIED as TRIED_ON
from scripts.evidence.figures import study_figure
from scripts.evidence.followups import (
    FOLLOW_UPS,
    SINGLE_RUNS,
    STUDIES_AFTER,
    even_share,
    nearer_over_further,
    responses_saved,
)
from scripts.evidence.judging import Claim, FollowUp, Interval, SingleRun, interval, judge
from scripts.evidence.page import SUMMARY, judged, summary_table, verdict_counts, write_page
from scripts.evidence.record import (
    CURVE_POINTS,
    RECORDS,
    ArmRecord,
    Policy,
    Record,
    TrainingCurve,
    read_records,
    record_path,
    thin,
)
from scripts.evidence.running import LOOKED_AT, PEERS, STUDIES, is_asked, run_missing, study_names
from scripts.evidence.signals import agreement, outliers

TRIED = [follow_up for tried in FOLLOW_UPS.values() for follow_up in tried]
SINGLE = [*SINGLE_RUNS.values()]


def measured(
    score: float,
    kl_base: float = 0.1,
    role: str = "student",
    iteration: int = 1,
    entropy: float = 0.2,
) -> Policy:
    return Policy(
        iteration=iteration,
        role=role,
        strategy="S1",
        step=8,
        score=score,
        k=8,
        problems=400,
        kl_old=kl_base,
        kl_base=kl_base,
        entropy=entropy,
        length=9.0,
    )


def curve(role: str, validation: dict[int, float]) -> TrainingCurve:
    """A training curve of eight steps of one second each."""
    columns = {"seconds_rollout": (0.75,) * 8, "seconds_update": (0.25,) * 8}
    return TrainingCurve(
        iteration=1,
        role=role,
        validation=validation,
        steps=tuple(range(1, 9)),
        columns=columns,
        seconds=8.0,
    )


def record(seed: int, ours: Policy, theirs: Policy, study: str = "front") -> Record:
    arms = {
        name: ArmRecord(policies=(student,), trainings=(), seconds=())
        for name, student in (("ours", ours), ("theirs", theirs))
    }
    return Record(study=study, seed=seed, commit="abc", seconds=60.0, arms=arms)


def test_the_interval_is_students_t() -> None:
    """1, 2, 3: mean 2, deviation 1, t(0.975, 2) = 4.3027, so 2 +- 4.3027 / sqrt(3)."""
    result = interval([1.0, 2.0, 3.0])
    assert (result.mean, result.seeds) == (2.0, 3)
    assert (result.low, result.high) == (
        pytest.approx(2 - 2.4841, abs=1e-4),
        pytest.approx(2 + 2.4841, abs=1e-4),
    )
    with pytest.raises(ValueError, match="needs two of them, and there are 1"):
        interval([1.0])


def test_a_part_is_shown_against_or_open_by_its_interval_and_its_bound() -> None:
    part = points("more", "ours", "theirs")
    assert [
        part.standing(Interval(0, low, high, 8)) for low, high in ((0.1, 2), (-2, -0.1), (-1, 1))
    ] == ["shown", "against", "open"]
    within = points("no worse than a point", "ours", "theirs", bound=-1)
    assert (
        within.standing(Interval(-0.2, -0.9, 0.5, 8)) == "shown"
        and within.standing(Interval(-2, -3, -1.1, 8)) == "against"
    )
    below = kl("at most half", "ours", "theirs", "below", -1)
    assert [
        below.standing(Interval(0, low, high, 8))
        for low, high in ((-2, -1.1), (-0.9, 0), (-1.5, 0))
    ] == ["shown", "against", "open"]


@pytest.mark.parametrize(
    ("gains", "entropies", "verdict"),
    [
        ((5.0, 6.0, 5.5), (0.1, 0.11, 0.12), "reproduced"),
        ((5.0, 6.0, 5.5), (-0.1, 0.1, 0.0), "partly"),
        ((-9.0, 9.0, 0.0), (0.1, 0.11, 0.12), "partly"),
        ((-9.0, 9.0, 0.0), (-0.1, 0.1, 0.0), "not at this scale"),
        ((-5.0, -6.0, -5.5), (0.1, 0.11, 0.12), "contradicted"),
    ],
)
def test_the_verdict_follows_from_the_parts(
    gains: tuple[float, ...], entropies: tuple[float, ...], verdict: str
) -> None:
    parts = (points("more", "ours", "theirs"), entropy("kept", "ours", "theirs"))
    pairs = [
        (measured(0.6 + gain / 100, entropy=0.2 + more), measured(0.6))
        for gain, more in zip(gains, entropies)
    ]
    finding = judge(parts, [record(seed, *pair) for seed, pair in enumerate(pairs)])
    assert finding.verdict == verdict
    assert finding.intervals[0].mean == pytest.approx(sum(gains) / 3)


def test_one_seed_is_no_evidence() -> None:
    assert (
        judge(
            (points("more", "ours", "theirs"),), [record(0, measured(0.9), measured(0.1))]
        ).verdict
        == "not run"
    )


@pytest.mark.parametrize("one", [*CLAIMS, *TRIED, *SINGLE], ids=lambda one: one.study)
def test_every_comparison_names_policies_that_its_study_makes(
    one: Claim | FollowUp | SingleRun,
) -> None:
    """Checked on a made-up record of the study's shape.

    A misspelled name must not surface after hours of runs.
    """
    study = load_study(str(STUDIES / f"{one.study}.yaml"), ["seed=100"])
    arms = {}
    for arm in study.arms:
        policies = [measured(0.5, role="base", iteration=0)]
        for iteration in range(1, arm.config.iterations + 1):
            policies += [
                measured(0.5, role=role, iteration=iteration) for role in ("teacher", "student")
            ]
        trainings = [
            curve("teacher", {3: 0.5, 60: 0.5}),
            curve("student", {8: 0.5}),
            curve("online", {8: 0.5}),
        ]
        work = {"rollouts": 1.0, "score": 1.0, "teacher": 4.0, "distill": 2.0, "validation": 9.0}
        arms[arm.name] = ArmRecord(
            policies=tuple(policies), trainings=tuple(trainings), seconds=(work,)
        )
    if one.study in PEERS:
        peer, place = PEERS[one.study]
        arms[peer] = ArmRecord(policies=(), trainings=arms[place].trainings, seconds=())
    shaped = Record(study=one.study, seed=0, commit=None, seconds=1.0, arms=arms)
    assert all(math.isfinite(part.effect(shaped)) for part in one.parts)
    if isinstance(one, Claim):
        assert [part.effect(shaped) for part in one.parts] == [0.0] * len(one.parts), (
            "equal policies must not differ"
        )


def small_batch(validation: float) -> Record:
    """A campaign on 32 problems (10 s without sampling) and eight on-policy steps (0.25 s each)."""
    own = {"rollouts": 3.0, "score": 1.0, "teacher": 5.0, "distill": 4.0, "validation": 9.0}
    offline = ArmRecord(
        policies=(measured(0.5),), trainings=(curve("student", {8: validation}),), seconds=(own,)
    )
    base = measured(0.3, role="base", iteration=0)
    online = ArmRecord(
        policies=(base,), trainings=(curve("online", {2: 0.5, 4: 0.7, 8: 0.8}),), seconds=()
    )
    return Record(
        study="reuse",
        seed=3,
        commit=None,
        seconds=1.0,
        arms={"offline-32": offline, "online": online},
    )


def test_responses_and_seconds_to_equal_score_by_hand() -> None:
    """Scores of 0.7, 0.6, 0.4 and 0.9 against on-policy scores of 0.5, 0.7 and 0.8.

    A score of 0.7 takes four on-policy steps of 16 x 16 responses, 1,024 in all. The campaign has
    512: one doubling. The other 512 responses must cost the 9 s by which the campaign's training
    is more expensive: 4.5 s per step of 256, next to 0.25 s of updating. 0.6 is half way from step
    2 to step 4. 0.4 is half way from the base to step 2, which saves nothing. No step has 0.9.
    """
    assert responses_saved(small_batch(0.7), 32) == 1.0
    assert even_share(small_batch(0.7), 32) == pytest.approx(4.5 / 4.75)
    assert responses_saved(small_batch(0.6), 32) == pytest.approx(math.log2(1.5))
    assert (responses_saved(small_batch(0.4), 32), even_share(small_batch(0.4), 32)) == (
        pytest.approx(-1.0),
        1.0,
    )
    assert responses_saved(small_batch(0.9), 32) == 2.0


def test_of_two_policies_the_one_at_the_smaller_kl_comes_first() -> None:
    """Scores of 0.8 at KL 0.1 and 0.75 at KL 0.2: five points, whichever is named first."""
    pair = record(3, measured(0.75, 0.2), measured(0.8, 0.1))
    assert (
        nearer_over_further(pair, "ours", "theirs")
        == nearer_over_further(pair, "theirs", "ours")
        == pytest.approx(5.0)
    )


def test_later_students_are_counted_once_by_their_distance() -> None:
    """Two arms share three batches, whose students count once.

    The third student is within the bound and gains 10 points. The fourth is beyond it and loses 5.
    """
    students = [
        measured(score, kl, iteration=number)
        for number, (score, kl) in enumerate([(0.6, 0.05), (0.7, 0.3), (0.8, 0.1), (0.75, 0.2)], 1)
    ]
    none = tuple(
        student.model_copy(update={"strategy": "none", "kl_base": 0.01}) for student in students
    )
    arms = {
        name: ArmRecord(policies=tuple(policies), trainings=(), seconds=())
        for name, policies in (("long", students), ("short", students[:3]), ("without", none))
    }
    gains = by_distance([Record(study="iterating", seed=0, commit=None, seconds=1.0, arms=arms)])
    assert gains == {
        "within": {"students": 1, "gained": 1, "points": 10.0},
        "beyond": {"students": 1, "gained": 0, "points": -5.0},
    }


def test_what_the_page_says_of_drift_is_what_the_records_give() -> None:
    found, tried = (
        by_distance(run for study in studies for run in read_records(ROOT / RECORDS, study))
        for studies in (FOUND, TRIED_ON)
    )
    within, beyond = found["within"], found["beyond"]
    lost = beyond["students"] - beyond["gained"]
    for sentence in (
        f"{within['gained']} of the {within['students']} students of batches 3 and 4 within a KL "
        f"of {BOUND} score more",
        f"by {within['points']} points on average, and {lost} of the {beyond['students']} beyond "
        f"it less, by {-beyond['points']}",
        f"{tried['within']['gained']} of {tried['within']['students']} within it gain",
    ):
        assert sentence in (ROOT / "docs" / "results" / "claims.md").read_text()
    cost = cost_follows_drift(read_records(ROOT / RECORDS, "entropy"), "bonus-0.05", "plain")
    assert (
        f"correlation {cost:.2f}".replace("-", "−")
        in (ROOT / "docs" / "results" / "claims.md").read_text()
    )


def test_explanations_are_tried_on_seeds_they_were_not_made_from() -> None:
    assert STUDIES_AFTER.isdisjoint(claim.study for claim in CLAIMS)
    assert [is_asked("front", seed) for seed in (0, LOOKED_AT)] == [True, True]
    assert [is_asked("looser", seed) for seed in (0, LOOKED_AT - 1, LOOKED_AT)] == [
        False,
        False,
        True,
    ]
    assert [is_asked("clock_smollm2", seed) for seed in (0, 1)] == [True, False]


def test_the_ceiling_of_what_a_batch_lets_anyone_explain() -> None:
    """Two of four tokens are shared by both responses, and each is right in half of them."""
    batch = TokenBatch.build(
        prompts=[[1]], responses=[[5, 6], [5, 7]], groups=[0, 0], rewards=[1, 0]
    )
    assert ceiling(batch) == {"tokens": 4, "shared": 0.5, "variance": 0.5}


def test_two_signals_agree_by_hand() -> None:
    """Whitened, 3 0 0 0 is 1.73 and three times -0.58, and 0 0 0 3 is its mirror image.

    Their signs agree in the middle only, and their correlation is -1/3.
    """
    ours, theirs = torch.tensor([3.0, 0, 0, 0]), torch.tensor([0.0, 0, 0, 3])
    assert agreement(ours, ours) == {"correlation": 1.0, "same_sign": 1.0}
    assert agreement(ours, theirs) == {"correlation": -0.333, "same_sign": 0.5}


def test_negative_log_ratios_of_right_responses_by_hand() -> None:
    """Three of four tokens are right; two of these are below 0, one of them by more than 0.1.

    That one holds 0.5 of the total of 2.0, and right responses hold 1.0.
    """
    ratio, right = torch.tensor([0.45, -0.05, -0.5, -1.0]), torch.tensor([True, True, True, False])
    assert outliers(ratio, right) == {
        "negative": 0.5,
        "far": 0.25,
        "held_by_right": 0.5,
        "held_by_far": 0.25,
    }


def test_a_study_that_fails_is_told_and_the_next_ones_are_run_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERPD_HOME", str(tmp_path / "home"))
    assert run_missing(
        ["nowhere", "neither"], [100], tmp_path / "records", Console(file=io.StringIO())
    ) == [
        "nowhere, seed 100",
        "neither, seed 100",
    ]
    assert list((tmp_path / "records").iterdir()) == []


def test_time_to_a_score_ends_at_the_first_kept_step_that_has_it() -> None:
    arm = ArmRecord(policies=(), trainings=(curve("online", {2: 0.4, 4: 0.7, 8: 0.6}),), seconds=())
    assert [online_seconds(arm, score) for score in (0.3, 0.5, 0.65, 0.9)] == [2.0, 4.0, 4.0, 8.0]


def test_claims_are_numbered_once_and_every_study_serves_one() -> None:
    numbers = [claim.number for claim in CLAIMS]
    assert numbers == sorted(set(numbers))
    assert {claim.study for claim in (*CLAIMS, *TRIED, *SINGLE)} == set(study_names())
    assert set(FOLLOW_UPS) <= set(numbers)


def test_a_place_names_arm_iteration_and_role() -> None:
    arms = {
        "kl0.2": ArmRecord(
            policies=(measured(0.1, role="base", iteration=0), measured(0.4, iteration=3)),
            trainings=(),
            seconds=(),
        )
    }
    front = Record(study="front", seed=0, commit=None, seconds=1.0, arms=arms)
    assert (policy(front, "kl0.2@3").score, policy(front, "kl0.2:base").score) == (0.4, 0.1)


def test_curves_are_thinned_and_keep_their_ends() -> None:
    kept = thin([{"step": float(step)} for step in range(1, 401)])
    assert len(kept) == CURVE_POINTS and (kept[0]["step"], kept[-1]["step"]) == (1.0, 400.0)
    assert thin([{"step": 1.0}]) == [{"step": 1.0}]


def test_the_page_is_made_from_records_and_tells_what_was_not_run(tmp_path: Path) -> None:
    records = tmp_path / "evidence"
    records.mkdir()
    for seed in range(3):
        arms = {}
        for place, name in enumerate(("extreme", "conservative", "kl0.05", "kl0.2", "kl2")):
            student = measured(0.8 - place / 50, 0.05 + place / 100)
            own = [
                measured(0.55, 1e-6, "base", 0),
                measured(0.75 + seed / 100, 0.24, "teacher"),
                student,
            ]
            arms[name] = ArmRecord(policies=tuple(own), trainings=(), seconds=())
        front = Record(study="front", seed=seed, commit="abcdef012", seconds=90.0, arms=arms)
        record_path(records, "front", seed).write_text(front.model_dump_json())
    readme = tmp_path / "README.md"
    readme.write_text("\n".join(["before", SUMMARY[0], "an old table", SUMMARY[1], "after\n"]))
    page = write_page(records, tmp_path / "claims.md", readme).read_text()
    row = next(line for line in page.splitlines() if line.startswith("| 3 |"))
    assert re.search(r"\| reproduced so far \| 3 \| \+4\.0 \[\+1\.5, \+6\.5\] points \|", row), row
    assert "| 1 | [Dozens of steps are needed to exhaust a batch](#claim-1) | not run | 0 |" in page
    assert "| front | 3 | 1.5 | abcdef0 |" in page
    assert "| −2.263 [−2.263, −2.263] doublings of KL (×0.21 [0.21, 0.21]) | shown |" in page, (
        "0.05 over 0.24, and its logarithm"
    )
    before, *table, after = readme.read_text().splitlines()
    assert (before, table[0], table[-1], after) == (
        "before",
        *SUMMARY,
        "after",
    ) and "an old table" not in table
    assert table[1] == "12 not run; 1 reproduced so far; 1 partly so far."
    assert len(table) == 3
    assert (records / "front.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("study", study_names())
def test_what_is_committed_can_be_judged_and_drawn(study: str) -> None:
    records = read_records(ROOT / RECORDS, study)
    assert records, f"no record of {study}"
    for part in (
        part for claim in (*CLAIMS, *TRIED, *SINGLE) if claim.study == study for part in claim.parts
    ):
        assert all(math.isfinite(part.effect(run)) for run in records), part.what
    *_, last = study_figure(records).axes
    assert (last.get_ylabel() != "") == (study in PANELS)


def test_what_the_readme_and_the_page_say_is_what_the_records_give() -> None:
    findings = judged({study: read_records(ROOT / RECORDS, study) for study in study_names()})
    counts = verdict_counts(findings)
    between = (ROOT / "README.md").read_text().partition(SUMMARY[0])[2].partition(SUMMARY[1])[0]
    assert between.strip() == counts
    assert summary_table(findings) in (ROOT / "docs" / "results" / "claims.md").read_text()
