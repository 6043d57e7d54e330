"""An identity is the spec, the inputs and the version.

Hardware, paths, homes, labels and worker counts never enter it.
"""

# ruff: noqa: E501 (the table of changes has a row for each stage)

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import flip_a_bit, python

from erpd_core.config import (
    CE,
    PPO,
    SAPO,
    CampaignConfig,
    ChatConfig,
    CriticConfig,
    DifficultyConfig,
    DirectoryModel,
    Distill,
    EmbeddedModel,
    FileProblems,
    HubProblems,
    JudgeConfig,
    OnlineConfig,
    OptimizerConfig,
    OverlapConfig,
    RaceSelection,
    RuntimeConfig,
    SamplingConfig,
    SignalSpec,
    TinyProblems,
    TrainConfig,
    WeakTeacherConfig,
)
from erpd_core.refs import LogprobRef, PolicyRef, ProblemsRef, RolloutRef, ValuesRef
from flows.recipes.load import load_recipe
from flows.steps.preflight import campaign_id
from tasks.datasets import DrawProblems, draw_problems
from tasks.evaluation.evaluate import EvaluatePolicy
from tasks.evaluation.gain import ProveGain
from tasks.evaluation.judge.rollouts import JudgeRollouts
from tasks.evaluation.race import RacePolicies, TrustRegion
from tasks.evaluation.signal_statistics import MeasureSignal
from tasks.execution.stage import Stage
from tasks.models.import_policy import ASSETS, ImportPolicy, import_policy
from tasks.rollouts import SampleRollouts
from tasks.rollouts.informative import SampleInformative
from tasks.rollouts.score import ScoreRollouts
from tasks.training.base import KeptPolicy
from tasks.training.critic import TrainCritic
from tasks.training.online import TrainOnline
from tasks.training.student import DistillStudent, SidedSignal, SignalPhase
from tasks.training.teacher import TrainTeacher

POLICY, OTHER = PolicyRef(id="policy-a"), PolicyRef(id="policy-b")
PROBLEMS = ProblemsRef(id="problems-a", name="prompts", count=4)
ROLLOUTS = RolloutRef(
    id="rollouts-a",
    policy=POLICY,
    problems=PROBLEMS,
    samples=2,
    sequences=8,
    tokens=80,
    accuracy=0.5,
)
JUDGE = JudgeConfig(endpoint="http://here/v1", model="judge")
OLD = LogprobRef(id="column-a", policy=POLICY, rollouts="rollouts-a")
NEW = LogprobRef(id="column-b", policy=OTHER, rollouts="rollouts-a")
SAMPLING = SamplingConfig(samples=2, max_new_tokens=24)
TEACHER = TrainConfig(steps=9, keep=(3,))
ONLINE = OnlineConfig(steps=9, keep=(3,), sampling=SAMPLING)
VALUES = ValuesRef(id="critic-a", init=POLICY, rollouts="rollouts-a", explained_variance=0.5)
SIGNAL = SidedSignal(spec=SignalSpec(), numerator=NEW, denominator=OLD)
PHASE = SignalPhase(signals=(SIGNAL,), steps=4)

TRUST = TrustRegion(old=POLICY, budget=0.1, teacher=OTHER, teacher_share=0.5)

STAGES: dict[str, Stage[Any]] = {
    "ImportPolicy": ImportPolicy(
        files={"model.safetensors": "00", "config.json": "11"}, folder="/here"
    ),
    "DrawProblems": DrawProblems(name="prompts", source=TinyProblems(count=9), seed=1),
    "DrawProblems of a file": DrawProblems(
        name="prompts", source=FileProblems(path="/here/p.jsonl", count=9), seed=1, digest="00"
    ),
    "DrawProblems of the hub": DrawProblems(
        name="prompts",
        source=HubProblems(id="a/b", count=9),
        seed=1,
        digest="00",
        origin="a/b@1234",
    ),
    "SampleRollouts": SampleRollouts(policy=POLICY, problems=PROBLEMS, sampling=SAMPLING, seed=1),
    "ScoreRollouts": ScoreRollouts(policy=POLICY, rollouts=ROLLOUTS),
    "KeptPolicy": KeptPolicy(training="training-a", step=3),
    "TrainTeacher": TrainTeacher(
        init=POLICY, rollouts=ROLLOUTS, old=OLD, role="teacher", seed=1, config=TEACHER
    ),
    "TrainTeacher, unlearned": TrainTeacher(
        init=POLICY,
        rollouts=ROLLOUTS,
        old=OLD,
        role="unlearned",
        seed=1,
        config=WeakTeacherConfig(steps=9, unlearn_step=3),
    ),
    "TrainOnline": TrainOnline(init=POLICY, problems=PROBLEMS, seed=1, config=ONLINE),
    "TrainTeacher, PPO": TrainTeacher(
        init=POLICY,
        rollouts=ROLLOUTS,
        old=OLD,
        role="teacher",
        seed=1,
        config=TrainConfig(loss=PPO()),
        values=VALUES,
    ),
    "MeasureSignal": MeasureSignal(rollouts=ROLLOUTS, old=OLD, teacher=NEW, student=NEW),
    "TrainCritic": TrainCritic(init=POLICY, rollouts=ROLLOUTS, config=CriticConfig(), seed=1),
    "DistillStudent": DistillStudent(
        init=POLICY,
        rollouts=ROLLOUTS,
        old=OLD,
        role="student",
        seed=1,
        loss=Distill(),
        optimizer=OptimizerConfig(),
        minibatch=8,
        keep=(2,),
        phases=(PHASE,),
    ),
    "EvaluatePolicy": EvaluatePolicy(
        policy=OTHER,
        old=POLICY,
        base=POLICY,
        benchmarks={"test": PROBLEMS},
        sampling=SAMPLING,
        seed=1,
    ),
    "JudgeRollouts": JudgeRollouts(rollouts=ROLLOUTS, judge=JUDGE),
    "SampleInformative": SampleInformative(
        policy=POLICY, problems=PROBLEMS, sampling=SAMPLING, seed=1, informative=2
    ),
    "RacePolicies": RacePolicies(
        candidates={"a": POLICY, "b": OTHER},
        problems=PROBLEMS,
        sampling=SAMPLING,
        race=RaceSelection(),
        seed=1,
        trust=TRUST,
    ),
    "ProveGain": ProveGain(
        policy=OTHER,
        start=ROLLOUTS,
        sampling=SAMPLING,
        seed=1,
        first=1,
        alpha=0.05,
        min_gain=0.0,
    ),
}

NOT_ASKED: dict[str, list[dict[str, Any]]] = {
    "ImportPolicy": [{"folder": "/elsewhere"}],
    "DrawProblems": [{"name": "other"}, {"source": TinyProblems(count=9, seed=99)}],
    "DrawProblems of a file": [
        {"name": "other"},
        {"source": FileProblems(path="/elsewhere/q.jsonl", count=9)},
    ],
    "DrawProblems of the hub": [
        {"origin": "a/b@5678"},
        {"source": HubProblems(id="c/d", revision="1234", files=("x.csv",), count=9)},
    ],
    "SampleRollouts": [
        {"policy": PolicyRef(id="policy-a", role="student", step=7)},
        {"problems": ProblemsRef(id="problems-a", name="x", count=4)},
    ],
    "ScoreRollouts": [{"rollouts": ROLLOUTS.model_copy(update={"accuracy": 0.25})}],
    "TrainTeacher": [{"init": PolicyRef(id="policy-a", role="student", step=7)}],
    "TrainOnline": [
        {"init": PolicyRef(id="policy-a", role="student", step=7)},
        {"problems": ProblemsRef(id="problems-a", name="x", count=4)},
        {"config": ONLINE.model_copy(update={"keep": (3, 9)})},
    ],
    "TrainTeacher, PPO": [{"values": VALUES.model_copy(update={"explained_variance": None})}],
    "TrainCritic": [{"init": PolicyRef(id="policy-a", role="student", step=7)}],
    "DistillStudent": [
        {"keep": (2, 99)},
        {
            "phases": (
                SignalPhase(
                    signals=(
                        SIGNAL.model_copy(
                            update={"spec": SignalSpec(numerator="teacher@3", denominator="base")}
                        ),
                    ),
                    steps=4,
                ),
            )
        },
    ],
    "EvaluatePolicy": [{"policy": PolicyRef(id="policy-b", role="student", step=7)}],
    "JudgeRollouts": [
        {"rollouts": ROLLOUTS.model_copy(update={"accuracy": 0.25})},
        {
            "judge": JudgeConfig(
                endpoint="http://there/v1",
                model="judge",
                key_env="KEY",
                timeout=1,
                retries=0,
                concurrency=1,
            )
        },
    ],
}
"""Changes of how a stage is computed or labeled, which do not change its spec."""

ASKED: dict[str, list[dict[str, Any]]] = {
    "ImportPolicy": [
        {"files": {"model.safetensors": "01", "config.json": "11"}},
        {"files": {"model.safetensors": "00"}},
        {"gguf": "a.gguf"},
        {"chat": ChatConfig(system="s")},
    ],
    "DrawProblems": [
        {"seed": 2},
        {"earlier": (0,)},
        {"against": {"test": PROBLEMS}},
        *(
            {"source": TinyProblems(**{"count": 9, **more})}
            for more in (
                {"count": 8},
                {"split": "test"},
                {"template": "Q {problem}"},
                {"extractor": "auto"},
            )
        ),
    ],
    "DrawProblems of a file": [
        {"seed": 2},
        {"digest": "01"},
        {"earlier": (0,)},
        {"earlier": (0, 3)},
        {"against": {"test": PROBLEMS}},
        *(
            {"source": FileProblems(**{"path": "/here/p.jsonl", "count": 9, **more})}
            for more in (
                {"count": None},
                {"problem_column": "q"},
                {"answer_column": "a"},
                {"template": "Q {problem}"},
                {"extractor": "boxed"},
                {"reader": "unit_tests"},
                {"difficulty": DifficultyConfig(low=1)},
                {"overlap": OverlapConfig()},
            )
        ),
    ],
    "DrawProblems of the hub": [
        {"seed": 2},
        {"digest": "01"},
        *(
            {"source": HubProblems(**{"id": "a/b", "count": 9, **more})}
            for more in (
                {"count": None},
                {"problem_column": "q"},
                {"template": "Q {problem}"},
                {"reader": "unit_tests"},
            )
        ),
    ],
    "SampleRollouts": [
        {"policy": OTHER},
        {"problems": ProblemsRef(id="problems-b", name="prompts", count=4)},
        {"seed": 2},
        *(
            {"sampling": SAMPLING.model_copy(update=more)}
            for more in (
                {"samples": 3},
                {"temperature": 0.7},
                {"top_p": 0.9},
                {"max_new_tokens": 25},
            )
        ),
    ],
    "SampleInformative": [{"informative": 3}, {"seed": 2}],
    "RacePolicies": [
        {"candidates": {"b": OTHER, "a": POLICY}},
        {"candidates": {"a": POLICY, "c": OTHER}},
        {"problems": ProblemsRef(id="problems-b", name="prompts", count=4)},
        {"sampling": SAMPLING.model_copy(update={"temperature": 0.7})},
        {"seed": 2},
        {"trust": None},
        *(
            {"race": RaceSelection(**more)}
            for more in ({"round": 2}, {"samples": 1}, {"alpha": 0.1})
        ),
        *(
            {"trust": TRUST.model_copy(update=more)}
            for more in ({"budget": None}, {"teacher_share": 0.4}, {"teacher": POLICY})
        ),
    ],
    "ProveGain": [
        {"policy": POLICY},
        {"start": ROLLOUTS.model_copy(update={"id": "rollouts-b"})},
        {"sampling": SAMPLING.model_copy(update={"temperature": 0.7})},
        {"seed": 2},
        {"first": 2},
        {"alpha": 0.1},
        {"min_gain": 0.01},
    ],
    "ScoreRollouts": [
        {"policy": OTHER},
        {"rollouts": ROLLOUTS.model_copy(update={"id": "rollouts-b"})},
    ],
    "KeptPolicy": [{"training": "training-b"}, {"step": 4}],
    "TrainTeacher": [
        {"init": OTHER},
        {"rollouts": ROLLOUTS.model_copy(update={"id": "rollouts-b"})},
        {"old": NEW},
        {"seed": 2},
        *(
            {"config": TEACHER.model_copy(update=more)}
            for more in (
                {"steps": 10},
                {"keep": (4,)},
                {"minibatch": 63},
                {"loss": CE()},
                {"loss": CE(beta=0.02)},
                {"optimizer": OptimizerConfig(lr=2e-6)},
                {"optimizer": OptimizerConfig(max_grad_norm=2.0)},
            )
        ),
    ],
    "TrainTeacher, unlearned": [{"config": WeakTeacherConfig(steps=9, unlearn_step=4)}],
    "TrainOnline": [
        {"init": OTHER},
        {"problems": ProblemsRef(id="problems-b", name="prompts", count=4)},
        {"seed": 2},
        *(
            {"config": ONLINE.model_copy(update=more)}
            for more in (
                {"steps": 10},
                {"keep": (4,)},
                {"prompts_per_step": 63},
                {"updates_per_batch": 2},
                {"loss": SAPO()},
                {"optimizer": OptimizerConfig(lr=2e-6)},
                {"sampling": SAMPLING.model_copy(update={"temperature": 0.7})},
            )
        ),
    ],
    "TrainTeacher, PPO": [
        {"values": VALUES.model_copy(update={"id": "critic-b"})},
        *(
            {"config": TrainConfig(loss=PPO(**more))}
            for more in ({"clip_high": 0.3}, {"alpha": 0.5})
        ),
    ],
    "MeasureSignal": [
        {"rollouts": ROLLOUTS.model_copy(update={"id": "rollouts-b"})},
        {"old": NEW},
        {"teacher": OLD},
        {"student": OLD},
    ],
    "TrainCritic": [
        {"init": OTHER},
        {"rollouts": ROLLOUTS.model_copy(update={"id": "rollouts-b"})},
        {"seed": 2},
        *(
            {"config": CriticConfig(**more)}
            for more in (
                {"steps": 9},
                {"minibatch": 9},
                {"keep": (3,)},
                {"optimizer": OptimizerConfig(lr=2e-6)},
            )
        ),
    ],
    "DistillStudent": [
        {"init": OTHER},
        {"rollouts": ROLLOUTS.model_copy(update={"id": "rollouts-b"})},
        {"old": NEW},
        {"seed": 2},
        {"loss": Distill(clip_low=0.1)},
        {"optimizer": OptimizerConfig(lr=2e-6)},
        {"minibatch": 9},
        {"keep": ()},
        {"phases": (PHASE, PHASE)},
        {"kl_stop": 0.1},
        {"phases": (PHASE.model_copy(update={"steps": 5}),)},
        {"phases": (SignalPhase(signals=(SIGNAL, SIGNAL), steps=4),)},
        *(
            {"phases": (SignalPhase(signals=(SIGNAL.model_copy(update=more),), steps=4),)}
            for more in (
                {"numerator": OLD},
                {"denominator": None},
                {"weight": 0.5},
                {"spec": SignalSpec(whiten="off")},
                {"spec": SignalSpec(positives="min")},
                {"spec": SignalSpec(denominator="live")},
            )
        ),
    ],
    "EvaluatePolicy": [
        {"policy": POLICY},
        {"old": OTHER},
        {"base": OTHER},
        {"seed": 2},
        {"benchmarks": {"other": PROBLEMS}},
        {"benchmarks": {"test": PROBLEMS, "more": PROBLEMS}},
        {"sampling": SAMPLING.model_copy(update={"top_p": 0.5})},
        {"samples": {"test": 4}},
        {"judge": JUDGE},
    ],
    "JudgeRollouts": [
        {"rollouts": ROLLOUTS.model_copy(update={"id": "rollouts-b"})},
        *(
            {"judge": JUDGE.model_copy(update=more)}
            for more in (
                {"model": "other"},
                {"seed": 1},
                {"reply_tokens": 9},
                {"max_calls": 9},
                {"max_tokens": 9},
                {"max_seconds": 9.0},
            )
        ),
    ],
}

OTHER_RUNTIME = {
    "ray": "off",
    "ray_address": "10.0.0.1:6379",
    "engine": "transformers",
    "tensor_parallel": 2,
    "gpu_memory_utilization": 0.5,
    "kv_cache_gib": 4.0,
    "device": "cpu",
    "dtype": "bfloat16",
    "cpus": 7,
    "gpus": 2.0,
    "token_budget": 999,
    "checkpoint_every": 3,
    "answer_seconds": 5.0,
    "pause_seconds": 5.0,
    "samplers": 3,
    "scorers": 3,
    "sampler_cpus": 2,
    "sampler_gpus": 0.5,
    "sampler_deadline": 60.0,
    "redo_seconds": 0.0,
    "niceness": 15,
    "trainers": 4,
    "trainer_cpus": 2,
    "trainer_gpus": 1,
    "recompute": True,
    "offload": True,
}


def kinds(of: type) -> Iterator[type]:
    for kind in of.__subclasses__():
        yield from kinds(kind)
        if not inspect.isabstract(kind) and kind.__module__.startswith("tasks."):
            yield kind


def test_every_stage_of_the_project_is_in_these_tests():
    assert {kind.__name__ for kind in kinds(Stage)} == {
        name.partition(",")[0].partition(" of")[0] for name in STAGES
    }
    assert set(ASKED) == set(STAGES) >= set(NOT_ASKED)


def test_resources_do_not_affect_identity():
    """A campaign is the same on any machine, with any engine, device, budget or workers."""
    assert set(OTHER_RUNTIME) == set(RuntimeConfig.model_fields), (
        "a new field of the runtime belongs in this test"
    )
    tiny = load_recipe("tiny")
    for name, value in OTHER_RUNTIME.items():
        other = load_recipe("tiny", [f"runtime.{name}={json.dumps(value)}"])
        assert other.runtime != tiny.runtime or getattr(tiny.runtime, name) == value
        assert other.spec() == tiny.spec() and campaign_id(other) == campaign_id(tiny), name
    assert not any("runtime" in stage.spec() for stage in STAGES.values())
    assert not {name for kind in kinds(Stage) for name in kind.model_fields} & set(OTHER_RUNTIME), (
        "no stage even holds a resource"
    )


def test_more_iterations_go_on_with_the_same_campaign():
    assert campaign_id(load_recipe("tiny", ["iterations=9"])) == campaign_id(load_recipe("tiny"))


def test_a_description_does_not_affect_identity():
    assert campaign_id(load_recipe("tiny", ["description=other words"])) == campaign_id(
        load_recipe("tiny")
    )


@pytest.mark.parametrize("name", sorted(NOT_ASKED))
def test_how_and_where_a_stage_is_done_does_not_affect_its_identity(name: str):
    stage = STAGES[name]
    for change in NOT_ASKED[name]:
        other = stage.model_copy(update=change)
        assert other != stage
        assert other.identity() == stage.identity(), change


@pytest.mark.parametrize("name", sorted(ASKED))
def test_whatever_is_asked_of_a_stage_affects_its_identity(name: str):
    stage = STAGES[name]
    others = [stage.model_copy(update=change).identity() for change in ASKED[name]]
    assert len({stage.identity(), *others}) == 1 + len(others), [
        change
        for change, identity in zip(ASKED[name], others, strict=True)
        if identity == stage.identity()
    ]


def test_a_teacher_without_a_critic_is_asked_as_before_there_were_critics():
    """Its inputs name no values, so results from before keep their identity."""
    assert STAGES["TrainTeacher"].inputs() == {
        "init": "policy-a",
        "rollouts": "rollouts-a",
        "old": "column-a",
    }
    assert "values" not in STAGES["TrainTeacher"].spec()


@pytest.mark.parametrize(
    ("loss", "values"),
    [(PPO(), None), (CE(), VALUES), (PPO(), VALUES.model_copy(update={"rollouts": "rollouts-b"}))],
    ids=["PPO without values", "values without PPO", "values of another batch"],
)
def test_values_go_with_ppo_and_are_those_of_the_batch(loss: PPO | CE, values: ValuesRef | None):
    with pytest.raises(ValueError, match="values"):
        TrainTeacher(
            init=POLICY,
            rollouts=ROLLOUTS,
            old=OLD,
            role="teacher",
            seed=1,
            config=TrainConfig(loss=loss),
            values=values,
        )


@pytest.mark.parametrize("name", sorted(STAGES))
def test_the_version_of_a_step_affects_its_identity(name: str, monkeypatch: pytest.MonkeyPatch):
    before = STAGES[name].identity()
    monkeypatch.setattr(type(STAGES[name]), "VERSION", 99)
    assert STAGES[name].identity() != before


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_that_travelled_as_json_has_the_same_identity(name: str):
    stage = STAGES[name]
    again = type(stage).model_validate_json(stage.model_dump_json())
    assert again == stage and again.identity() == stage.identity()


ASKED_OF_A_CAMPAIGN = [
    "name=other",
    "seed=1",
    "prompts.count=9",
    "prompts.split=test",
    "sampling.samples=3",
    "sampling.temperature=0.5",
    "sampling.top_p=0.5",
    "sampling.max_new_tokens=9",
    "teacher.loss={kind: sapo}",
    "teacher.loss={kind: sapo, tau_neg: 3}",
    "teacher.optimizer.lr=1",
    "teacher.optimizer.weight_decay=1",
    "teacher.minibatch=9",
    "teacher.steps=999",
    "teacher.keep=[7]",
    "weak_teacher.unlearn_step=11",
    "weak_teacher.steps=99",
    "distill.loss.clip_high=9",
    "distill.loss.entropy_weight=9",
    "distill.optimizer.lr=1",
    "distill.steps=99",
    "distill.select=validation",
    "distill.minibatch=9",
    "distill.kl_stop=0.1",
    "runs={other: {steps: 3}}",
    "online={steps: 5}",
    "decision.at_most={S3: 2}",
    "decision.teacher=always",
    "evaluation.signal=true",
    "evaluation.samples={test: 3}",
    "distill.S1=[{signal: {whiten: scale}}]",
    "distill.S3=[{signal: {denominator: base}}]",
    "evaluation.validation.count=9",
    "evaluation.validation_sampling.samples=3",
    "evaluation.selection={kind: full}",
    "evaluation.selection.round=3",
    "evaluation.selection.alpha=0.1",
    "prompts.informative=9",
    "evaluation.benchmarks.test.count=9",
    "evaluation.benchmarks.more={kind: tiny}",
    "evaluation.sampling.top_p=0.5",
    "decision.mode=fixed",
    "decision.allowed=[S1]",
    "decision.z=9",
    "decision.min_gain=0.5",
]


def test_whatever_is_asked_of_a_campaign_affects_its_identity():
    common = [
        "decision={}",
        "teacher.keep=[]",
        "distill.keep=[]",
        "distill.select=last",
        "distill.kl_budget_of_teacher=null",
    ]
    base = campaign_id(load_recipe("tiny", common))
    identities = {
        override: campaign_id(load_recipe("tiny", [*common, override]))
        for override in ASKED_OF_A_CAMPAIGN
    }
    assert [override for override, identity in identities.items() if identity == base] == []
    assert len(set(identities.values())) == len(identities)


def test_a_full_selection_is_that_of_campaigns_from_before_there_were_races():
    spec = load_recipe("tiny", ["evaluation.selection={kind: full}"]).spec()
    assert "selection" not in spec["evaluation"]
    assert "selection" in load_recipe("tiny").spec()["evaluation"]


# -------------------------------------------------------------------------------------------- paths


def test_where_a_model_lies_does_not_affect_what_is_imported(tmp_path: Path):
    places = [
        Path(shutil.copytree(ASSETS / "tiny-base", tmp_path / name)) for name in ("one", "two")
    ]
    identities = {import_policy(DirectoryModel(path=str(place))).identity() for place in places}
    assert identities == {import_policy(EmbeddedModel()).identity()}


def test_where_a_file_lies_does_not_affect_what_is_drawn(tmp_path: Path):
    row = '{"problem": "1+1", "answer": "2"}\n'
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).write_text(row)
    one, two = (
        draw_problems("a", FileProblems(path=str(tmp_path / name)), 0).identity()
        for name in ("one.jsonl", "two.jsonl")
    )
    assert one == two
    (tmp_path / "two.jsonl").write_text(row * 2)
    assert draw_problems("a", FileProblems(path=str(tmp_path / "two.jsonl")), 0).identity() != one


def campaign_from(model: Path, data: Path) -> CampaignConfig:
    return load_recipe(
        "tiny",
        [f"model={{kind: directory, path: {model}}}", f"prompts={{kind: file, path: {data}}}"],
    )


def test_where_model_and_data_lie_does_not_affect_the_campaign(tmp_path: Path):
    """Moved or mounted elsewhere, the bytes are the same: a killed campaign must be found again."""
    for name in ("one", "two"):
        shutil.copytree(ASSETS / "tiny-base", tmp_path / name)
        (tmp_path / name / "p.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n')
    one, two = (
        campaign_from(tmp_path / name, tmp_path / name / "p.jsonl") for name in ("one", "two")
    )
    assert campaign_id(one) == campaign_id(two)


def test_other_bytes_in_the_same_place_are_another_campaign(tmp_path: Path):
    """Page, MLflow run and report must not mix two models that used one directory in turn."""
    shutil.copytree(ASSETS / "tiny-base", tmp_path / "one")
    data = tmp_path / "p.jsonl"
    data.write_text('{"problem": "1+1", "answer": "2"}\n')
    before = campaign_id(campaign_from(tmp_path / "one", data))
    flip_a_bit(tmp_path / "one" / "model.safetensors", 0.9)
    after = campaign_id(campaign_from(tmp_path / "one", data))
    data.write_text('{"problem": "1+2", "answer": "3"}\n')
    assert len({before, after, campaign_id(campaign_from(tmp_path / "one", data))}) == 3


ELSEWHERE = """
import json, sys
from flows.steps.preflight import campaign_id
from flows.recipes.load import load_recipe
from test_identity import STAGES
print(json.dumps({"campaign": campaign_id(load_recipe("tiny")), **{name: stage.identity() for name, stage in STAGES.items()}}))
"""


@pytest.mark.slow
def test_another_process_home_and_hash_seed_gives_the_same_identities(tmp_path: Path):
    path = os.pathsep.join(str(Path(__file__).parents[number]) for number in range(3))
    done = python(
        ELSEWHERE,
        home=tmp_path / "far" / "away",
        PYTHONPATH=path,
        PYTHONHASHSEED="12345",
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "campaign": campaign_id(load_recipe("tiny")),
        **{name: stage.identity() for name, stage in STAGES.items()},
    }
