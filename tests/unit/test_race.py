"""Stages that sample until an answer is known, and engines that serve several policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers import World

from erpd_core.config import (
    SAPO,
    OptimizerConfig,
    RaceSelection,
    SamplingConfig,
    TinyProblems,
    TrainConfig,
)
from erpd_core.faults import Fault
from erpd_core.refs import PolicyRef, ProblemsRef, RaceRef, TrainingRef
from erpd_core.scoring import avg_at_k
from tasks.datasets import draw_problems
from tasks.evaluation.evaluate import EvaluatePolicy
from tasks.evaluation.gain import ProveGain
from tasks.evaluation.race import RacePolicies, TrustRegion
from tasks.execution.stage import get_or_compute
from tasks.rollouts import SampleRollouts, outcomes, samplers, shards
from tasks.rollouts.informative import SampleInformative
from tasks.rollouts.samplers import kept_engines
from tasks.training.teacher import TrainTeacher

SAMPLING = SamplingConfig(samples=16, temperature=1.0, max_new_tokens=24, shard=32)


@pytest.fixture(scope="module")
def validation(world: World) -> ProblemsRef:
    return get_or_compute(
        draw_problems("validation", TinyProblems(split="validation", count=96), 1), world.context
    )


@pytest.fixture(scope="module")
def training(world: World) -> TrainingRef:
    """A teacher that improves clearly, with a policy near the base as its first step."""
    stage = TrainTeacher(
        init=world.base,
        rollouts=world.rollouts,
        old=world.old,
        role="teacher",
        seed=3,
        config=TrainConfig(
            loss=SAPO(),
            optimizer=OptimizerConfig(lr=2e-4),
            minibatch=128,
            steps=20,
            keep=(1,),
        ),
    )
    return get_or_compute(stage, world.context)


def race_of(
    world: World, training: TrainingRef, validation: ProblemsRef, **changes: Any
) -> RacePolicies:
    settings: dict[str, Any] = {
        "candidates": {f"step {policy.step}": policy for policy in training.trail},
        "problems": validation,
        "sampling": SAMPLING,
        "race": RaceSelection(round=4, samples=16),
        "seed": 5,
    }
    return RacePolicies(**settings | changes)


@pytest.fixture(scope="module")
def raced(world: World, training: TrainingRef, validation: ProblemsRef) -> RaceRef:
    return get_or_compute(race_of(world, training, validation), world.context)


def test_a_race_ends_when_one_policy_is_proven_better(raced: RaceRef, training: TrainingRef):
    first, last = raced.contestants
    assert (raced.winner, raced.policy) == ("step 20", training.last)
    assert first.dropped == "step 20 is better" and last.dropped is None
    assert first.samples == last.samples < 16 == raced.budget
    assert last.avg > first.avg and raced.saved == 1 - last.samples / 16


def test_scores_of_a_race_are_those_of_its_samples(
    world: World, raced: RaceRef, training: TrainingRef, validation: ProblemsRef
):
    stage = race_of(world, training, validation)
    for contestant in raced.contestants:
        rounds = [
            stage.samples_of(contestant.policy, number).stored(world.store)
            for number in range(contestant.samples // 4)
        ]
        assert all(rounds), "every round is an artifact"
        averages = [avg_at_k(outcomes(world.store, each)).avg for each in rounds if each]
        assert contestant.avg == pytest.approx(sum(averages) / len(averages))


def test_an_interrupted_race_goes_on_with_the_samples_it_has(
    world: World,
    raced: RaceRef,
    training: TrainingRef,
    validation: ProblemsRef,
    monkeypatch: pytest.MonkeyPatch,
):
    stage = race_of(world, training, validation)
    world.store.discard(stage.identity())
    monkeypatch.setattr(samplers, "open_engine", None)  # nothing is to be sampled
    assert get_or_compute(stage, world.context) == raced


def test_policies_beyond_the_kl_budget_do_not_take_part(
    world: World, training: TrainingRef, validation: ProblemsRef
):
    trust = TrustRegion(old=world.base, budget=None, teacher=training.last, teacher_share=0.5)
    race = get_or_compute(race_of(world, training, validation, trust=trust), world.context)
    near, far = race.contestants
    assert race.winner == "step 1" and far.dropped == "beyond the KL budget"
    assert near.kl_old is not None and far.kl_old is not None and race.kl_budget is not None
    assert near.kl_old <= race.kl_budget == pytest.approx(far.kl_old / 2)
    assert (near.samples, far.samples) == (4, 4), "the first round alone"


def test_the_first_policy_wins_if_all_are_beyond_the_budget(
    world: World, training: TrainingRef, validation: ProblemsRef
):
    trust = TrustRegion(old=world.base, budget=1e-9, teacher=training.last, teacher_share=None)
    candidates = {"b": training.last, "a": training.trail[0]}
    stage = race_of(world, training, validation, trust=trust, candidates=candidates)
    assert get_or_compute(stage, world.context).winner == "b"


@pytest.mark.parametrize(
    ("changes", "rounds"),
    [({"round": 4}, [4, 4]), ({"round": 6, "samples": 99}, [6, 6, 4]), ({"samples": 5}, [4, 1])],
)
def test_rounds_add_up_to_the_samples_that_are_allowed(
    world: World,
    training: TrainingRef,
    validation: ProblemsRef,
    changes: dict[str, int],
    rounds: list[int],
):
    assert race_of(world, training, validation, race=RaceSelection(**changes)).rounds == rounds


def gain_of(world: World, policy: PolicyRef, validation: ProblemsRef) -> ProveGain:
    start = get_or_compute(
        SampleRollouts(policy=world.base, problems=validation, sampling=SAMPLING, seed=9),
        world.context,
    )
    return ProveGain(
        policy=policy,
        start=start,
        sampling=SAMPLING,
        seed=9,
        first=2,
        alpha=0.05,
        min_gain=0.0,
    )


def test_a_clear_gain_needs_few_samples_and_no_gain_needs_all(
    world: World, training: TrainingRef, validation: ProblemsRef
):
    clear = get_or_compute(gain_of(world, training.last, validation), world.context)
    none = get_or_compute(gain_of(world, world.base, validation), world.context)
    assert clear.rollouts.samples in (2, 4, 8) and none.rollouts.samples == 16
    assert clear.rollouts.accuracy > none.rollouts.accuracy


# ------------------------------------------------------------------------------------ kept engines


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders for which an engine was opened."""
    folders: list[Path] = []
    original = samplers.open_engine

    def noted(folder: Path, *rest: Any) -> Any:
        folders.append(folder)
        return original(folder, *rest)

    monkeypatch.setattr(samplers, "open_engine", noted)
    return folders


def sampled(world: World, policy: PolicyRef, problems: ProblemsRef, seed: int) -> list[Any]:
    stage = SampleRollouts(
        policy=policy,
        problems=problems,
        sampling=SAMPLING.model_copy(update={"samples": 2}),
        seed=seed,
    )
    ref = get_or_compute(stage, world.context)
    paths = list(shards(world.store, ref))
    rows = [row for path in paths for row in pq.read_table(path)["response_tokens"].to_pylist()]
    world.store.discard(stage.identity())
    return rows


def test_one_engine_samples_several_policies_as_their_own_engines_do(
    world: World, training: TrainingRef, validation: ProblemsRef, opened: list[Path]
):
    policies = [world.base, training.last, world.base]
    alone = [sampled(world, policy, validation, 1) for policy in policies]
    assert len(opened) == 3
    opened.clear()
    with kept_engines(world.context.runtime):
        together = [sampled(world, policy, validation, 1) for policy in policies]
    assert together == alone and alone[0] != alone[1]
    assert len(opened) == 1, "the others are replaced weights"


def test_an_evaluation_starts_one_engine_for_all_its_benchmarks(
    world: World, validation: ProblemsRef, opened: list[Path]
):
    stage = EvaluatePolicy(
        policy=world.base,
        old=world.base,
        base=world.base,
        benchmarks={"a": validation, "b": world.problems},
        sampling=SAMPLING.model_copy(update={"samples": 1}),
        seed=77,
    )
    get_or_compute(stage, world.context)
    assert len(opened) == 1


# --------------------------------------------------------------------------------- refilled batches


def informative_of(world: World, groups: int, **changes: Any) -> SampleInformative:
    settings: dict[str, Any] = {
        "policy": world.base,
        "problems": world.problems,
        "sampling": SamplingConfig(samples=2, temperature=1.0, max_new_tokens=24, shard=16),
        "seed": 21,
        "informative": groups,
    }
    return SampleInformative(**settings | changes)


def groups_of(world: World, ref: Any) -> dict[str, set[float]]:
    return {problem: set(rewards) for problem, rewards in outcomes(world.store, ref).items()}


def test_a_batch_is_refilled_until_it_has_the_groups_that_are_wanted(world: World):
    wanted = informative_of(world, 12)
    plain = SampleRollouts(
        policy=world.base, problems=world.problems, sampling=wanted.sampling, seed=wanted.seed
    )
    every = groups_of(world, get_or_compute(plain, world.context))
    mixed = [problem for problem, rewards in every.items() if len(rewards) == 2]
    ref = get_or_compute(informative_of(world, 12), world.context)
    assert list(groups_of(world, ref)) == mixed[:12], "the first ones, in the order of the prompts"
    assert ref.sequences == 24 and ref.refill is not None
    refill = ref.refill
    assert refill.sampled == refill.all_right + refill.all_wrong + refill.surplus + 12
    assert refill.sampled in (16, 32, 48) and "left out" in str(refill)
    assert not list(world.store.path(ref.id).glob("drawn-*")), "what was left out is not kept"


def test_a_batch_whose_prompts_run_out_has_what_there_is(world: World):
    ref = get_or_compute(informative_of(world, 64), world.context)
    assert ref.refill is not None and ref.refill.sampled == 64 and ref.refill.surplus == 0
    assert 0 < ref.sequences < 128
    assert all(len(rewards) == 2 for rewards in groups_of(world, ref).values())


def test_a_batch_without_any_informative_group_is_refused(world: World):
    one = SamplingConfig(samples=1, temperature=1.0, max_new_tokens=24, shard=16)
    stage = informative_of(world, 8, sampling=one)
    with pytest.raises(Fault, match="none of 64 groups has both right and wrong responses"):
        get_or_compute(stage, world.context)
    world.store.discard(stage.identity())
