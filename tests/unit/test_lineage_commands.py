"""`erpd lineage`, `campaigns` and `compare` on campaigns recorded as flows record them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from helpers import erpd
from written_campaigns import NIGHT, NOON, Written, refused, shown

from deployments.output.lineage import campaign_table, lineage_tree, took
from erpd_core.refs import EvalReport
from flows.inspect.campaigns import campaign_summaries
from flows.inspect.compare import ABSENT, compare_campaigns, config_differences
from flows.inspect.lineage import lineage_lines, resolve_artifact
from flows.recipes.load import load_recipe


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two campaigns of one base and the same problems, for commands that only read."""
    campaigns = Written(tmp_path_factory.mktemp("home"))
    campaigns.campaign("night", NIGHT, ["teacher.steps=40"])
    campaigns.campaign("noon", NOON, ["teacher.steps=20", "teacher.loss={kind: sapo}"])
    campaigns.registry.close()
    return campaigns.home


# ------------------------------------------------------------------------------------------ lineage


def test_the_tree_says_what_made_a_student(written: Written):
    night = written.campaign("night", NIGHT)
    student = written.policy(night, 2, "student")
    entries = lineage_lines(written.registry, resolve_artifact(written.registry, "night:2.student"))
    text = shown(lineage_tree(entries)).splitlines()
    assert text[0].startswith(
        f"{student}  student, step 16, test 95.8 %, 12.5 s  S1: the teacher is better"
    )
    assert text[1].startswith("└── training: training-") and text[1].rstrip().endswith(
        "distill, kept step 16, 12.5 s"
    )
    first = written.policy(night, 1, "student")
    assert sum(first in line for line in text) > 2, (
        "the batch, the teacher, the student and a column start from it"
    )
    opened = [line for line in text if first in line and "(above)" not in line]
    assert len(opened) == 1 and "test 83.3 %" in opened[0]
    assert any(
        "rollouts: rollouts-" in line and "48 responses, 1,234 tokens, 50.0 % right" in line
        for line in text
    )
    assert any("6 problems" in line for line in text)
    assert len(text) == len(entries)

    indents = [entry.line.depth for entry in entries]
    assert [line.index(line.lstrip("│├└─ \xa0")) // 4 for line in text] == indents, (
        "the lines below an artifact are its inputs"
    )


def test_descendants_and_what_was_removed_are_shown(written: Written):
    night = written.campaign("night", NIGHT)
    teacher = written.policy(night, 2, "teacher")
    written.registry.removed(written.policy(night, 2, "student"))
    text = shown(
        lineage_tree(lineage_lines(written.registry, teacher, descendants=True), descendants=True)
    )
    assert text.count("as numerator-1: training-") == 1
    assert any(
        f"{written.policy(night, 2, 'student')} (removed)" in line for line in text.splitlines()
    )
    assert "evaluation-" in text and "sapo" not in text


def test_artifacts_are_named_in_several_ways(written: Written):
    night = written.campaign("night", NIGHT)
    student = written.policy(night, 2, "student")
    for text in (
        student,
        student[:-3],
        "night:2.student",
        "night:student",
        f"{night}:2.student",
        "nig:student",
    ):
        assert resolve_artifact(written.registry, text) == student, text
    assert resolve_artifact(written.registry, "night:1.teacher evaluation").startswith(
        "evaluation-"
    )
    assert resolve_artifact(written.registry, "night:base") == written.policy(night, 0, "base")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("policy-", "begins several artifacts: policy-"),
        (
            "policy-zz",
            "no artifact 'policy-zz' in the registry; an identity, its beginning, or CAMPAIGN:ROLE",
        ),
        ("night", "CAMPAIGN:ROLE such as tiny:2.student"),
        ("dawn:student", "no campaign 'dawn'"),
        ("night:3.student", "has no '3.student'; it has: 0.base, 0.base evaluation, 1.student"),
        ("night:", "has no ''"),
    ],
)
def test_what_names_nothing_is_refused_with_what_there_is(written: Written, text: str, words: str):
    written.campaign("night", NIGHT)
    with pytest.raises(LookupError) as refusal:
        resolve_artifact(written.registry, text)
    assert words in str(refusal.value)


def test_policies_kept_by_a_training_are_told_apart_until_one_is_measured(written: Written):
    written.registry.campaign_started("c-1", "c", "tiny", {})
    for step in (10, 20):
        written.registry.record_artifact(
            f"policy-{step}", "policy", {}, meta={"ref": {"role": "teacher", "step": step}}
        )
        written.registry.attach("c-1", 1, "teacher", f"policy-{step}")
    with pytest.raises(
        LookupError,
        match=r"several artifacts: policy-10 teacher step 10; policy-20 teacher step 20; give one",
    ):
        resolve_artifact(written.registry, "c:teacher")
    report = EvalReport(policy="policy-20", scores={}, kl_old=0, kl_base=0, entropy=0, length=1)
    written.registry.record_report("c-1", 1, "teacher", report)
    assert resolve_artifact(written.registry, "c:teacher") == "policy-20"


@pytest.mark.slow
def test_the_command_prints_the_tree_or_one_object(home: Path):
    text = erpd("lineage", "night:2.student", home=home).stdout
    lineage = json.loads(erpd("lineage", "night:2.student", "--json", home=home).stdout)
    assert text.splitlines()[0].startswith(lineage["artifact"]) and len(text.splitlines()) == len(
        lineage["lines"]
    )
    first = lineage["lines"][0]
    assert first["figures"] == {
        "role": "student",
        "step": 16,
        "scores": {"test": pytest.approx(23 / 24)},
    }
    assert (first["kind"], first["removed"], first["repeated"], first["seconds"]) == (
        "policy",
        False,
        False,
        12.5,
    )
    assert first["decision"] == {"strategy": "S1", "reason": "the teacher is better"}
    assert "night-0123456789:2.student" in first["places"]
    assert "dawn" in refused(erpd("lineage", "dawn:student", home=home))


# ---------------------------------------------------------------------------------------- campaigns


def test_campaigns_are_listed_with_how_far_they_came(written: Written):
    night = written.campaign("night", NIGHT)
    noon = written.campaign("noon", NOON)
    written.registry.campaign_started("c-1", "c", "mine", {})
    running, second, first = campaign_summaries(written.registry)
    assert (running.campaign.id, running.done, running.base, running.student) == (
        "c-1",
        0,
        None,
        None,
    )
    assert (second.campaign.id, second.done, second.asked) == (
        noon,
        1,
        load_recipe("tiny").iterations,
    )
    assert (first.campaign.id, first.done) == (night, 2)
    assert first.base is not None and first.base.mean == 0.5
    assert first.student is not None and (first.student.iteration, first.student.mean) == (
        2,
        pytest.approx(23 / 24),
    )
    assert first.student.mean_ci95 == pytest.approx(first.student.report.scores["test"].ci95)
    assert 0 < first.seconds < 60

    written.registry.forget(noon)
    assert [summary.campaign.id for summary in campaign_summaries(written.registry)] == [
        "c-1",
        night,
    ]
    text = shown(campaign_table(campaign_summaries(written.registry, forgotten=True)))
    (row,) = [line for line in text.splitlines() if line.strip().startswith(noon)]
    assert "completed (forgotten)" in row and "75.0 [" in row and " 0.125 " in row


def test_the_interval_of_a_mean_over_benchmarks_adds_their_sides_in_squares(written: Written):
    written.campaign("night", NIGHT[:2])
    (row,) = [
        summary.student for summary in campaign_summaries(written.registry) if summary.student
    ]
    score = row.report.scores["test"].model_copy(update={"avg": 0.5, "ci95": (0.2, 0.9)})
    other = score.model_copy(update={"avg": 0.9, "ci95": (0.5, 1.0)})
    both = row.report.model_copy(update={"scores": {"a": score, "b": other}})
    low, high = type(row)(**{**vars(row), "report": both}).mean_ci95
    assert (low, high) == pytest.approx(
        (0.7 - math.sqrt(0.09 + 0.16) / 2, 0.7 + math.sqrt(0.16 + 0.01) / 2)
    )


@pytest.mark.slow
def test_the_command_lists_campaigns(home: Path, tmp_path: Path):
    text = erpd("campaigns", home=home).stdout
    assert [
        name for name in ("noon-0123456789", "night-0123456789") if name in text
    ] and text.index("noon-") < text.index("night-")
    listed = json.loads(erpd("campaigns", "--json", home=home).stdout)["campaigns"]
    assert [
        (campaign["id"], campaign["status"], campaign["iterations"]) for campaign in listed
    ] == [
        ("noon-0123456789", "completed", 1),
        ("night-0123456789", "completed", 2),
    ]
    assert listed[1]["student"]["scores"]["test"]["avg"] == pytest.approx(23 / 24)
    assert "erpd run tiny" in erpd("campaigns", home=tmp_path).stdout


def test_times_are_said_in_units_that_fit():
    assert [took(seconds) for seconds in (8.24, 89, 90, 5000, 6000, 100_000, 200_000)] == [
        *("8.2 s", "89.0 s", "1.5 min", "83.3 min", "1.7 h", "27.8 h", "2.3 days"),
    ]


# ------------------------------------------------------------------------------------ two campaigns


def test_configs_differ_key_by_key():
    a = {
        "name": "a",
        "teacher": {"loss": {"kind": "sapo", "tau": 1.0}, "keep": [1, 2]},
        "online": None,
        "empty": {},
    }
    b = {
        "name": "a",
        "teacher": {"loss": {"kind": "ce"}, "keep": [1]},
        "online": {"steps": 3},
        "empty": {},
    }
    assert config_differences(a, b) == {
        "teacher.loss.kind": ("sapo", "ce"),
        "teacher.loss.tau": (1.0, ABSENT),
        "teacher.keep": ([1, 2], [1]),
        "online": (None, ABSENT),
        "online.steps": (ABSENT, 3),
    }


def test_last_students_on_the_same_problems_are_compared_problem_by_problem(written: Written):
    written.campaign("night", NIGHT, ["teacher.steps=40"])
    written.campaign("noon", NOON, ["teacher.steps=20"])
    comparison = compare_campaigns(written.registry, written.store, "night", "noon")
    assert comparison.config == {"teacher.steps": (40, 20)}
    assert [(pair.name, pair.a is not None, pair.b is not None) for pair in comparison.pairs] == [
        *(("base", True, True), ("teacher 1", True, True), ("student 1", True, True)),
        *(("teacher 2", True, False), ("student 2", True, False)),
    ]
    (change,) = comparison.differences
    gains = [1 / 4, 1 / 4, 1 / 4, 1 / 4, 1 / 4, 0]  # [4, 4, 4, 4, 4, 3] against [3, 3, 3, 3, 3, 3]
    mean = sum(gains) / 6
    error = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 5 / 6)
    assert change.paired is not None and change.difference == pytest.approx(mean)
    assert change.ci95 == pytest.approx((mean - 1.959964 * error, mean + 1.959964 * error))
    assert change.paired["p_value"] == pytest.approx(2 / 2**5), "all five signs agree, two-sided"
    assert comparison.tree()["last_students"]["a"] == "student 2"


def test_students_measured_on_other_problems_or_no_more_are_taken_as_independent(written: Written):
    written.campaign("night", NIGHT)
    noon = written.campaign("noon", NOON, seed=1)
    (change,) = compare_campaigns(written.registry, written.store, "night", "noon").differences
    students = (
        written.policy("night-0123456789", 2, "student"),
        written.policy(noon, 1, "student"),
    )
    rows = [written.registry.scores(policy)["test"][0] for policy in students]
    halves = [max(row.ci95[1] - row.avg, row.avg - row.ci95[0]) for row in rows]
    assert (change.paired, change.why_not) == (None, "they were measured on different problems")
    assert change.difference == pytest.approx(rows[0].avg - rows[1].avg)
    assert change.ci95 == pytest.approx(
        (change.difference - math.hypot(*halves), change.difference + math.hypot(*halves))
    )

    shutil.rmtree(written.store.root / "evaluation")
    (change,) = compare_campaigns(written.registry, written.store, "night", "noon").differences
    assert "no longer in the store" in change.why_not


def test_campaigns_without_students_are_compared_as_far_as_they_came(written: Written):
    night = written.campaign("night", NIGHT)
    written.registry.campaign_started("c-1", "c", "tiny", {})
    comparison = compare_campaigns(written.registry, written.store, night, "c-1")
    assert (
        comparison.differences == ()
        and comparison.students[1] is None
        and len(comparison.pairs) == 5
    )
    json.dumps(comparison.tree())


@pytest.mark.slow
def test_the_command_compares(home: Path):
    text = erpd("compare", "night", "noon", home=home).stdout
    comparison = json.loads(erpd("compare", "night", "noon", "--json", home=home).stdout)
    assert comparison["config"]["teacher.steps"] == {"a": 40, "b": 20} and comparison["config"][
        "teacher.loss.kind"
    ] == {"a": "ce", "b": "sapo"}
    assert comparison["last_students"]["a_minus_b"]["test"]["paired"] is True
    assert "teacher.steps" in text and "A's student 2 minus B's student 1 is +20.8 points" in text
    assert "p = 0.0625: within noise, paired over 6 problems" in text
    assert "no campaign 'dawn'" in refused(erpd("compare", "night", "dawn", home=home))
