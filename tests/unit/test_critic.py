"""PPO's critic on real samples: it learns, stores a column, and resumes to the same bits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers import World, context, dying, python
from safetensors.torch import load_file

from erpd_core.advantages import gae, length_adaptive_lambda
from erpd_core.config import PPO, CriticConfig, OptimizerConfig, RuntimeConfig, TrainConfig
from erpd_core.critic import explained_variance, predict_values
from erpd_core.refs import ValuesRef
from tasks.execution.stage import Context, get_or_compute
from tasks.models.policy import load_policy
from tasks.rollouts import load_batch, shards
from tasks.rollouts.score import load_column
from tasks.store import Store
from tasks.training.base import load_records
from tasks.training.checkpoint import RESUME
from tasks.training.critic import HFCritic, TrainCritic
from tasks.training.teacher import TrainTeacher

FAST = OptimizerConfig(lr=1e-3)


def one_thread(world: World) -> Context:
    """A context with one thread; more would slow so small a model down, above all on busy cores."""
    return context(world.store, cpus=1)


def critic_stage(
    world: World, steps: int = 24, keep: tuple[int, ...] = (10,), minibatch: int = 64
) -> TrainCritic:
    config = CriticConfig(optimizer=FAST, steps=steps, keep=keep, minibatch=minibatch)
    return TrainCritic(init=world.base, rollouts=world.rollouts, config=config, seed=3)


@pytest.fixture(scope="module")
def values(world: World) -> ValuesRef:
    return get_or_compute(critic_stage(world), one_thread(world))


def test_the_critic_starts_at_the_mean_outcome(world: World):
    batch = load_batch(shards(world.store, world.rollouts))
    critic = HFCritic(load_policy(world.store.path(world.base.id), RuntimeConfig()), 0.25)
    assert predict_values(critic, batch, 4096).unique().tolist() == [0.25]


@pytest.mark.slow
def test_explained_variance_grows_over_training(world: World, values: ValuesRef):
    records = load_records(world.store, values)
    assert [record["step"] for record in records] == list(range(1, 25))
    assert all(
        {"value_loss", "explained_variance", "grad_norm"} < record.keys() for record in records
    )
    assert records[0]["explained_variance"] == pytest.approx(0, abs=1e-6)
    late = sum(record["explained_variance"] for record in records[-5:]) / 5
    assert late > 0.1, f"24 steps on 512 samples explain {late:.3f}"
    assert records[-1]["value_loss"] < records[0]["value_loss"]


def test_the_values_are_a_column_of_the_batch_in_shards(world: World, values: ValuesRef):
    batch = load_batch(shards(world.store, world.rollouts))
    value_N = load_column(world.store, values, "value")
    assert value_N.shape == (batch.tokens,) and value_N.dtype == torch.float32
    assert values.explained_variance == pytest.approx(
        explained_variance(batch.reward_S[batch.seq_N], value_N)
    )
    assert values.rollouts == world.rollouts.id
    shard_names = {
        path.with_suffix(".safetensors").name for path in shards(world.store, world.rollouts)
    }
    names = {path.name for path in world.store.path(values.id).iterdir()}
    assert names == {
        *shard_names,
        "critic-000010.safetensors",
        "critic-000024.safetensors",
        "records.jsonl",
        "manifest.json",
    }


def kept_critic(world: World, values: ValuesRef, step: int) -> HFCritic:
    critic = HFCritic(load_policy(world.store.path(values.init.id), RuntimeConfig()), 0.0)
    critic.copy_from(load_file(world.store.path(values.id) / f"critic-{step:06d}.safetensors"))
    return critic


def test_the_kept_critic_gives_the_column_again(world: World, values: ValuesRef):
    batch = load_batch(shards(world.store, world.rollouts))
    last = predict_values(kept_critic(world, values, 24), batch, 4096)
    torch.testing.assert_close(
        last, load_column(world.store, values, "value"), rtol=1e-4, atol=1e-5
    )
    early = predict_values(kept_critic(world, values, 10), batch, 4096)
    assert not torch.allclose(early, last, atol=1e-3)


# ------------------------------------------------------------------------------------------- resume

RUN = (
    """
import os, sys
from pathlib import Path
import tasks.training.critic
from helpers import context
from tasks.training.critic import TrainCritic
from tasks.execution.stage import get_or_compute
from tasks.store import Store

stage = TrainCritic.model_validate_json(sys.argv[2])
die_at, every, die_at_shard = int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
"""
    + dying("tasks.training.critic.fit_values")
    + """
predict, asked = tasks.training.critic.predict_values, 0
def predict_values(*args):
    global asked
    asked += 1
    if asked == die_at_shard:
        os._exit(9)
    print("shard", flush=True)
    return predict(*args)
tasks.training.critic.predict_values = predict_values
get_or_compute(stage, context(Store(Path(sys.argv[1])), checkpoint_every=every, cpus=1))
"""
)


def run(store: Store, stage: TrainCritic, home: Path, die_at: int = -1, die_at_shard: int = -1):
    path = f"{Path(__file__).parents[1]}{os.pathsep}{Path(__file__).parents[2]}"
    return python(
        RUN,
        store.root,
        stage.model_dump_json(),
        die_at,
        3,
        die_at_shard,
        home=home,
        PYTHONPATH=path,
    )


@pytest.mark.slow
def test_a_critic_killed_in_training_and_again_in_scoring_ends_in_the_same_bits(
    world: World, tmp_path: Path
):
    stage = critic_stage(world, steps=8, keep=(4,), minibatch=50)
    undisturbed = get_or_compute(stage, one_thread(world))
    shutil.copytree(world.store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    store.discard(undisturbed.id)
    count = len(list(shards(world.store, world.rollouts)))

    killed = run(store, stage, tmp_path, die_at=8)
    assert killed.returncode == 9, killed.stderr
    assert (store.root / "partial" / undisturbed.id / RESUME).exists()
    killed = run(store, stage, tmp_path, die_at_shard=3)
    assert killed.returncode == 9, killed.stderr
    assert killed.stdout.split() == ["from", "6", "shard", "shard"]
    again = run(store, stage, tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split() == ["shard"] * (count - 2), (
        "a fitted critic and finished shards are reused"
    )

    store = Store(store.root)
    assert stage.stored(store) == undisturbed
    for path in world.store.path(undisturbed.id).iterdir():
        if path.name != "manifest.json":
            assert (store.path(undisturbed.id) / path.name).read_bytes() == path.read_bytes(), (
                path.name
            )
    assert {path.name for path in store.path(undisturbed.id).iterdir()} == {
        path.name for path in world.store.path(undisturbed.id).iterdir()
    }


# ---------------------------------------------------------------------------------------------- PPO


def ppo_stage(world: World, values: ValuesRef, alpha: float = 0.5) -> TrainTeacher:
    config = TrainConfig(
        loss=PPO(alpha=alpha), optimizer=OptimizerConfig(lr=2e-4), minibatch=64, steps=8
    )
    return TrainTeacher(
        init=world.base,
        rollouts=world.rollouts,
        old=world.old,
        role="teacher",
        config=config,
        seed=3,
        values=values,
    )


def test_ppo_trains_on_the_critics_advantages(world: World, values: ValuesRef):
    training = get_or_compute(ppo_stage(world, values), one_thread(world))
    records = load_records(world.store, training)
    assert len(records) == 8
    first, last = records[0], records[-1]
    assert (
        last["prob_positive"] - last["prob_negative"]
        > first["prob_positive"] - first["prob_negative"]
    )
    assert last["kl_old_theta_on_old_batch"] > 1e-4
    assert world.store.manifest(training.id).inputs["values"] == values.id


def test_ppos_signal_is_the_whitened_gae_of_the_column(world: World, values: ValuesRef):
    """Recomputed from the column; at an alpha so large that lambda is 1, it is R - V, whitened."""
    batch = load_batch(shards(world.store, world.rollouts))
    value_N = load_column(world.store, values, "value")
    ours = ppo_stage(world, values, alpha=1e9)._advantages(world.store, batch)
    error_N = (batch.reward_S[batch.seq_N] - value_N).double()
    torch.testing.assert_close(
        ours.double(),
        (error_N - error_N.mean()) / error_N.std(unbiased=False),
        rtol=1e-4,
        atol=1e-4,
    )
    raw = gae(
        batch.reward_S, value_N, batch.length_S, length_adaptive_lambda(batch.length_S, 0.5)
    ).double()
    ours = ppo_stage(world, values)._advantages(world.store, batch)
    torch.testing.assert_close(
        ours.double(), (raw - raw.mean()) / raw.std(unbiased=False), rtol=1e-4, atol=1e-4
    )


def test_a_teacher_whose_values_are_gone_says_so(world: World, values: ValuesRef, tmp_path: Path):
    shutil.copytree(world.store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    store.discard(values.id)
    with pytest.raises(LookupError, match="its values, critic-"):
        get_or_compute(ppo_stage(world, values, alpha=0.4), context(store))
