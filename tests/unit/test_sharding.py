"""Several workers train as one process does, and resume after deaths with any number of workers.

The workers are real gloo processes on the CPU. Sums in another order differ by 1e-7 of a gradient.
Adam divides by the gradient's size, so where a gradient is that small, its step may have any
direction and be as long as lr. Over these few steps records agree to a relative 1e-3 and an
absolute 1e-5, and weights to a tenth of lr x steps.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import World, context, flip_a_bit
from safetensors.torch import load_file, save_file
from shard_lab import Job, starts, train, without
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from erpd_core.batch import minibatches
from erpd_core.config import (
    CE,
    SAPO,
    DirectoryModel,
    Distill,
    OptimizerConfig,
    RuntimeConfig,
    SignalSpec,
    TrainConfig,
)
from erpd_core.layout import plan
from erpd_core.optimize import score
from erpd_core.parallel import partition, rows_of
from erpd_core.refs import PolicyRef, TrainingRef
from tasks.execution.resource_requests import ResourceRequest, trainer_request
from tasks.execution.stage import get_or_compute
from tasks.execution.submit import request_for
from tasks.models.import_policy import import_policy
from tasks.models.policy import load_policy, vocabulary
from tasks.rollouts import load_batch, shards
from tasks.rollouts.score import ScoreRollouts
from tasks.store import Store
from tasks.training.base import load_records
from tasks.training.checkpoint import RESUME
from tasks.training.sharded_tensors import Rows
from tasks.training.student import DistillStudent, SidedSignal, SignalPhase
from tasks.training.teacher import TrainTeacher

LR, STEPS = 2e-4, 6
FAST = OptimizerConfig(lr=LR)
BUDGET: dict[str, Any] = {"token_budget": 270}
"""Makes several micro-batches per worker, in different numbers (a test counts them)."""


def teacher(
    world: World, loss: SAPO | CE, init: PolicyRef | None = None, minibatch: int = 96
) -> TrainTeacher:
    init = init or world.base
    old = get_or_compute(ScoreRollouts(policy=init, rollouts=world.rollouts), world.context)
    config = TrainConfig(loss=loss, optimizer=FAST, minibatch=minibatch, steps=STEPS, keep=(3,))
    return TrainTeacher(
        init=init, rollouts=world.rollouts, old=old, role="teacher", config=config, seed=3
    )


def live_student(world: World, numerator: PolicyRef) -> DistillStudent:
    """Fig. 7's variant: its signal uses the log-probs that each worker has just computed."""
    column = get_or_compute(ScoreRollouts(policy=numerator, rollouts=world.rollouts), world.context)
    signal = SidedSignal(spec=SignalSpec(denominator="live"), numerator=column, denominator=None)
    return DistillStudent(
        init=world.base,
        rollouts=world.rollouts,
        old=world.old,
        role="student",
        seed=5,
        loss=Distill(),
        optimizer=FAST,
        minibatch=96,
        keep=(),
        phases=(SignalPhase(signals=(signal,), steps=STEPS),),
    )


def qwen(world: World, folder: Path) -> PolicyRef:
    """A Qwen3 with the world's vocabulary, an untied output head, and layers in several files."""
    source = world.store.path(world.base.id)
    config = Qwen3Config(
        vocab_size=vocabulary(source),
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=False,
        initializer_range=0.05,
        max_position_embeddings=128,
    )
    torch.manual_seed(4)
    Qwen3ForCausalLM(config).save_pretrained(folder, max_shard_size="40KB")
    for path in source.iterdir():
        if not path.name.startswith("model") and path.name not in ("config.json", "manifest.json"):
            shutil.copyfile(path, folder / path.name)
    return get_or_compute(import_policy(DirectoryModel(path=str(folder))), world.context)


def weights(store: Store, policy: PolicyRef) -> dict[str, torch.Tensor]:
    return load_file(store.path(policy.id) / "model.safetensors")


def assert_same_trajectory(one: Store, several: Store, ref: TrainingRef) -> None:
    """Two stores hold the same training: records of every step, weights of every kept policy."""
    records = load_records(one, ref), load_records(several, ref)
    assert [record["step"] for record in records[1]] == [record["step"] for record in records[0]]
    for expected, actual in zip(*records, strict=True):
        assert actual == pytest.approx(expected, rel=1e-3, abs=1e-5)
    for policy in ref.trail:
        expected, actual = weights(one, policy), weights(several, policy)
        assert actual.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(
                actual[name], expected[name], rtol=0, atol=0.1 * LR * policy.step
            )


def assert_same_bits(one: Store, other: Store, ref: TrainingRef) -> None:
    assert load_records(one, ref) == load_records(other, ref)
    for policy in ref.trail:
        expected, actual = weights(one, policy), weights(other, policy)
        assert all(torch.equal(actual[name], expected[name]) for name in expected)


# ------------------------------------------------------------------------------ the same trajectory


@dataclass(frozen=True)
class Trained:
    """Stores of one process and of two workers with the same trainings.

    The bfloat16 stores hold only "sapo", trained by two workers with bfloat16 arithmetic.
    """

    one: Store
    two: Store
    bf16: Store
    bf16_recomputed: Store
    refs: dict[str, TrainingRef]


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("sharding")
    sapo = teacher(world, SAPO())
    first = get_or_compute(sapo, world.context)
    stages = {
        "sapo": sapo,
        "ce": teacher(world, CE(beta=0.05)),
        "live": live_student(world, first.last),
        "untied": teacher(world, SAPO(), init=qwen(world, folder / "qwen")),
        "one sequence": teacher(world, SAPO(), minibatch=1),
    }
    refs = {name: get_or_compute(stage, world.context) for name, stage in stages.items()}
    two, bf16, recomputed = (
        without(world.store, folder / name, *refs.values())
        for name in ("two", "bf16", "recomputed")
    )
    runtimes: dict[str, dict[str, Any]] = {"sapo": BUDGET, "untied": {"recompute": True}}
    jobs = [Job(two, stage, runtimes.get(name, {})) for name, stage in stages.items()]
    jobs += [
        Job(bf16, sapo, {"dtype": "bfloat16"}),
        Job(recomputed, sapo, {"dtype": "bfloat16", "recompute": True}),
    ]
    answers, ended = train(jobs, 2, folder)
    assert answers, [process.stderr for process in ended]
    return Trained(world.store, two, bf16, recomputed, refs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sapo", "ce", "live", "untied", "one sequence"])
def test_two_workers_train_as_one_process_does(trained: Trained, name: str):
    """Losses by chunk and by whole response, a live signal, a tied and an untied head.

    SAPO's budget makes the workers' numbers of micro-batches differ. With one sequence, only one
    worker has any. The untied model is also trained with activation checkpointing.
    """
    assert_same_trajectory(trained.one, trained.two, trained.refs[name])


@pytest.mark.slow
def test_what_two_workers_leave_is_what_one_leaves(trained: Trained):
    for ref in trained.refs.values():
        assert {path.name for path in trained.two.path(ref.id).iterdir()} == {
            "records.jsonl",
            "manifest.json",
        }
        for policy in ref.trail:
            folders = [store.path(policy.id) for store in (trained.one, trained.two)]
            names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
            assert names[0] == names[1]
            configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
            assert configs[0] == configs[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sapo", "untied"])
def test_transformers_reads_what_workers_export(world: World, trained: Trained, name: str):
    """Transformers alone finds every weight, and gives the log-probs of our own forward."""
    folder = trained.two.path(trained.refs[name].last.id)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    batch = load_batch(shards(world.store, world.rollouts))
    lp_N, _ = score(load_policy(folder, RuntimeConfig(device="cpu")), batch, 4096)
    prompt, response = batch.prompts[int(batch.group_S[0])], batch.response(0)
    with torch.no_grad():
        logits = model.eval()(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
    theirs = torch.log_softmax(logits, -1).gather(1, response[:, None]).squeeze(1)
    torch.testing.assert_close(lp_N[: len(response)], theirs, rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------------------- memory


@pytest.mark.slow
def test_bf16_arithmetic_keeps_float32_weights(trained: Trained):
    """Weights keep steps that bfloat16 would round away.

    The trajectory is that of float32 within bfloat16's rounding.
    """
    ref = trained.refs["sapo"]
    trained_weights = weights(trained.bf16, ref.last)
    assert all(tensor.dtype == torch.float32 for tensor in trained_weights.values())
    assert any(
        not torch.equal(tensor, tensor.bfloat16().float()) for tensor in trained_weights.values()
    )
    records = load_records(trained.bf16, ref), load_records(trained.one, ref)
    for ours, exact in zip(*records, strict=True):
        assert ours["loss"] == pytest.approx(exact["loss"], abs=0.02)
        assert ours["grad_norm"] == pytest.approx(exact["grad_norm"], rel=0.1)
        assert ours["entropy"] == pytest.approx(exact["entropy"], abs=0.02)
    assert records[0] != records[1], "it did compute in another dtype"


@pytest.mark.slow
def test_activation_checkpointing_changes_no_bit(trained: Trained):
    assert_same_bits(trained.bf16, trained.bf16_recomputed, trained.refs["sapo"])


@pytest.mark.slow
def test_activation_checkpointing_changes_no_bit_of_one_process(
    world: World, trained: Trained, tmp_path: Path
):
    store = without(world.store, tmp_path / "store", trained.refs["untied"])
    stage = trained.one.manifest(trained.refs["untied"].id)
    again = teacher(world, SAPO(), init=PolicyRef(id=stage.inputs["init"]))
    assert get_or_compute(again, context(store, recompute=True)) == trained.refs["untied"]
    assert_same_bits(trained.one, store, trained.refs["untied"])


# ------------------------------------------------------------------------------------------- resume


@pytest.fixture(scope="module")
def killed(world: World, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of two workers, one of which died at step 5, with their checkpoint of step 4."""
    folder = tmp_path_factory.mktemp("killed")
    store = without(world.store, folder / "store", trained.refs["sapo"])
    answers, ended = train(
        [Job(store, teacher(world, SAPO()), {"checkpoint_every": 2, **BUDGET}, {1: 5})], 2, folder
    )
    assert not answers
    assert ended[1].returncode == 9
    assert ended[0].returncode not in (0, 9), "the other notices, and does not wait indefinitely"
    left = sorted(
        path.name
        for path in (store.root / "partial" / trained.refs["sapo"].id).glob("resume*.safetensors")
    )
    assert left == [f"resume-000004-0000{rank}-of-00002.safetensors" for rank in (0, 1)]
    return store


@dataclass(frozen=True)
class Resumed:
    """Stores of trainings that two workers finished, and the steps they resumed from."""

    stores: dict[str, Store]
    starts: dict[str, int]


@pytest.fixture(scope="module")
def resumed(
    world: World, trained: Trained, killed: Store, tmp_path_factory: pytest.TempPathFactory
) -> Resumed:
    folder = tmp_path_factory.mktemp("resumed")
    stores = {name: without(killed, folder / name) for name in ("whole", "half written", "damaged")}
    partial = {
        name: store.root / "partial" / trained.refs["sapo"].id for name, store in stores.items()
    }
    # a kill while the next checkpoint was written: one worker's file is there
    for suffix in ("", ".sum"):
        written = partial["half written"] / f"resume-000004-00000-of-00002.safetensors{suffix}"
        shutil.copyfile(written, written.with_name(written.name.replace("-000004-", "-000006-")))
    flip_a_bit(partial["damaged"] / "resume-000004-00000-of-00002.safetensors")
    jobs = [Job(store, teacher(world, SAPO()), BUDGET) for store in stores.values()]

    stage = teacher(world, CE(beta=0.05))
    stores["one process"] = without(world.store, folder / "one", trained.refs["ce"])
    answers, _ = train(
        [Job(stores["one process"], stage, {"checkpoint_every": 4}, {0: 5})], 1, folder
    )
    assert not answers
    assert (stores["one process"].root / "partial" / trained.refs["ce"].id / RESUME).exists()

    answers, ended = train([*jobs, Job(stores["one process"], stage)], 2, folder)
    assert answers, [process.stderr for process in ended]
    assert starts(ended[0]) == starts(ended[1])
    return Resumed(stores, dict(zip(stores, starts(ended[0]), strict=True)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "start"), [("whole", 4), ("half written", 4), ("damaged", 0)])
def test_after_a_workers_death_the_same_number_end_in_the_same_bits(
    trained: Trained, resumed: Resumed, name: str, start: int
):
    """They resume from the newest checkpoint whose files are all there and undamaged."""
    ref, store = trained.refs["sapo"], resumed.stores[name]
    assert resumed.starts[name] == start
    assert_same_bits(trained.two, store, ref)
    assert {path.name for path in store.path(ref.id).iterdir()} == {
        "records.jsonl",
        "manifest.json",
    }


@pytest.mark.slow
def test_a_checkpoint_of_one_process_is_gone_on_from_by_two_workers(
    trained: Trained, resumed: Resumed
):
    assert resumed.starts["one process"] == 4
    assert_same_trajectory(trained.one, resumed.stores["one process"], trained.refs["ce"])


@pytest.mark.slow
@pytest.mark.long
def test_a_checkpoint_of_two_workers_is_gone_on_from_by_four(
    world: World, trained: Trained, killed: Store, tmp_path: Path
):
    ref, store = trained.refs["sapo"], without(killed, tmp_path / "store")
    answers, ended = train([Job(store, teacher(world, SAPO()), BUDGET)], 4, tmp_path)
    assert answers == [ref], [process.stderr for process in ended]
    assert [starts(process) for process in ended] == [[4]] * 4
    assert_same_trajectory(trained.one, store, ref)
    assert load_records(store, ref)[:4] == load_records(trained.two, ref)[:4]


@pytest.mark.slow
def test_a_checkpoint_of_two_workers_is_gone_on_from_by_one_process(
    world: World, trained: Trained, killed: Store, tmp_path: Path
):
    ref, store = trained.refs["sapo"], without(killed, tmp_path / "store")
    assert get_or_compute(teacher(world, SAPO()), context(store)) == ref
    assert_same_trajectory(trained.one, store, ref)
    assert load_records(store, ref)[:4] == load_records(trained.two, ref)[:4], (
        "the two workers' steps are not repeated"
    )


# -------------------------------------------------------------------------------------- small parts


def test_the_budget_of_these_tests_makes_numbers_of_micro_batches_differ(world: World):
    batch = load_batch(shards(world.store, world.rollouts))
    order = minibatches(batch.sequences, 96, seed=3)
    counts = [
        [
            len(plan(batch, part, BUDGET["token_budget"]))
            for part in partition(batch, next(order), 2)
        ]
        for _ in range(STEPS)
    ]
    assert any(a != b for a, b in counts) and all(min(pair) > 1 for pair in counts)


def test_a_minibatch_is_dealt_once_and_about_evenly(world: World):
    batch = load_batch(shards(world.store, world.rollouts))
    chosen = torch.randperm(batch.sequences, generator=torch.Generator().manual_seed(0))[:100]
    assert partition(batch, chosen, 1)[0] is chosen
    for size in (2, 3, 8):
        dealt = partition(batch, chosen, size)
        assert sorted(torch.cat(dealt).tolist()) == sorted(chosen.tolist())
        tokens = [int(batch.length_S[part].sum()) for part in dealt]
        assert max(tokens) < 1.3 * sum(tokens) / size
        groups = [set(batch.group_S[part].tolist()) for part in dealt]
        assert sum(map(len, groups)) == len(set.union(*groups)), "no prompt is stored twice"


def test_a_prompt_with_more_samples_than_a_workers_share_is_dealt_to_several(world: World):
    batch = load_batch(shards(world.store, world.rollouts))
    one_group = (batch.group_S == 0).nonzero().flatten()
    assert all(len(part) == 4 for part in partition(batch, one_group, 2))
    assert sorted(len(part) for part in partition(batch, one_group[:2], 4)) == [0, 0, 1, 1]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 49])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_rows_are_those_that_torch_chunks_into(length: int, size: int):
    chunks = torch.arange(length).chunk(size)
    for rank in range(size):
        start, stop = rows_of(length, rank, size)
        assert list(range(start, stop)) == (chunks[rank].tolist() if rank < len(chunks) else [])


def test_rows_that_lie_in_several_files_are_read_from_any_place(tmp_path: Path):
    tensor = torch.arange(21.0).reshape(7, 3)
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for path, part in zip(paths, (tensor[:3], tensor[3:7], tensor[7:]), strict=True):
        save_file({"weight": part.contiguous(), "step": torch.tensor(4.0)}, path)
    rows = Rows(paths)
    for start in range(8):
        for stop in range(start, 8):
            assert torch.equal(rows.read("weight", start, stop), tensor[start:stop])
    assert rows.read("step", 0, 0) == 4
    assert "weight" in rows and "bias" not in rows
    with pytest.raises(LookupError, match="bias"):
        rows.read("bias", 0, 1)
    with pytest.raises(LookupError, match="7 rows, not 8"):
        rows.read("weight", 6, 8)


def test_what_trainers_ask_and_their_stage_does_not(world: World):
    runtime = RuntimeConfig(trainers=4, cpus=8, gpus=4.0)
    assert trainer_request(runtime) == ResourceRequest(2, 1.0)
    assert trainer_request(RuntimeConfig(trainers=4, cpus=2)) == ResourceRequest(1, 0.0)
    assert trainer_request(
        RuntimeConfig(trainers=4, cpus=8, gpus=0.5, trainer_cpus=3, trainer_gpus=0)
    ) == ResourceRequest(3, 0.0)
    stage = teacher(world, SAPO())
    assert request_for(stage, runtime) == ResourceRequest(0, 0.0), (
        "it would hold the resources its trainers wait for"
    )
    assert request_for(stage, runtime.model_copy(update={"trainers": 1})) == ResourceRequest(8, 4.0)
    assert request_for(
        ScoreRollouts(policy=world.base, rollouts=world.rollouts), runtime
    ) == ResourceRequest(8, 4.0)
    assert not runtime.model_copy(update={"ray": "off"}).trains_on_actors
