"""On-policy training learns, samples its live weights, and resumes to the same bits."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import World, context, python
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import tasks.training.online
from erpd_core.advantages import group_normalized
from erpd_core.batch import minibatches
from erpd_core.config import (
    GRPO,
    MSE,
    FileProblems,
    OnlineConfig,
    OptimizerConfig,
    SamplingConfig,
    TinyProblems,
)
from erpd_core.optimize import make_optimizer, optimize, score
from erpd_core.refs import Problem, ProblemsRef, TrainingRef
from erpd_core.signals import FixedSignal
from erpd_core.step_statistics import Record
from tasks.datasets import draw_problems, load_problems
from tasks.engines import Engine, Sample, open_engine
from tasks.execution.stage import Context, get_or_compute
from tasks.grading import Grader
from tasks.models.policy import load_policy, save_policy
from tasks.rollouts import SampleRollouts, sample_and_grade, seed_of, to_batch
from tasks.store import Store
from tasks.training.base import load_records
from tasks.training.checkpoint import RESUME
from tasks.training.online import TrainOnline

pytestmark = pytest.mark.slow

SAMPLING = SamplingConfig(samples=8, temperature=1.0, max_new_tokens=24, shard=24)
FAST = OptimizerConfig(lr=3e-4)
STEPS, PROMPTS = 12, 32


def stage(world: World, problems: ProblemsRef | None = None, **config: Any) -> TrainOnline:
    asked = {
        "optimizer": FAST,
        "steps": STEPS,
        "prompts_per_step": PROMPTS,
        "sampling": SAMPLING,
        **config,
    }
    return TrainOnline(
        init=world.base, problems=problems or world.problems, config=OnlineConfig(**asked), seed=3
    )


@pytest.fixture(scope="module")
def online(world: World) -> TrainingRef:
    return get_or_compute(stage(world, keep=(4,)), one_thread(world))


@pytest.fixture(scope="module")
def unanswerable(world: World, tmp_path_factory: pytest.TempPathFactory) -> ProblemsRef:
    """Problems whose gold answer the base never gives: every response of a group is wrong."""
    path = tmp_path_factory.mktemp("problems") / "unanswerable.jsonl"
    rows = [
        {"problem": problem.prompt, "answer": "98765432"}
        for problem in load_problems(world.store, world.problems)[:8]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return get_or_compute(
        draw_problems("unanswerable", FileProblems(path=str(path), extractor="hash"), 1),
        one_thread(world),
    )


def one_thread(world: World) -> Context:
    """A context with one thread; more would slow so small a model down, above all on busy cores."""
    return context(world.store, cpus=1)


def numbers(records: list[Record]) -> list[Record]:
    """Records without their times."""
    return [
        {key: value for key, value in record.items() if not key.startswith("seconds_")}
        for record in records
    ]


# ---------------------------------------------------------------------------------- what is learned


def test_accuracy_on_training_prompts_rises(world: World, online: TrainingRef):
    reward = [record["reward_mean"] for record in load_records(world.store, online)]
    gain = sum(reward[-3:]) / 3 - sum(reward[:3]) / 3
    assert gain > 0.15, f"12 steps of 32 prompts gain {gain:+.3f}: {reward}"


def test_the_policy_is_better_on_problems_it_has_not_seen(world: World, online: TrainingRef):
    problems = get_or_compute(
        draw_problems("validation", TinyProblems(split="validation", count=64), 1),
        one_thread(world),
    )
    asked = [
        SampleRollouts(policy=policy, problems=problems, sampling=SAMPLING, seed=5)
        for policy in (world.base, online.last)
    ]
    before, after = (get_or_compute(rollouts, one_thread(world)).accuracy for rollouts in asked)
    assert after > before + 0.10


def test_records_say_what_happened(world: World, online: TrainingRef):
    records = load_records(world.store, online)
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    for record in records:
        assert record.keys() >= {
            "loss",
            "grad_norm",
            "entropy",
            "clip_fraction",
            "ratio_mean",
            "prob_positive",
            "prob_negative",
            "kl_old_theta_on_old_batch",
            "reward_mean",
            "length_mean",
            "kl_theta_start",
            "groups_informative",
            "updates",
            "seconds_rollout",
            "seconds_update",
            "seconds_kl",
        }
        assert torch.isfinite(torch.tensor(list(record.values()), dtype=torch.float64)).all()
        assert record["updates"] == 1 and 0 < record["groups_informative"] <= PROMPTS
        assert min(record["seconds_rollout"], record["seconds_update"], record["seconds_kl"]) > 0
        assert record["ratio_max"] == pytest.approx(1, abs=1e-3), (
            "with one update per batch the samples are the policy's own"
        )
        assert record["clip_fraction"] == 0
    assert records[0]["kl_theta_start"] == 0.0
    assert records[-1]["kl_theta_start"] > 0.01


def test_the_trail_holds_the_kept_steps_and_nothing_only_resuming_needs_stays(
    world: World, online: TrainingRef
):
    assert [(policy.role, policy.step) for policy in online.trail] == [
        ("online", 4),
        ("online", STEPS),
    ]
    assert all(world.store.has(policy.id) for policy in online.trail)
    assert {path.name for path in world.store.path(online.id).iterdir()} == {
        "records.jsonl",
        "manifest.json",
    }


def test_several_updates_on_each_batch_leave_its_policy_behind(world: World):
    ref = get_or_compute(stage(world, steps=2, updates_per_batch=4), one_thread(world))
    first = load_records(world.store, ref)[0]
    assert first["updates"] == 4
    assert first["ratio_max"] > 1.01 > 0.99 > first["ratio_min"], (
        "after the first update the samples are an older policy's"
    )


# --------------------------------------------------------------------------------- the live weights


def drawn(world: World, step: int) -> list[Problem]:
    problems = load_problems(world.store, world.problems)
    return [
        problems[index] for index in next(minibatches(len(problems), PROMPTS, 3, step - 1)).tolist()
    ]


def test_a_step_samples_the_weights_of_the_step_before(world: World, online: TrainingRef):
    """Step 5's numbers are recomputed from the policy saved at step 4.

    The samples come from another engine, the KL from transformers alone in float64.
    """
    fifth = load_records(world.store, online)[4]
    engine = open_engine(world.store.path(online.at(4).id), one_thread(world).runtime)
    with Grader() as grader:
        seed = seed_of(3, "step", 5) >> 32
        problems = drawn(world, 5)
        parts = [problems[:24], problems[24:]]
        tables = [
            sample_and_grade(part, engine, grader, SAMPLING, seed, "hash", lambda finished: None)
            for part in parts
        ]
    rows = [row for table in tables for row in table.to_pylist()]
    assert sum(row["reward"] for row in rows) / len(rows) == fifth["reward_mean"]
    assert sum(len(row["response_tokens"]) for row in rows) / len(rows) == fifth["length_mean"]
    right = Counter(row["problem"] for row in rows if row["verdict"] == "correct")
    assert sum(0 < right[problem.id] < 8 for problem in problems) == fifth["groups_informative"]

    models = [
        AutoModelForCausalLM.from_pretrained(
            world.store.path(policy.id), dtype=torch.float32
        ).eval()
        for policy in (online.at(4), world.base)
    ]
    kl, tokens = 0.0, 0
    with torch.no_grad():
        for row in rows:
            prompt, response = row["prompt_tokens"], torch.tensor(row["response_tokens"])
            ids = torch.tensor([prompt + row["response_tokens"]])
            own, start = (
                torch.log_softmax(model(ids).logits[0, len(prompt) - 1 : -1].double(), -1)
                for model in models
            )
            kl += float((own - start).gather(1, response[:, None]).sum())
            tokens += len(response)
    assert fifth["kl_theta_start"] == pytest.approx(kl / tokens, abs=1e-4)


def test_an_engine_follows_the_policy_it_shares_and_the_trainer_is_none_the_worse(
    world: World, tmp_path: Path
):
    folder, runtime = world.store.path(world.base.id), one_thread(world).runtime
    policy = load_policy(folder, runtime)
    separate, shared = open_engine(folder, runtime), open_engine(folder, runtime, policy)
    problems = drawn(world, 1)
    with Grader() as grader:
        table = sample_and_grade(
            problems, shared, grader, SAMPLING, 1, "hash", lambda finished: None
        )
    batch = to_batch([table])

    def sampled(engine: Engine) -> list[Sample]:
        encoded = [engine.encode(problem.prompt) for problem in problems]
        seeds = [
            [seed_of(1, problem.id, sample) for sample in range(SAMPLING.samples)]
            for problem in problems
        ]
        return engine.sample(encoded, seeds, SAMPLING, lambda index, sample: None)

    before = sampled(separate)
    assert sampled(shared) == before
    lp_N = score(policy, batch, 4096)[0]
    assert lp_N.equal(score(load_policy(folder, runtime), batch, 4096)[0]), (
        "sampling leaves the trainer's forward as it was"
    )
    advantage_N = group_normalized(batch.reward_S, batch.group_S)[batch.seq_N]
    updates = optimize(
        policy,
        make_optimizer(policy, FAST),
        batch,
        lp_N,
        FixedSignal(advantage_N),
        GRPO(),
        steps=3,
        minibatch=128,
        seed=1,
        max_grad_norm=1.0,
        token_budget=4096,
    )
    assert len(list(updates)) == 3

    after = sampled(shared)
    assert after != before, "the engine needs no notice: its weights are the trainer's"
    save_policy(policy, tmp_path / "saved", like=folder)
    assert after == sampled(open_engine(tmp_path / "saved", runtime))
    assert sampled(separate) == before, (
        "a separate engine keeps its weights until it is given others"
    )
    separate.load_weights(policy.model.named_parameters())
    assert sampled(separate) == after


def test_an_epoch_asks_every_prompt_once(world: World, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def noted(problems: list[Problem], *args: Any) -> Any:
        asked.extend(problem.id for problem in problems)
        return sample_and_grade(problems, *args)

    monkeypatch.setattr(tasks.training.online, "sample_and_grade", noted)
    short = SAMPLING.model_copy(update={"samples": 2, "max_new_tokens": 4})
    get_or_compute(stage(world, steps=4, sampling=short), one_thread(world))
    everything = sorted(problem.id for problem in load_problems(world.store, world.problems))
    assert sorted(asked[:64]) == sorted(asked[64:]) == everything
    assert asked[:64] != asked[64:], "each epoch has its own order"


def test_it_tells_how_far_it_is(world: World, tmp_path: Path):
    events = tmp_path / "events.jsonl"
    short = SAMPLING.model_copy(update={"samples": 2})
    get_or_compute(stage(world, steps=2, sampling=short), context(world.store, events, cpus=1))
    last = json.loads(events.read_text().splitlines()[-1])
    assert (last["done"], last["total"]) == (2, 2) and set(last["info"]) == {"accuracy", "kl"}


# ------------------------------------------------------------------------------- no learning signal


@pytest.mark.parametrize("loss", [GRPO(), MSE()], ids=lambda loss: loss.kind)
def test_a_batch_without_an_informative_group_is_recorded_and_left_alone(
    world: World, unanswerable: ProblemsRef, loss: GRPO | MSE
):
    ref = get_or_compute(
        stage(world, unanswerable, loss=loss, steps=2, prompts_per_step=4), one_thread(world)
    )
    for record in load_records(world.store, ref):
        assert (
            record["reward_mean"],
            record["groups_informative"],
            record["updates"],
            record["kl_theta_start"],
        ) == (0, 0, 0, 0)
        assert record["length_mean"] > 1 and record["entropy"] > 0
        assert "loss" not in record and "grad_norm" not in record
    weights = [
        load_file(world.store.path(policy.id) / "model.safetensors")
        for policy in (world.base, ref.last)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# ------------------------------------------------------------------------------------------- resume

RUN = """
import os, sys
from pathlib import Path
from helpers import context
from tasks.training.online import OnlineLoop, TrainOnline
from tasks.execution.stage import get_or_compute
from tasks.store import Store

die_at, every = int(sys.argv[3]), int(sys.argv[4])
original = OnlineLoop.steps
def steps(self, done):
    print("from", done, flush=True)
    for record in original(self, done):
        if record["step"] == die_at:
            os._exit(9)
        yield record
OnlineLoop.steps = steps
get_or_compute(TrainOnline.model_validate_json(sys.argv[2]), context(Store(Path(sys.argv[1])), cpus=1, checkpoint_every=every))
"""  # noqa: E501


def run(store: Store, asked: TrainOnline, die_at: int, every: int, home: Path) -> Any:
    path = f"{Path(__file__).parents[1]}{os.pathsep}{Path(__file__).parents[2]}"
    return python(
        RUN, store.root, asked.model_dump_json(), die_at, every, home=home, PYTHONPATH=path
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["learning", "nothing to learn"])
def test_a_killed_run_ends_in_the_same_bits(
    world: World, unanswerable: ProblemsRef, tmp_path: Path, kind: str
):
    """The second case has no optimizer state to resume from, and needs none."""
    if kind == "learning":
        asked = stage(world, steps=6, keep=(3, 5), updates_per_batch=2)
    else:
        asked = stage(world, unanswerable, steps=6, keep=(3, 5), prompts_per_step=4)
    undisturbed = get_or_compute(asked, one_thread(world))
    shutil.copytree(world.store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    for artifact in (undisturbed.id, *(policy.id for policy in undisturbed.trail)):
        store.discard(artifact)

    killed = run(store, asked, 6, 2, tmp_path)
    assert killed.returncode == 9, killed.stderr
    assert (store.root / "partial" / undisturbed.id / RESUME).exists()
    again = run(store, asked, -1, 2, tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split() == ["from", "4"]

    store = Store(store.root)
    assert asked.stored(store) == undisturbed
    assert numbers(load_records(store, undisturbed)) == numbers(
        load_records(world.store, undisturbed)
    )
    for policy in undisturbed.trail:
        for path in world.store.path(policy.id).glob("*.safetensors"):
            assert (store.path(policy.id) / path.name).read_bytes() == path.read_bytes()
    assert not [
        path
        for path in store.root.rglob("*")
        if path.name.endswith((".tmp", ".sum")) or path.name == ".scratch"
    ]
    assert not any((store.root / "partial").iterdir())


def test_the_machine_changes_neither_identity_nor_what_is_sampled_first(
    world: World, tmp_path: Path
):
    asked = stage(world, steps=1)
    here = get_or_compute(asked, one_thread(world))
    shutil.copytree(world.store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    for artifact in (here.id, here.last.id):
        store.discard(artifact)
    there = get_or_compute(asked, context(store, token_budget=300, cpus=1, checkpoint_every=1))
    assert there == here
    ours, theirs = (load_records(side, here)[0] for side in (world.store, store))
    assert (ours["reward_mean"], ours["length_mean"]) == (
        theirs["reward_mean"],
        theirs["length_mean"],
    )
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
