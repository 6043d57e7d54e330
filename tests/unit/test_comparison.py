"""A study's policies in one list: each once, next to its row of the paper, with its gains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from study_lab import NBG, QWEN, ROWS, Lab, study_of

from erpd_core.refs import EvalReport, Score
from flows.recipes.paper import load_paper
from flows.recipes.studies import load_study, paper_row
from flows.reports.results import PolicyRow
from flows.reports.study_table import Gain, StudyRow, gain_over, signed, study_markdown, study_rows

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def listed(finished_study: Lab) -> list[StudyRow]:
    return study_rows(finished_study.registry, finished_study.campaigns, study_of())


def test_every_policy_stands_once_in_the_order_of_the_arms(listed: list[StudyRow]):
    assert [entry.name for entry in listed] == [
        "base",
        "ce, teacher 1",
        "ce, student 1",
        "ce.kl, student 1",
        "online, student 1",
    ]


def test_a_shared_policy_stands_again_beside_another_row_of_the_paper_and_takes_one_it_lacked(
    finished_study: Lab, monkeypatch: Any
):
    rows = {
        "ce": {"1.teacher": "ce"},
        "ce.kl": {"base": "base", "1.teacher": "sapo"},
        "online": {"base": f"{NBG}:base"},
        "late": {"base": "base"},
    }
    for arm, places in rows.items():
        monkeypatch.setitem(ROWS, arm, places)
    labels = [
        (entry.name, entry.paper and entry.paper.label)
        for entry in study_rows(finished_study.registry, finished_study.campaigns, study_of())
    ]
    assert labels[0] == ("base", "Base")  # `ce` maps no base row, `ce.kl` does
    assert [pair for pair in labels if pair[0].endswith("teacher 1")] == [
        ("ce, teacher 1", "CE"),
        ("ce.kl, teacher 1", "SAPO"),
    ]
    assert [name for name, _ in labels].count("base") == 2  # once for each of two rows


def test_gains_and_their_intervals_can_be_checked_by_hand(listed: list[StudyRow]):
    student = listed[2]
    # (65 - 50 + 50 - 40) / 2 points; four half widths of 3 points over two benchmarks
    assert student.gain is not None and student.gain.points == pytest.approx(12.5)
    assert (student.gain.low, student.gain.high) == pytest.approx(
        (12.5 - math.sqrt(4 * 9) / 2, 12.5 + math.sqrt(4 * 9) / 2)
    )
    assert student.per_nat == pytest.approx(250)
    assert listed[0].gain is None and listed[0].per_nat is None


def test_the_wider_side_of_a_lopsided_interval_counts():
    def row(role: str, avg: float, low: float, high: float) -> PolicyRow:
        score = Score(avg=avg, k=1, problems=9, ci95=(low, high))
        return PolicyRow(
            1,
            role,
            "",
            EvalReport(policy="p", scores={"t": score}, kl_old=0, kl_base=0, entropy=0, length=1),
            1,
            role,
        )

    assert gain_over(row("student", 0.98, 0.94, 1.0), row("base", 0.02, 0.0, 0.05)) == Gain(
        *(pytest.approx(x) for x in (96, 91, 101))
    )


def test_a_gain_of_the_paper_is_over_the_base_of_its_own_group(listed: list[StudyRow]):
    ce, other = listed[2], listed[3]
    assert ce.paper is not None and other.paper is not None
    assert (ce.paper.group, other.paper.group) == (QWEN, NBG)
    # Avg
    assert ce.paper_gain == pytest.approx(73.3 - 68.5) and other.paper_gain == pytest.approx(
        77.7 - 72.5
    )
    assert ce.gain_difference == pytest.approx(12.5 - 4.8)
    assert listed[0].paper is not None and listed[0].paper_gain is None


def test_benchmarks_of_the_same_name_are_compared_however_they_are_spelt(listed: list[StudyRow]):
    assert listed[2].score_difference("hmmt_feb_25") == pytest.approx(50 - 67.1)
    assert (
        listed[2].score_difference("test") is None
        and listed[4].score_difference("hmmt_feb_25") is None
    )


def test_nothing_is_divided_by_a_kl_that_is_as_good_as_none(study_lab: Lab):
    study_lab.begin("a")
    for number, kl in enumerate((0.0, 0.0004, -0.001, math.nan), 1):
        study_lab.measure("a", number, "student", f"s{number}", kl, kl, test=0.6, hmmt_feb_25=0.5)
    assert [entry.per_nat for entry in study_rows(study_lab.registry, study_lab.campaigns)] == [
        None
    ] * 5


def test_a_row_without_group_is_the_first_of_its_key_and_a_figures_value_is_a_row():
    assert paper_row(load_paper("table1"), "ce").group == QWEN
    assert paper_row(load_paper("table1"), f"{NBG}:ce").values["Avg"] == 76.7
    assert paper_row(load_paper("fig7"), "old.steps10").values == {"HMMT Feb 25": 65.1}
    with pytest.raises(ValueError, match="no row 'nobody:ce'"):
        paper_row(load_paper("table1"), "nobody:ce")


def test_a_misspelt_row_is_told_before_anything_runs(tmp_path: Path):
    study = tmp_path / "mine.yaml"
    text = (
        "description: d\npaper: table1\nscales: {tiny: {}}\narms:\n- {name: a, rows: "
        "{1.student: ce}}\n- {name: b, rows: {1.student: %s}}\n"
    )
    study.write_text(text % "sapo")
    assert [arm.rows for arm in load_study(str(study)).arms] == [
        {"1.student": "ce"},
        {"1.student": "sapo"},
    ]
    study.write_text(text % "spao")
    with pytest.raises(ValueError, match=r"arm b: rows.1.student: .* no row 'spao'"):
        load_study(str(study))


def test_the_markdown_table_holds_the_same_numbers(listed: list[StudyRow]):
    lines = study_markdown(listed).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1 and len(
        lines
    ) == 2 + len(listed)
    assert lines[4].startswith(
        "| ce, student 1 | S1 | 65.0 \\[62.0, 68.0\\] | 50.0 \\[47.0, 53.0\\] | +12.5 \\[+9.5, "
        "+15.5\\] | 0.050 | 0.050 | 250 |"
    )
    assert lines[4].endswith(f"| CE + Distillation ({QWEN}) | +4.8 |  | +7.7 |")
    assert "paper" not in study_markdown([listed[4]])
    assert [signed(value) for value in (-0.04, -3.0, None, math.nan)] == ["+0.0", "−3.0", "–", "–"]


def test_bases_of_their_own_are_told_apart(study_lab: Lab):
    for arm, base in (("a", 0.5), ("b", 0.3)):
        study_lab.campaigns[arm] = f"c-{arm}"
        study_lab.registry.campaign_started(f"c-{arm}", arm, "tiny", {})
        study_lab.measure(arm, 0, "base", f"base-{arm}", 0.0, 0.0, test=base)
        study_lab.measure(arm, 1, "student", f"student-{arm}", 0.1, 0.1, test=0.6)
    rows = study_rows(study_lab.registry, study_lab.campaigns)
    assert [entry.name for entry in rows] == ["a, base", "a, student 1", "b, base", "b, student 1"]
    # each over its own base
    assert [entry.gain.points for entry in rows if entry.gain] == pytest.approx([10, 30])
