"""Training learns, keeps a trail, and resumes to the same bits; evaluations are recomputed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from helpers import World, context, dying, flip_a_bit, python
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from erpd_core.config import (
    CE,
    SAPO,
    Distill,
    OptimizerConfig,
    SamplingConfig,
    SignalSpec,
    TinyProblems,
    TrainConfig,
)
from erpd_core.refs import EvalReport, PolicyRef, ProblemsRef, TrainingRef
from tasks.datasets import draw_problems
from tasks.evaluation.evaluate import EvaluatePolicy
from tasks.evaluation.result_files import load_details
from tasks.execution.progress import Progress
from tasks.execution.stage import get_or_compute
from tasks.rollouts import SampleRollouts, load_batch, shards
from tasks.rollouts.score import ScoreRollouts
from tasks.store import Store
from tasks.training.base import KeptPolicy, load_records
from tasks.training.checkpoint import RESUME
from tasks.training.student import DistillStudent, SidedSignal, SignalPhase
from tasks.training.teacher import TrainTeacher

pytestmark = pytest.mark.slow

SAMPLING = SamplingConfig(samples=8, temperature=1.0, max_new_tokens=24, shard=64)
FAST = OptimizerConfig(lr=2e-4)


def teacher_stage(world: World, config: TrainConfig) -> TrainTeacher:
    return TrainTeacher(
        init=world.base,
        rollouts=world.rollouts,
        old=world.old,
        role="teacher",
        config=config,
        seed=3,
    )


def student_stage(
    world: World, teacher: PolicyRef, steps: int = 12, keep: tuple[int, ...] = ()
) -> DistillStudent:
    """Strategy 1: teacher over old, whitened."""
    numerator = get_or_compute(
        ScoreRollouts(policy=teacher, rollouts=world.rollouts), world.context
    )
    phase = SignalPhase(
        signals=(SidedSignal(spec=SignalSpec(), numerator=numerator, denominator=world.old),),
        steps=steps,
    )
    return DistillStudent(
        init=world.base,
        rollouts=world.rollouts,
        old=world.old,
        role="student",
        seed=3,
        loss=Distill(),
        optimizer=FAST,
        minibatch=128,
        keep=keep,
        phases=(phase,),
    )


@pytest.fixture(scope="module")
def validation(world: World) -> ProblemsRef:
    return get_or_compute(
        draw_problems("validation", TinyProblems(split="validation", count=64), 1), world.context
    )


@pytest.fixture(scope="module")
def teacher(world: World) -> TrainingRef:
    return get_or_compute(
        teacher_stage(
            world, TrainConfig(loss=SAPO(), optimizer=FAST, minibatch=128, steps=20, keep=(5,))
        ),
        world.context,
    )


@pytest.fixture(scope="module")
def student(world: World, teacher: TrainingRef) -> TrainingRef:
    return get_or_compute(student_stage(world, teacher.last), world.context)


def test_a_distillation_stops_where_its_kl_does(world: World, teacher: TrainingRef):
    """Eq. 7's radius: the first step whose minibatch is that far from old is kept as the last."""
    free = student_stage(world, teacher.last, steps=6)
    records = load_records(world.store, get_or_compute(free, world.context))
    limit = records[3]["kl_old_theta_on_old_batch"]
    assert all(record["kl_old_theta_on_old_batch"] < limit for record in records[:3]), (
        "this seed must give a growing KL"
    )
    stopped = get_or_compute(free.model_copy(update={"kl_stop": limit}), world.context)
    assert [policy.step for policy in stopped.trail] == [4]
    assert load_records(world.store, stopped) == records[:4]
    assert stopped.last.id != get_or_compute(free, world.context).last.id


def report(world: World, policy: PolicyRef, problems: ProblemsRef) -> EvalReport:
    stage = EvaluatePolicy(
        policy=policy,
        old=world.base,
        base=world.base,
        benchmarks={"validation": problems},
        sampling=SAMPLING,
        seed=11,
    )
    return get_or_compute(stage, world.context)


def accuracy(world: World, policy: PolicyRef, problems: ProblemsRef) -> float:
    return report(world, policy, problems).scores["validation"].avg


# ---------------------------------------------------------------------------------- what is learned


def test_the_teacher_is_better_on_problems_it_has_not_seen(
    world: World, teacher: TrainingRef, validation: ProblemsRef
):
    gain = accuracy(world, teacher.last, validation) - accuracy(world, world.base, validation)
    assert gain > 0.10, f"20 SAPO steps on 512 samples gain {gain:+.3f}"


def test_the_student_is_better_than_its_start_and_nearer_to_it_than_its_teacher(
    world: World, teacher: TrainingRef, student: TrainingRef, validation: ProblemsRef
):
    base, taught, learned = (
        report(world, policy, validation) for policy in (world.base, teacher.last, student.last)
    )
    assert learned.scores["validation"].avg > base.scores["validation"].avg + 0.10
    assert 0 < learned.kl_old < taught.kl_old


def test_records_say_what_happened(world: World, teacher: TrainingRef):
    records = load_records(world.store, teacher)
    assert [record["step"] for record in records] == list(range(1, 21))
    assert all(
        torch.isfinite(torch.tensor(list(record.values()), dtype=torch.float64)).all()
        for record in records
    )
    first, last = records[0], records[-1]
    assert first["ratio_mean"] == pytest.approx(1, abs=1e-4) and first[
        "kl_old_theta_on_old_batch"
    ] == pytest.approx(0, abs=1e-6)
    assert last["kl_old_theta_on_old_batch"] > 1e-3
    assert (
        last["prob_positive"] - last["prob_negative"]
        > first["prob_positive"] - first["prob_negative"]
    ), "it separates right from wrong better"


def test_the_trail_holds_the_kept_steps_as_policies_of_their_own(
    world: World, teacher: TrainingRef
):
    assert [policy.step for policy in teacher.trail] == [5, 20]
    assert all(policy.role == "teacher" and world.store.has(policy.id) for policy in teacher.trail)
    assert teacher.at(5).id == KeptPolicy(training=teacher.id, step=5).identity()
    with pytest.raises(LookupError, match=r"\[5, 20\]"):
        teacher.at(7)
    weights = [
        load_file(world.store.path(policy.id) / "model.safetensors")
        for policy in (world.base, *teacher.trail)
    ]
    assert all(
        not torch.equal(a[name], b[name])
        for a, b in pairwise(weights)
        for name in a
        if name.endswith("q_proj.weight")
    )
    files = [
        {path.name for path in world.store.path(policy.id).iterdir()}
        for policy in (world.base, *teacher.trail)
    ]
    assert files[0] == files[1] == files[2]


def test_a_finished_training_keeps_records_and_no_checkpoint(world: World, teacher: TrainingRef):
    assert {path.name for path in world.store.path(teacher.id).iterdir()} == {
        "records.jsonl",
        "manifest.json",
    }


def test_a_kept_step_is_what_a_shorter_run_ends_in(world: World, teacher: TrainingRef):
    shorter = get_or_compute(
        teacher_stage(world, TrainConfig(loss=SAPO(), optimizer=FAST, minibatch=128, steps=5)),
        world.context,
    )
    ours, theirs = (
        load_file(world.store.path(policy.id) / "model.safetensors")
        for policy in (shorter.last, teacher.at(5))
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert load_records(world.store, shorter) == load_records(world.store, teacher)[:5]


def test_a_students_trail_ends_with_its_last_step(world: World, teacher: TrainingRef):
    assert student_stage(world, teacher.last, steps=12, keep=(4, 12, 99)).trail == (4, 12)


def test_phases_follow_each_other(world: World, teacher: TrainingRef):
    one_phase = student_stage(world, teacher.last, steps=3)
    two_phases = one_phase.model_copy(
        update={"phases": (*one_phase.phases, one_phase.phases[0].model_copy(update={"steps": 2}))}
    )
    ref = get_or_compute(two_phases, world.context)
    assert [record["step"] for record in load_records(world.store, ref)] == [1, 2, 3, 4, 5]
    assert [policy.step for policy in ref.trail] == [5]
    assert (
        load_records(world.store, get_or_compute(one_phase, world.context))
        == load_records(world.store, ref)[:3]
    )


# ------------------------------------------------------------------------------------------- resume

RUN = (
    """
import os, sys
from pathlib import Path
import tasks.training.off_policy
from helpers import context
from tasks.execution.stage import get_or_compute
from tasks.store import Store
from tasks.training.student import DistillStudent
from tasks.training.teacher import TrainTeacher

stage = {"teacher": TrainTeacher, "student": DistillStudent}[sys.argv[2]].model_validate_json(sys.argv[3])
die_at, every = int(sys.argv[4]), int(sys.argv[5])
"""  # noqa: E501
    + dying("tasks.training.off_policy.optimize")
    + """get_or_compute(stage, context(Store(Path(sys.argv[1])), checkpoint_every=every))
"""
)


def run(
    store: Store,
    kind: str,
    stage: TrainTeacher | DistillStudent,
    die_at: int,
    every: int,
    home: Path,
):
    path = f"{Path(__file__).parents[1]}{os.pathsep}{Path(__file__).parents[2]}"
    return python(
        RUN, store.root, kind, stage.model_dump_json(), die_at, every, home=home, PYTHONPATH=path
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "every", "die_at", "goes_on_from"), [("teacher", 3, 8, 6), ("student", 4, 10, 8)]
)
def test_a_killed_training_ends_in_the_same_bits(
    world: World,
    tmp_path: Path,
    kind: str,
    every: int,
    die_at: int,
    goes_on_from: int,
    teacher: TrainingRef,
):
    if kind == "teacher":
        stage = teacher_stage(
            world,
            TrainConfig(loss=CE(beta=0.05), optimizer=FAST, minibatch=100, steps=11, keep=(5, 7)),
        )
    else:
        stage = student_stage(world, teacher.last, keep=(5,))  # type: ignore[assignment]
    undisturbed = get_or_compute(stage, world.context)
    shutil.copytree(world.store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    for artifact in (undisturbed.id, *(policy.id for policy in undisturbed.trail)):
        store.discard(artifact)

    killed = run(store, kind, stage, die_at, every, tmp_path)
    assert killed.returncode == 9, killed.stderr
    assert (store.root / "partial" / undisturbed.id / RESUME).exists() == (goes_on_from > 0)
    again = run(store, kind, stage, -1, every, tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split() == ["from", str(goes_on_from)]

    store = Store(store.root)
    assert stage.stored(store) == undisturbed
    assert load_records(store, undisturbed) == load_records(world.store, undisturbed)
    for policy in undisturbed.trail:
        for path in world.store.path(policy.id).glob("*.safetensors"):
            assert (store.path(policy.id) / path.name).read_bytes() == path.read_bytes()
    assert not [
        path
        for path in store.root.rglob("*")
        if path.name.endswith((".tmp", ".sum")) or path.name == ".scratch"
    ]
    assert not any((store.root / "partial").iterdir())


@dataclass
class Cut(Progress):
    """Ends a training after step `at`, once its checkpoint, if one is due, is written."""

    at: int = 0

    def __call__(self, done: int, total: int, **info: Any) -> None:
        if done == self.at:
            raise InterruptedError(f"cut after step {done}")


@pytest.mark.slow
def test_a_training_cut_after_any_step_goes_on_to_the_same_bits(world: World, tmp_path: Path):
    """Weights, moments and data order come from the checkpoint and the step alone.

    Other draws from torch's generator have no effect.
    """
    stage = teacher_stage(
        world, TrainConfig(loss=CE(beta=0.05), optimizer=FAST, minibatch=16, steps=5, keep=(3,))
    )
    undisturbed = get_or_compute(stage, world.context)
    shutil.copytree(world.store.root, tmp_path / "store")
    for step in range(1, 5):
        store = Store(tmp_path / "store")
        for artifact in (undisturbed.id, *(policy.id for policy in undisturbed.trail)):
            store.discard(artifact)
        resumable = context(store, checkpoint_every=2)
        with pytest.raises(InterruptedError):
            get_or_compute(stage, replace(resumable, progress=Cut(None, at=step)))
        assert (store.root / "partial" / undisturbed.id / RESUME).exists() == (step >= 2)
        torch.manual_seed(step)
        assert get_or_compute(stage, resumable) == undisturbed
        assert load_records(store, undisturbed) == load_records(world.store, undisturbed), step
        for policy in undisturbed.trail:
            ours, theirs = (
                side.path(policy.id) / "model.safetensors" for side in (store, world.store)
            )
            assert ours.read_bytes() == theirs.read_bytes(), step


@pytest.mark.slow
def test_a_checkpoint_that_was_damaged_is_not_gone_on_from(world: World, tmp_path: Path):
    stage = teacher_stage(
        world, TrainConfig(loss=CE(beta=0.05), optimizer=FAST, minibatch=100, steps=11, keep=(5, 7))
    )
    undisturbed = get_or_compute(stage, world.context)
    shutil.copytree(world.store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    for artifact in (undisturbed.id, *(policy.id for policy in undisturbed.trail)):
        store.discard(artifact)
    assert run(store, "teacher", stage, 8, 3, tmp_path).returncode == 9
    flip_a_bit(store.root / "partial" / undisturbed.id / RESUME)
    again = run(store, "teacher", stage, -1, 3, tmp_path)
    assert again.stdout.split() == ["from", "0"], again.stderr
    last = undisturbed.last.id
    assert (store.path(last) / "model.safetensors").read_bytes() == (
        world.store.path(last) / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("harm", ["flipped", "gone"])
def test_a_kept_policy_that_was_damaged_is_made_again(
    world: World, tmp_path: Path, teacher: TrainingRef, harm: str
):
    """The training is in the store; the policies of its trail must be there too, undamaged."""
    shutil.copytree(world.store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    weights = store.path(teacher.last.id) / "model.safetensors"
    flip_a_bit(weights) if harm == "flipped" else shutil.rmtree(weights.parent)
    stage = teacher_stage(
        world, TrainConfig(loss=SAPO(), optimizer=FAST, minibatch=128, steps=20, keep=(5,))
    )
    assert get_or_compute(stage, context(store)) == teacher
    assert store.damage(teacher.last.id) is None
    assert (
        weights.read_bytes()
        == (world.store.path(teacher.last.id) / "model.safetensors").read_bytes()
    )


# --------------------------------------------------------------------------------------- evaluation


def test_the_kl_of_the_base_to_itself_is_zero(world: World, validation: ProblemsRef):
    measured = report(world, world.base, validation)
    assert measured.kl_old == measured.kl_base == 0.0
    assert measured.policy == world.base.id


def test_a_reports_numbers_are_those_of_an_independent_computation(
    world: World, student: TrainingRef, validation: ProblemsRef
):
    """Scores come from the shards' verdicts.

    KL, entropy and length come from transformers alone, one response at a time, in float64.
    """
    measured = report(world, student.last, validation)
    ref = get_or_compute(
        SampleRollouts(policy=student.last, problems=validation, sampling=SAMPLING, seed=11),
        world.context,
    )
    rows = [row for path in shards(world.store, ref) for row in pq.read_table(path).to_pylist()]
    assert len(rows) == 64 * 8
    assert measured.scores["validation"].avg == pytest.approx(
        sum(row["verdict"] == "correct" for row in rows) / len(rows)
    )
    assert (measured.scores["validation"].k, measured.scores["validation"].problems) == (8, 64)
    low, high = measured.scores["validation"].ci95
    assert low < measured.scores["validation"].avg < high
    assert measured.length == pytest.approx(
        sum(len(row["response_tokens"]) for row in rows) / len(rows)
    )

    models = [
        AutoModelForCausalLM.from_pretrained(
            world.store.path(policy.id), dtype=torch.float32
        ).eval()
        for policy in (student.last, world.base)
    ]
    kl = entropy = 0.0
    tokens = 0
    with torch.no_grad():
        for row in rows:
            prompt, response = row["prompt_tokens"], torch.tensor(row["response_tokens"])
            ids = torch.tensor([prompt + row["response_tokens"]])
            own, other = (
                torch.log_softmax(model(ids).logits[0, len(prompt) - 1 : -1].double(), -1)
                for model in models
            )
            kl += float((own - other).gather(1, response[:, None]).sum())
            entropy += float(-(own.exp() * own).sum())
            tokens += len(response)
    assert measured.kl_old == measured.kl_base == pytest.approx(kl / tokens, abs=1e-4)
    assert measured.entropy == pytest.approx(entropy / tokens, abs=1e-4)


def test_several_benchmarks_are_weighed_by_their_tokens(
    world: World, student: TrainingRef, validation: ProblemsRef
):
    both = EvaluatePolicy(
        policy=student.last,
        old=world.base,
        base=world.base,
        benchmarks={"validation": validation, "train": world.problems},
        sampling=SAMPLING,
        seed=11,
    )
    measured = get_or_compute(both, world.context)
    on_validation, on_train = (
        report(world, student.last, validation),
        report(world, student.last, world.problems),
    )
    assert measured.scores["validation"] == on_validation.scores["validation"]
    weights = [
        get_or_compute(
            SampleRollouts(policy=student.last, problems=p, sampling=SAMPLING, seed=11),
            world.context,
        ).tokens
        for p in (validation, world.problems)
    ]
    expected = (on_validation.kl_old * weights[0] + on_train.kl_old * weights[1]) / sum(weights)
    assert measured.kl_old == pytest.approx(expected, abs=1e-9)
    assert measured.length == pytest.approx((on_validation.length + on_train.length) / 2)


def test_the_report_is_kept_as_a_file(world: World, validation: ProblemsRef):
    stage = EvaluatePolicy(
        policy=world.base,
        old=world.base,
        base=world.base,
        benchmarks={"validation": validation},
        sampling=SAMPLING,
        seed=11,
    )
    measured = get_or_compute(stage, world.context)
    assert (
        EvalReport.model_validate(
            json.loads((world.store.path(stage.identity()) / "report.json").read_text())
        )
        == measured
    )


def test_responses_cut_at_the_limit_are_counted(world: World, validation: ProblemsRef):
    sampling = SAMPLING.model_copy(update={"max_new_tokens": 3})
    ref = get_or_compute(
        SampleRollouts(policy=world.base, problems=validation, sampling=sampling, seed=1),
        world.context,
    )
    stage = EvaluatePolicy(
        policy=world.base,
        old=world.base,
        base=world.base,
        benchmarks={"validation": validation},
        sampling=sampling,
        seed=1,
    )
    get_or_compute(stage, world.context)
    batch = load_batch(shards(world.store, ref))
    assert (
        load_details(world.store, stage.identity())["validation"].truncated > 0.9
        and int(batch.length_S.max()) == 3
    )
    assert ref.accuracy < 0.1, "three tokens are too few for most answers"
