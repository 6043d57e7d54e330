"""Configuration of a campaign: the paper's defaults, refused values, and fields of the spec."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from erpd_core.config import (
    CE,
    CISPO,
    DISPO,
    GRPO,
    MSE,
    PPO,
    SAPO,
    VESPO,
    Addend,
    CampaignConfig,
    CriticConfig,
    DecisionConfig,
    Distill,
    DistillConfig,
    DistillPhase,
    EvaluationConfig,
    Loss,
    OptimizerConfig,
    RuntimeConfig,
    SamplingConfig,
    SignalSpec,
    TeacherLoss,
    TrainConfig,
    WeakTeacherConfig,
)
from flows.recipes.load import load_recipe

TINY = {"kind": "tiny"}


def campaign(**change):
    return CampaignConfig.model_validate(
        {
            "name": "test",
            "model": {"kind": "embedded"},
            "prompts": TINY,
            "evaluation": {
                "validation": TINY | {"split": "validation"},
                "benchmarks": {"test": TINY | {"split": "test"}},
            },
        }
        | change
    )


# ----------------------------------------------------------------------------------------- defaults


def test_defaults_are_the_papers():
    assert (GRPO().clip_low, GRPO().clip_high) == (0.2, 0.28)
    assert (PPO().clip_low, PPO().clip_high, PPO().alpha) == (0.2, 0.2, 0.05)
    assert (SAPO().tau_pos, SAPO().tau_neg) == (1.0, 1.05)
    assert 0.001 <= CE().beta <= 0.05
    assert CE().aggregate == "sum"
    assert MSE().negative_weight == 1.0
    assert OptimizerConfig().lr == 1e-6
    assert TrainConfig().minibatch in (32, 64, 256)
    assert DistillConfig().steps == 10
    assert Distill().clip_low == Distill().clip_high
    assert (GRPO().kl_weight, GRPO().entropy_weight) == (0.0, 0.0)


def test_sampling_defaults_are_the_papers():
    fixed_batch = SamplingConfig()
    assert (fixed_batch.samples, fixed_batch.temperature, fixed_batch.max_new_tokens) == (
        16,
        0.6,
        32_768,
    )
    evaluation = campaign().evaluation
    for sampling in (evaluation.sampling, evaluation.validation_sampling):
        assert (
            sampling.samples,
            sampling.temperature,
            sampling.top_p,
            sampling.max_new_tokens,
        ) == (32, 0.6, 0.95, 81_920)


def test_default_strategies_are_the_papers_three():
    config = DistillConfig()
    sides = {
        s: [(p.signal.numerator, p.signal.denominator) for p in config.alternatives(s)[""]]
        for s in ("S1", "S2", "S3")
    }
    assert sides == {
        "S1": [("teacher", "old")],
        "S2": [("weak", "unlearned")],
        "S3": [("teacher", "student:1")],
    }
    assert {p.signal.whiten for s in ("S1", "S2", "S3") for p in config.alternatives(s)[""]} == {
        "shift"
    }


def test_unlearning_is_mse_and_its_checkpoint_early():
    weak = WeakTeacherConfig()
    assert isinstance(weak.loss, MSE)
    assert 10 <= weak.unlearn_step <= 30


# ----------------------------------------------------------------------------------- refused values


@pytest.mark.parametrize(
    "change",
    [
        {"iteration": 3},
        {"teacher": {"los": {"kind": "sapo"}}},
        {"teacher": {"loss": {"kind": "sapo", "clip_low": 0.2}}},
        {"runtime": {"gpu": 1}},
    ],
    ids=str,
)
def test_unknown_keys_are_refused_at_every_depth(change):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        campaign(**change)


def test_a_value_cannot_be_changed_after_the_fact():
    config = campaign()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        config.teacher.loss.tau_neg = 2.0


def test_kind_chooses_the_loss():
    loss = TypeAdapter(Loss)
    assert loss.validate_python({"kind": "grpo"}) == GRPO()
    assert loss.validate_python({"kind": "ce", "beta": 0.05}) == CE(beta=0.05)
    assert loss.validate_python({"kind": "distill"}) == Distill()
    for bad in ({"kind": "dpo"}, {"beta": 0.05}):
        with pytest.raises(ValidationError, match=r"kind|tag"):
            loss.validate_python(bad)


def test_a_teacher_is_not_trained_by_distillation():
    with pytest.raises(ValidationError, match="distill"):
        TypeAdapter(TeacherLoss).validate_python({"kind": "distill"})


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (GRPO, {"clip_low": 1.5}),
        (GRPO, {"clip_high": -0.1}),
        (SAPO, {"tau_pos": 0}),
        (CE, {"beta": 0}),
        (CE, {"aggregate": "median"}),
        (MSE, {"negative_weight": -1}),
        (PPO, {"alpha": 0}),
        (PPO, {"critic": {"lr": 1e-5}}),
        (CriticConfig, {"steps": 10, "keep": [11]}),
        (CISPO, {"max_weight": 0}),
        (VESPO, {"lambda_neg": 0}),
        (DISPO, {"right_low": 1.5}),
        (DISPO, {"wrong_high": -0.1}),
        (GRPO, {"kl_weight": float("nan")}),
        (OptimizerConfig, {"lr": 0}),
        (SamplingConfig, {"top_p": 0}),
        (SamplingConfig, {"temperature": 0}),
        (TrainConfig, {"keep": [0]}),
        (DecisionConfig, {"fixed": ["S4"]}),
        (SignalSpec, {"whiten": "shfit"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else value.__name__,
)
def test_values_without_a_meaning_are_refused(config, change):
    config()
    with pytest.raises(ValidationError):
        config.model_validate(change)


# ------------------------------------------------------------------------------------- trails, keep


def test_the_trail_is_sorted_without_repeats_and_ends_with_the_last_step():
    assert TrainConfig(steps=50, keep=(30, 10, 30)).trail == (10, 30, 50)
    assert TrainConfig(steps=50, keep=(50,)).trail == (50,)
    assert TrainConfig(steps=50).trail == (50,)


def test_the_critics_trail_is_like_a_teachers():
    assert CriticConfig(steps=50, keep=(30, 10, 30)).trail == (10, 30, 50)


def test_the_weak_trail_holds_the_unlearned_step():
    assert WeakTeacherConfig(steps=60, keep=(40,), unlearn_step=20).trail == (20, 40, 60)


def test_keeping_a_step_beyond_the_last_is_refused():
    with pytest.raises(ValidationError, match="step 60 is beyond the last step 50"):
        TrainConfig(steps=50, keep=(10, 60))


def test_the_unlearned_step_comes_before_the_last():
    with pytest.raises(ValidationError, match="must come before the last step 10"):
        WeakTeacherConfig(steps=10, unlearn_step=10)


def test_phases_without_steps_take_the_distillations_own():
    """Table 8: an ensemble of two signals."""
    phases = [
        {"signal": {"numerator": "teacher"}, "steps": 16},
        {"signal": {"numerator": "weak", "denominator": "unlearned"}},
    ]
    assert DistillConfig(steps=10, S1=phases).total_steps("S1") == 26


def test_keeping_a_student_step_beyond_every_strategys_last_is_refused():
    with pytest.raises(ValidationError, match="keep"):
        DistillConfig(steps=10, keep=(40,))


# -------------------------------------------------------------------------------------------- sides


@pytest.mark.parametrize(
    "side", ["teacher", "teacher@40", "weak", "weak@60", "unlearned", "student:1", "old", "base"]
)
def test_every_side_the_paper_uses_can_be_written(side):
    assert SignalSpec(numerator=side, denominator="none").numerator == side


@pytest.mark.parametrize(
    "side", ["", "teacher@", "teacher@-1", "student:", "old\n", "Teacher", "student:1@3"]
)
def test_other_sides_are_refused(side):
    with pytest.raises(ValidationError):
        SignalSpec(numerator=side, denominator="none")


@pytest.mark.parametrize("side", ["theta", "student", "old@3", "live@2", "oldx", "unlearned@10"])
def test_a_side_that_no_run_stands_for_is_refused_by_the_campaign(side):
    with pytest.raises(ValueError, match=r"distill\.S1"):
        load_recipe("tiny", [f"distill.S1=[{{signal: {{numerator: {side}, denominator: none}}}}]"])


def test_runs_may_start_from_runs_but_not_in_a_circle():
    runs = "runs={a: {init: unlearned, steps: 3}, b: {init: a, steps: 3}}"
    assert (
        load_recipe("tiny", [runs, "distill.S1=[{signal: {numerator: b, denominator: a}}]"])
        .runs["b"]
        .init
        == "a"
    )
    with pytest.raises(ValueError, match="circle"):
        load_recipe("tiny", ["runs={a: {init: b, steps: 3}, b: {init: a, steps: 3}}"])
    with pytest.raises(ValueError, match="already means"):
        load_recipe("tiny", ["runs={teacher: {steps: 3}}"])
    with pytest.raises(ValueError, match="is not kept"):
        load_recipe(
            "tiny",
            ["runs={a: {steps: 3}}", "distill.S1=[{signal: {numerator: a@2, denominator: old}}]"],
        )


def test_a_live_denominator_stands_alone_and_against_a_policy():
    with pytest.raises(ValidationError, match="phase of its own"):
        DistillPhase(signal=SignalSpec(denominator="live"), plus=(Addend(signal=SignalSpec()),))
    with pytest.raises(ValidationError, match="against a policy"):
        SignalSpec(numerator="none", denominator="live")


def test_alternatives_are_phases_by_name_and_the_longest_bounds_keep():
    short, long = {"signal": {}, "steps": 3}, {"signal": {}, "steps": 9}
    config = DistillConfig.model_validate(
        {"S1": {"short": [short], "long": [short, long]}, "steps": 4, "keep": [12]}
    )
    assert set(config.alternatives("S1")) == {"short", "long"} and config.total_steps("S1") == 12


def test_equal_sides_are_refused():
    with pytest.raises(ValidationError, match="the signal would be zero"):
        SignalSpec(numerator="old", denominator="old")


def phase(numerator, denominator):
    return [{"signal": {"numerator": numerator, "denominator": denominator}}]


def test_a_checkpoint_that_is_not_kept_cannot_be_a_side():
    teacher = {"steps": 50, "keep": [40]}
    campaign(teacher=teacher, distill={"S1": phase("teacher@40", "old")})
    campaign(teacher=teacher, distill={"S1": phase("teacher@50", "old")})
    with pytest.raises(ValidationError, match="'teacher@30' is not kept; add step 30"):
        campaign(teacher=teacher, distill={"S1": phase("teacher@30", "old")})


def test_weak_checkpoints_are_looked_up_in_the_weak_run():
    weak = {"steps": 60, "unlearn_step": 20}
    campaign(weak_teacher=weak, distill={"S2": phase("weak@60", "weak@20")})
    with pytest.raises(ValidationError, match="'weak@30' is not kept"):
        campaign(weak_teacher=weak, distill={"S2": phase("weak@60", "weak@30")})


def test_fixed_s2_needs_a_weak_teacher():
    with pytest.raises(ValidationError, match="needs weak_teacher"):
        campaign(iterations=2, decision={"mode": "fixed", "fixed": ["S1", "S2"]})


def test_fixed_s3_needs_a_student_earlier_than_the_start():
    campaign(iterations=3, decision={"mode": "fixed", "fixed": ["S1", "S1", "S3"]})
    with pytest.raises(ValidationError, match="before iteration 3"):
        campaign(iterations=2, decision={"mode": "fixed", "fixed": ["S1", "S3"]})


@pytest.mark.parametrize(
    "sides", [("weak", "old"), ("teacher", "unlearned"), ("weak@60", "old")], ids=str
)
def test_s1_on_the_weak_run_needs_a_weak_teacher_too(sides):
    """Without a weak teacher, decisions skip only S2. An S1 that uses its sides would fail hours
    into the run.
    """
    campaign(weak_teacher={"steps": 60}, distill={"S1": phase(*sides)})
    with pytest.raises(ValidationError, match="weak_teacher"):
        campaign(distill={"S1": phase(*sides)})


# --------------------------------------------------------------------------------------------- spec


@pytest.mark.parametrize(
    "runtime",
    [
        {"ray": "off"},
        {"engine": "vllm"},
        {"device": "cuda"},
        {"cpus": 3},
        {"gpus": 1},
        {"token_budget": 9},
        {"checkpoint_every": 1},
    ],
    ids=str,
)
def test_the_machine_is_not_part_of_the_question(runtime):
    assert campaign(runtime=runtime).runtime != RuntimeConfig()
    assert campaign(runtime=runtime).spec() == campaign().spec()


def test_the_description_is_not_part_of_the_question():
    assert campaign(description="a note").spec() == campaign().spec()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"iterations": 2},
        {"teacher": {"optimizer": {"lr": 2e-6}}},
        {"distill": {"steps": 16}},
        {"sampling": {"samples": 8}},
    ],
    ids=str,
)
def test_what_changes_the_answer_is_part_of_the_question(change):
    assert campaign(**change).spec() != campaign().spec()


def test_a_config_survives_json():
    config = campaign(weak_teacher={}, teacher={"loss": {"kind": "ce"}, "keep": [10]})
    assert CampaignConfig.model_validate_json(config.model_dump_json()) == config


def test_a_template_must_say_where_the_problem_goes():
    with pytest.raises(ValidationError, match=r"must contain \{problem\}"):
        campaign(prompts=TINY | {"template": "Solve:"})


@pytest.mark.parametrize(
    "benchmarks", [{}, {"validation": TINY}, {"a b": TINY}, {"../x": TINY}], ids=str
)
def test_benchmarks_need_usable_names(benchmarks):
    with pytest.raises(ValidationError, match="benchmark"):
        EvaluationConfig.model_validate({"validation": TINY, "benchmarks": benchmarks})


def test_importing_the_config_does_not_import_torch():
    code = "import erpd_core.config, sys; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0
    )
