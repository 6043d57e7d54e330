"""A user's answer to an automatic decision."""

from __future__ import annotations

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from erpd_core.refs import Decision
from flows.steps.human_decision import NOBODY, Answer, PendingDecision, answer, evidence_text, taken

BEHIND = {
    "1": {"difference": 0.05, "standard_error": 0.01},
    "2": {"difference": 0.02, "standard_error": 0.01},
}
AUTOMATIC = Decision(
    strategy="S1",
    reason="the teacher is better",
    evidence={"teacher_minus_student": BEHIND, "teacher_step": 40},
    alternatives={"S2": "S1 applies", "S3": "S1 applies", "online": "the recipe has no online"},
)


def test_another_strategy_is_taken_with_who_and_why_and_what_was_passed_over():
    decision = taken(
        AUTOMATIC,
        Answer(strategy="S2", steps=12, kl_budget=0.2, by="Ada", why="the teacher looks lucky"),
        (1, 2),
    )
    assert (decision.strategy, decision.reason) == ("S2", "chosen by Ada: the teacher looks lucky")
    assert decision.evidence["asked"] == {
        "by": "Ada",
        "why": "the teacher looks lucky",
        "automatic": "S1",
        "automatic_reason": "the teacher is better",
        "steps": 12,
        "kl_budget": 0.2,
    }
    assert decision.evidence["teacher_step"] == 40
    assert (
        decision.alternatives.keys() == {"S1", "S3", "online"}
        and "Ada" in decision.alternatives["S1"]
    )


def test_the_automatic_strategy_may_be_chosen_too():
    decision = taken(AUTOMATIC, Answer(strategy="S1"), ())
    assert (
        decision.reason == "chosen by somebody" and decision.alternatives == AUTOMATIC.alternatives
    )


def test_strategy_3_takes_the_student_named_or_the_one_farthest_behind():
    assert taken(AUTOMATIC, Answer(strategy="S3"), (1, 2)).evidence["student"] == 1
    assert taken(AUTOMATIC, Answer(strategy="S3", student=2), (1, 2)).evidence["student"] == 2


@pytest.mark.parametrize(
    ("students", "student", "said"), [((), None, "none yet"), ((1, 2), 5, "iterations 1, 2")]
)
def test_strategy_3_without_its_student_is_refused(
    students: tuple[int, ...], student: int | None, said: str
):
    with pytest.raises(ValueError, match=said):
        taken(AUTOMATIC, Answer(strategy="S3", student=student), students)


def test_when_nobody_answers_the_automatic_decision_stands_and_says_so():
    decision = taken(AUTOMATIC, Answer(strategy="S1", by=NOBODY, why="no answer within 5 s"), (1,))
    assert (decision.strategy, decision.reason) == ("S1", AUTOMATIC.reason)
    assert decision.evidence["asked"]["by"] == NOBODY


def test_a_decision_whose_campaign_was_killed_does_not_wait_any_more():
    api = "http://127.0.0.1:9/api"
    pending = PendingDecision(
        campaign="tiny-1",
        iteration=2,
        flow_run="0d6a1b9e-0000-4000-8000-000000000000",
        api=api,
        until=0.0,
        strategies=("S1", "stop"),
        students=(),
        automatic="S1",
        evidence="",
    )
    with (
        temporary_settings({PREFECT_API_URL: api, PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(LookupError, match="no longer waits"),
    ):
        answer(pending, {"strategy": "S1"})
    with pytest.raises(ValueError, match="possible are S1, stop"):
        answer(pending, {"strategy": "online"})


def test_a_person_sees_the_evidence_and_why_not_the_others():
    text = evidence_text(AUTOMATIC.evidence, AUTOMATIC)
    assert (
        "**S1** (the teacher is better)" in text
        and "iteration 1: +5.0 points" in text
        and "- not online: the recipe has no online" in text
    )
