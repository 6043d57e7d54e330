"""Batches without a learning signal, and trainings that diverge.

Each stage ends with one error line and leaves nothing behind.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import World, context

from erpd_core.batch_outcomes import BatchOutcomes
from erpd_core.config import (
    CE,
    GRPO,
    MSE,
    SAPO,
    SFT,
    CriticConfig,
    Distill,
    OnlineConfig,
    OptimizerConfig,
    SamplingConfig,
    SignalSpec,
    TrainConfig,
)
from erpd_core.faults import Fault
from erpd_core.refs import LogprobRef, PolicyRef, RolloutRef
from tasks.execution.stage import Context, get_or_compute
from tasks.rollouts import load_batch, shards
from tasks.rollouts.score import ScoreRollouts, load_column
from tasks.store import Store
from tasks.training.base import load_records
from tasks.training.batch_check import batch_outcomes
from tasks.training.critic import TrainCritic
from tasks.training.online import TrainOnline
from tasks.training.student import DistillStudent, SidedSignal, SignalPhase
from tasks.training.teacher import TrainTeacher

Rows = list[dict[str, object]]
numbers = count()


@pytest.fixture(scope="module")
def world(world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A copy of the shared world, because stages that fail here leave partial builds behind."""
    root = tmp_path_factory.mktemp("faults") / "store"
    shutil.copytree(world.store.root, root)
    return replace(world, store=Store(root))


def one_thread(world: World) -> Context:
    return context(world.store, cpus=1)


def doctored(world: World, change: Callable[[Rows], object]) -> RolloutRef:
    """Store a rollout of the first shard of the world's batch, with its rows changed."""
    path = next(shards(world.store, world.rollouts))
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    with world.store.build("rollouts", {"doctored": next(numbers)}, {}, 1) as build:
        assert build is not None
        build.put(
            path.name, partial(pq.write_table, pa.Table.from_pylist(rows, schema=table.schema))
        )
        tokens = sum(len(row["response_tokens"]) for row in rows)
        ref = world.rollouts.model_copy(
            update={"id": build.id, "sequences": len(rows), "tokens": tokens}
        )
        build.commit({"ref": ref.model_dump(mode="json")})
    return ref


def setting(**values: object) -> Callable[[Rows], object]:
    return lambda rows: [row.update(values) for row in rows]


def equal_groups(rows: Rows) -> None:
    """Every other problem is solved by all its samples, the rest by none."""
    places = {
        problem: place
        for place, problem in enumerate(dict.fromkeys(row["problem"] for row in rows))
    }
    for row in rows:
        row["reward"] = float(places[row["problem"]] % 2)


def emptied(rows: Rows) -> None:
    """A wrong response of each of two problems loses its tokens."""
    for problem in list(dict.fromkeys(row["problem"] for row in rows))[2:4]:
        response = next(row for row in rows if row["problem"] == problem and not row["reward"])
        response |= {"response_tokens": [], "text": ""}


def teacher(
    world: World,
    rollouts: RolloutRef,
    old: LogprobRef | None = None,
    lr: float = 2e-4,
    **config: object,
) -> TrainTeacher:
    asked = TrainConfig(optimizer=OptimizerConfig(lr=lr), minibatch=64, **config)
    return TrainTeacher(
        init=world.base,
        rollouts=rollouts,
        old=old or world.old,
        role="teacher",
        config=asked,
        seed=3,
    )


def left(world: World) -> list[str]:
    """The policies and trainings in the store."""
    return [
        *world.store.artifacts("policy"),
        *world.store.artifacts("training"),
        *world.store.artifacts("critic"),
    ]


# --------------------------------------------------------------------------------- before it starts

WRONG, RIGHT = setting(reward=0.0, verdict="wrong"), setting(reward=1.0, verdict="correct")
CUT = setting(reward=0.0, verdict="wrong", truncated=True)


@pytest.mark.parametrize(
    ("change", "loss", "says"),
    [
        (WRONG, CE(), "ce learns from right responses, and there is none"),
        (WRONG, SFT(), "sft learns from right responses, and there is none"),
        (WRONG, GRPO(), "grpo learns from groups that have both"),
        (RIGHT, MSE(), "mse learns from wrong responses too, and there is none"),
        (RIGHT, SAPO(), "sapo learns from groups that have both .*harder prompts"),
        (
            equal_groups,
            GRPO(),
            "grpo learns from groups that have both .*a loss that needs no groups",
        ),
        (CUT, CE(), "ce learns from right .*192 cut at the limit, .*raise sampling.max_new_tokens"),
        (setting(response_tokens=[], reward=0.0), CE(), "no response has a token"),
    ],
    ids=[
        "ce-wrong",
        "sft-wrong",
        "grpo-wrong",
        "mse-right",
        "sapo-right",
        "grpo-equal",
        "cut",
        "empty",
    ],
)
def test_a_batch_without_a_lesson_is_not_trained_on(
    world: World, change: Callable[[Rows], object], loss: object, says: str
):
    before = left(world)
    with pytest.raises(Fault, match=rf"^teacher training: {says}") as raised:
        get_or_compute(
            teacher(world, doctored(world, change), loss=loss, steps=2), one_thread(world)
        )
    assert "\n" not in str(raised.value)
    assert left(world) == before


def test_a_critic_is_not_fitted_to_outcomes_that_are_all_equal(world: World):
    stage = TrainCritic(
        init=world.base, rollouts=doctored(world, RIGHT), config=CriticConfig(steps=2), seed=1
    )
    with pytest.raises(Fault, match=r"^critic training: ppo learns from wrong responses too"):
        get_or_compute(stage, one_thread(world))


def test_the_outcomes_of_a_batch_are_counted(world: World):
    ref = doctored(
        world,
        lambda rows: [row.update(reward=0.0, verdict="wrong", truncated=True) for row in rows[:24]],
    )
    counted = batch_outcomes(world.store, ref)
    rows = [row for path in shards(world.store, ref) for row in pq.read_table(path).to_pylist()]
    rewards: dict[str, list[float]] = {}
    for row in rows:
        rewards.setdefault(row["problem"], []).append(row["reward"])
    assert counted == BatchOutcomes(
        responses=192,
        right=sum(row["verdict"] == "correct" for row in rows),
        empty=0,
        truncated=24,
        groups=24,
        mixed_groups=sum(0 < sum(group) < 8 for group in rewards.values()),
    )
    assert 0 < counted.mixed_groups < 24


def test_responses_without_a_token_are_left_out_and_the_rest_is_trained_on(world: World):
    """Their groups keep the other responses; axis N and all columns hold the others only."""
    full, some = doctored(world, lambda rows: None), doctored(world, emptied)
    assert (batch_outcomes(world.store, full).empty, batch_outcomes(world.store, some).empty) == (
        0,
        2,
    )
    old = get_or_compute(ScoreRollouts(policy=world.base, rollouts=some), one_thread(world))
    batch, all_of_them = (load_batch(shards(world.store, ref)) for ref in (some, full))
    assert batch.sequences == all_of_them.sequences - 2 == 190
    assert batch.tokens == some.tokens == len(load_column(world.store, old)) < full.tokens
    training = get_or_compute(teacher(world, some, old, loss=GRPO(), steps=3), one_thread(world))
    values = [value for record in load_records(world.store, training) for value in record.values()]
    assert torch.isfinite(torch.tensor(values, dtype=torch.float64)).all()


# ---------------------------------------------------------------------------------- while it trains


def test_weights_that_are_not_finite_are_not_kept(world: World):
    """The step's record is finite, but its update overflows and no later step would reveal it."""
    before = left(world)
    with pytest.raises(
        Fault,
        match=r"^teacher training, step 1: \d+ weights have become NaN or infinite, first .*; "
        r"lower the learning rate",
    ):
        get_or_compute(teacher(world, world.rollouts, lr=1e39, steps=1), one_thread(world))
    assert left(world) == before


def test_a_training_that_overflows_names_its_step_and_keeps_nothing_of_it(world: World):
    before = left(world)
    with pytest.raises(
        Fault,
        match=r"^teacher training, step 2: .*(is nan|is inf|not finite).*; lower the learning rate",
    ):
        get_or_compute(teacher(world, world.rollouts, lr=1e25, steps=5), one_thread(world))
    assert left(world) == before


def student(
    world: World, lr: float, steps: int, kl_stop: float | None = None, phases: int = 1
) -> DistillStudent:
    """A distillation of old's own log-probs: likely tokens get likelier, unlikely ones rarer."""
    phase = SignalPhase(
        signals=(SidedSignal(spec=SignalSpec(), numerator=world.old, denominator=None),),
        steps=steps,
    )
    return DistillStudent(
        init=world.base,
        rollouts=world.rollouts,
        old=world.old,
        role="student",
        seed=3,
        loss=Distill(),
        optimizer=OptimizerConfig(lr=lr),
        minibatch=64,
        keep=(),
        phases=(phase,) * phases,
        kl_stop=kl_stop,
    )


def test_a_student_whose_kl_explodes_ends_the_run(world: World):
    tokens = json.loads((world.store.path(world.base.id) / "config.json").read_text())["vocab_size"]
    with pytest.raises(
        Fault, match=r"^student training, step \d: KL\(old \|\| student\) is .*kl_stop"
    ) as raised:
        get_or_compute(student(world, lr=0.3, steps=6), one_thread(world))
    assert f"no more than {torch.log(torch.tensor(tokens)):.3g}" in str(raised.value)


def test_with_kl_stop_it_ends_there_and_goes_on_with_what_it_has(world: World):
    training = get_or_compute(student(world, lr=0.3, steps=6, kl_stop=0.5), one_thread(world))
    records = load_records(world.store, training)
    assert len(records) < 6 and records[-1]["kl_old_theta_on_old_batch"] >= 0.5
    assert [policy.step for policy in training.trail] == [len(records)]


def test_a_fault_in_a_later_phase_says_which(world: World):
    stage = student(world, lr=1e-4, steps=1, phases=2)
    broken = stage.phases[1].model_copy(
        update={
            "signals": (SidedSignal(spec=SignalSpec(), numerator=world.old, denominator=world.old),)
        }
    )
    with pytest.raises(Fault, match=r"^student training: the signal is the same on every token"):
        get_or_compute(
            stage.model_copy(update={"phases": (stage.phases[0], broken)}), one_thread(world)
        )
    healthy = get_or_compute(stage, one_thread(world))
    assert [record["step"] for record in load_records(world.store, healthy)] == [1, 2]
    with pytest.raises(Fault, match=r"^student training, phase 2, step 1: "):
        get_or_compute(replace_lr(stage, 1e25), one_thread(world))


def replace_lr(stage: DistillStudent, lr: float) -> DistillStudent:
    return stage.model_copy(update={"optimizer": OptimizerConfig(lr=lr)})


def test_a_critic_that_diverges_is_not_used(world: World):
    config = CriticConfig(optimizer=OptimizerConfig(lr=3.0), steps=2, minibatch=64)
    stage = TrainCritic(
        init=world.base, rollouts=doctored(world, lambda rows: None), config=config, seed=1
    )
    with pytest.raises(
        Fault,
        match=r"^critic training: the critic has diverged: .*; lower the critic's learning rate",
    ):
        get_or_compute(stage, one_thread(world))
    assert stage.stored(world.store) is None


def test_an_online_training_that_overflows_names_its_batch(world: World):
    sampling = SamplingConfig(samples=4, temperature=1.0, max_new_tokens=24)
    config = OnlineConfig(
        optimizer=OptimizerConfig(lr=1e39), steps=3, prompts_per_step=16, sampling=sampling
    )
    with pytest.raises(
        Fault, match=r"^online training, fresh batch 2: .*not finite; .*lower.* learning rate"
    ):
        get_or_compute(
            TrainOnline(init=world.base, problems=world.problems, config=config, seed=5),
            one_thread(world),
        )


# ----------------------------------------------------------------------------------- other policies


def test_tokens_that_mean_something_else_are_refused_though_they_are_as_many(world: World):
    with world.store.build("policy", {"shuffled": True}, {}, 1) as build:
        assert build is not None
        for path in world.store.path(world.base.id).iterdir():
            if path.name != "manifest.json":
                build.put(path.name, partial(shutil.copyfile, path))
        written = json.loads((build.folder / "tokenizer.json").read_text())
        vocab = written["model"]["vocab"]
        (a, at), (b, place) = list(vocab.items())[-2:]
        vocab[a], vocab[b] = place, at
        build.put("tokenizer.json", lambda target: target.write_text(json.dumps(written)))
        build.commit({})
    with pytest.raises(
        ValueError, match=rf"token {min(at, place)} is not the same in .* one vocabulary"
    ):
        get_or_compute(
            ScoreRollouts(policy=PolicyRef(id=build.id), rollouts=world.rollouts), one_thread(world)
        )


def test_a_study_whose_arms_end_by_faults_tells_the_first_in_its_own_words():
    from flows.ablation import failure_of

    nan = Fault("loss is nan", "lower the learning rate", "step 3")
    assert str(failure_of({"ce": nan})) == "arm ce, step 3: loss is nan; lower the learning rate"
    two = failure_of({"ce": nan, "grpo": nan})
    assert isinstance(two, Fault) and str(two).startswith(
        "arm ce, the first of 2 that end like this, step 3: loss is nan"
    )
    mixed = failure_of({"ce": nan, "grpo": OSError("no room")})
    assert (
        not isinstance(mixed, Fault)
        and str(mixed).startswith("arms failed: ce: step 3: loss is nan")
        and "grpo: no room" in str(mixed)
    )
