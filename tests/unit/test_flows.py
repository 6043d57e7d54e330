"""What flows ask for and show: the configs of `online` and `next-iteration`, an evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
from written_campaigns import Written

from flows.evaluation import EvaluationForm, evaluation_markdown
from flows.next_iteration import longer
from flows.online import last_student, online_config
from flows.recipes.load import load_recipe
from flows.steps.preflight import prepare_campaign

SOLVED = [1, 2, 3, 4]


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """A home with a campaign of one iteration."""
    monkeypatch.setenv("ERPD_HOME", str(tmp_path))
    monkeypatch.delenv("ERPD_REGISTRY_URL", raising=False)
    written = Written(tmp_path)
    written.campaign("done", [{"base": SOLVED}, {"teacher": SOLVED, "student": SOLVED}])
    return written


def test_an_online_campaign_starts_from_the_base_a_policy_or_a_student(own_home: Written):
    recipe = load_recipe("tiny-online")
    from_base = online_config(recipe, "base", 3)
    assert (from_base.iterations, from_base.decision.fixed_for(3)) == (3, "online")
    assert (from_base.name, from_base.model) == (f"{recipe.name}-online", recipe.model)
    policy = "policy-0123456789abcdef0123"
    assert online_config(recipe, policy, 1).model.id == policy  # type: ignore[union-attr]
    student = last_student("done")
    assert online_config(recipe, "done", 1).model.id == student  # type: ignore[union-attr]
    (row,) = [row for row in own_home.registry.reports("done-0123456789") if row.role == "student"]
    assert row.report.policy == student


def test_a_campaign_without_a_student_is_no_start(own_home: Written):
    own_home.campaign("fresh", [{"base": SOLVED}], seed=1)
    with pytest.raises(LookupError, match="no student yet"):
        last_student("fresh")
    with pytest.raises(LookupError, match="unheard"):
        last_student("unheard")


def test_iterations_are_added_to_those_that_are_complete(own_home: Written):
    prepared = prepare_campaign(load_recipe("tiny", ["runtime.ray=off"]))
    assert longer(prepared, 2).config.iterations == 2
    own_home.registry.campaign_started(
        prepared.id, "tiny", "tiny", prepared.config.model_dump(mode="json")
    )
    own_home.registry.iteration(prepared.id, 1, "completed", {})
    own_home.registry.iteration(prepared.id, 2)
    more = longer(prepared, 2)
    assert (more.id, more.config.iterations) == (prepared.id, 3)


def test_an_evaluations_page_has_both_models_and_how_they_compare():
    report = {
        "policy": "policy-a",
        "scores": {"test": {"avg": 0.5, "k": 4, "problems": 9, "ci95": [0.4, 0.6]}},
        "kl_old": 0.0,
        "kl_base": 0.125,
        "entropy": 1.5,
        "length": 8.0,
    }
    comparison = {"difference": 0.1, "ci95": [-0.02, 0.22], "p_value": 0.0625}
    result = report | {"against": report, "comparison": {"test": comparison}}
    page = evaluation_markdown(result, EvaluationForm(model="here|there", against="tiny"))
    assert "| here\\|there | test | 50.0 [40.0, 60.0] | 4 | 9 | 0.125 | 1.500 | 8.0 |" in page
    assert page.endswith("test: +10.0 points [−2.0, +22.0], p = 0.0625")
