"""Rollouts and columns: batches match shards, log-probs match a plain forward, stages resume."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from helpers import World, context, events, python
from torch import Tensor
from transformers import AutoModelForCausalLM

from erpd_core.batch import TokenBatch
from erpd_core.config import SamplingConfig
from erpd_core.faults import Fault
from erpd_core.refs import PolicyRef
from tasks.datasets import load_problems
from tasks.execution.stage import get_or_compute
from tasks.grading import Grader
from tasks.models.policy import load_policy
from tasks.rollouts import SampleRollouts, load_batch, outcomes, seed_of, shards
from tasks.rollouts.score import ScoreRollouts, load_column
from tasks.store import Store


@pytest.fixture(scope="module")
def rows(world: World) -> list[dict]:
    return [
        row
        for path in shards(world.store, world.rollouts)
        for row in pq.read_table(path).to_pylist()
    ]


@pytest.fixture(scope="module")
def batch(world: World) -> TokenBatch:
    return load_batch(shards(world.store, world.rollouts))


# ------------------------------------------------------------------------------------------- shards


def test_shards_hold_problem_after_problem_sample_after_sample(world: World, rows: list[dict]):
    assert [path.name for path in shards(world.store, world.rollouts)] == [
        "shard-00000.parquet",
        "shard-00001.parquet",
        "shard-00002.parquet",
    ]
    problems = load_problems(world.store, world.problems)
    assert [(row["problem"], row["sample"]) for row in rows] == [
        (problem.id, n) for problem in problems for n in range(8)
    ]


def test_the_ref_says_what_the_shards_hold(world: World, rows: list[dict]):
    ref = world.rollouts
    assert (ref.sequences, ref.samples) == (len(rows), 8) == (64 * 8, 8)
    assert ref.tokens == sum(len(row["response_tokens"]) for row in rows)
    assert ref.accuracy == pytest.approx(
        sum(row["verdict"] == "correct" for row in rows) / len(rows)
    )
    assert 0.3 < ref.accuracy < 0.7, "the base has headroom and a learning signal"


def test_rewards_are_verdicts_and_verdicts_are_the_graders(world: World, rows: list[dict]):
    golds = {problem.id: problem.answer for problem in load_problems(world.store, world.problems)}
    with Grader() as grader:
        verdicts = grader.grade_many(
            [(golds[row["problem"]], row["text"]) for row in rows], extractor="hash"
        )
    assert [row["verdict"] for row in rows] == list(verdicts)
    assert [row["reward"] for row in rows] == [float(verdict == "correct") for verdict in verdicts]
    for row in rows:  # and by the world's own rule, without a grader
        assert row["reward"] == float(row["text"].rpartition("#")[2] == golds[row["problem"]])


def test_shards_go_round_into_a_batch(world: World, rows: list[dict], batch: TokenBatch):
    assert batch.sequences == len(rows) and batch.tokens == world.rollouts.tokens
    assert batch.reward_S.tolist() == [row["reward"] for row in rows]
    assert batch.group_S.tolist() == [index // 8 for index in range(len(rows))]
    for index, row in enumerate(rows):
        assert batch.response(index).tolist() == row["response_tokens"]
        assert batch.prompts[int(batch.group_S[index])].tolist() == row["prompt_tokens"]
    assert batch.token_N.dtype == batch.offset_S.dtype == torch.int64


def test_one_shard_is_a_batch_of_its_own(world: World, batch: TokenBatch):
    paths = list(shards(world.store, world.rollouts))
    parts = [load_batch(iter([path])) for path in paths]
    assert torch.cat([part.token_N for part in parts]).equal(batch.token_N)
    assert [part.sequences for part in parts] == [24 * 8, 24 * 8, 16 * 8]
    assert parts[2].group_S.tolist() == [index // 8 for index in range(16 * 8)]


def test_outcomes_are_by_problem(world: World, rows: list[dict]):
    by_problem = outcomes(world.store, world.rollouts)
    assert len(by_problem) == 64 and all(len(row) == 8 for row in by_problem.values())
    right = Counter(row["problem"] for row in rows if row["verdict"] == "correct")
    assert all(sum(row) == right[problem] for problem, row in by_problem.items())


def test_shard_size_does_not_change_what_is_sampled(world: World, rows: list[dict]):
    """A batch's shape moves logits by 1e-6, so up to one draw in a hundred may differ."""
    sampling = SamplingConfig(samples=8, temperature=1.0, max_new_tokens=24, shard=10)
    ref = get_or_compute(
        SampleRollouts(policy=world.base, problems=world.problems, sampling=sampling, seed=7),
        world.context,
    )
    others = [row for path in shards(world.store, ref) for row in pq.read_table(path).to_pylist()]
    assert len(list(shards(world.store, ref))) == 7
    differing = [
        a["problem"]
        for a, b in zip(rows, others, strict=True)
        if a["response_tokens"] != b["response_tokens"]
    ]
    assert len(differing) <= len(rows) // 100


def test_seeds_are_apart():
    seeds = {
        seed_of(seed, problem, sample)
        for seed in range(3)
        for problem in ("a", "b", "a/1")
        for sample in range(20)
    }
    assert len(seeds) == 180 and all(0 <= seed < 2**64 for seed in seeds)


# ------------------------------------------------------------------------------------------ columns


def padded_reference(world: World, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies by transformers alone: right-padded rows, full logits, float32."""
    model = AutoModelForCausalLM.from_pretrained(
        world.store.path(world.base.id), dtype=torch.float32
    ).eval()
    lp, entropy = [], []
    for first in range(0, batch.sequences, 64):
        rows = [
            torch.cat([batch.prompts[int(batch.group_S[s])], batch.response(s)])
            for s in range(first, first + 64)
        ]
        width = max(map(len, rows))
        ids = torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])
        mask = torch.stack([(torch.arange(width) < len(row)).long() for row in rows])
        with torch.no_grad():
            logp = torch.log_softmax(model(input_ids=ids, attention_mask=mask).logits.double(), -1)
        for number, row in enumerate(rows):
            start = len(row) - len(batch.response(first + number))
            at = logp[number, start - 1 : len(row) - 1]
            lp.append(at.gather(1, row[start:, None]).squeeze(1))
            entropy.append(-(at.exp() * at).sum(-1))
    return torch.cat(lp), torch.cat(entropy)


def test_columns_are_those_of_a_plain_padded_forward(world: World, batch: TokenBatch):
    lp, entropy = padded_reference(world, batch)
    ours = load_column(world.store, world.old)
    assert ours.dtype == torch.float32 and len(ours) == batch.tokens
    assert (ours - lp).abs().max() < 1e-4
    assert (load_column(world.store, world.old, "entropy") - entropy).abs().max() < 1e-4


def test_samples_are_as_likely_as_the_trainer_says(world: World, batch: TokenBatch):
    """At temperature 1, mean(-lp) estimates the mean entropy: sampler and trainer agree.

    Bound: 5 standard errors.
    """
    surprise = -load_column(world.store, world.old) - load_column(world.store, world.old, "entropy")
    assert abs(float(surprise.mean())) < 5 * float(surprise.std()) / len(surprise) ** 0.5


def test_a_column_does_not_depend_on_the_memory_it_may_use(world: World, tmp_path: Path):
    shutil.copytree(world.store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    store.discard(world.old.id)
    again = get_or_compute(
        ScoreRollouts(policy=world.base, rollouts=world.rollouts),
        context(store, token_budget=300, cpus=1),
    )
    assert again == world.old
    assert (load_column(store, again) - load_column(world.store, world.old)).abs().max() < 1e-4


def test_a_policy_of_another_vocabulary_is_refused(world: World, tmp_path: Path):
    shutil.copytree(world.store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    with store.build("policy", {"other": True}, {}, 1) as build:
        assert build is not None
        for path in store.path(world.base.id).glob("*.*"):
            if path.name != "manifest.json":
                build.put(path.name, lambda target, path=path: shutil.copyfile(path, target))
        config = json.loads((build.folder / "config.json").read_text())
        build.put(
            "config.json",
            lambda target: target.write_text(
                json.dumps({**config, "vocab_size": config["vocab_size"] + 16})
            ),
        )
        build.commit({})
    with pytest.raises(ValueError, match="vocabulary"):
        get_or_compute(
            ScoreRollouts(policy=PolicyRef(id=build.id), rollouts=world.rollouts), context(store)
        )


def test_log_probs_that_are_not_finite_stop_the_stage(world: World, tmp_path: Path):
    shutil.copytree(world.store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    policy = load_policy(world.store.path(world.base.id), world.context.runtime)
    with torch.no_grad():
        policy.parameters()[0].fill_(float("nan"))
    from tasks.models.policy import save_policy

    with store.build("policy", {"broken": True}, {}, 1) as build:
        assert build is not None
        save_policy(policy, tmp_path / "saved", like=store.path(world.base.id))
        for path in (tmp_path / "saved").iterdir():
            build.put(path.name, path.rename)
        build.commit({})
    stage = ScoreRollouts(policy=PolicyRef(id=build.id), rollouts=world.rollouts)
    with pytest.raises(Fault, match="not finite"):
        get_or_compute(stage, context(store))
    assert stage.stored(store) is None


# ----------------------------------------------------------------------------------------- resuming

KILLED = """
import os, sys
from pathlib import Path
from helpers import context
from tasks.store import Build, Store
from tasks.execution.stage import get_or_compute
from tasks.rollouts import SampleRollouts
from tasks.rollouts.score import ScoreRollouts

stage = {"rollouts": SampleRollouts, "column": ScoreRollouts}[sys.argv[2]].model_validate_json(sys.argv[3])
put, after = Build.put, int(sys.argv[4])
def put_and_die(self, name, write):
    global after
    put(self, name, write)
    after -= 1
    if after == 0:
        os._exit(9)
Build.put = put_and_die
get_or_compute(stage, context(Store(Path(sys.argv[1])), Path(os.environ["ERPD_HOME"]) / "logs" / "a.events.jsonl"))
"""  # noqa: E501


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rollouts", "column"])
def test_a_killed_stage_goes_on_at_the_next_shard_and_ends_in_the_same_bytes(
    world: World, tmp_path: Path, kind: str
):
    shutil.copytree(world.store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    (tmp_path / "logs").mkdir()
    ref = {"rollouts": world.rollouts, "column": world.old}[kind]
    stage = {
        "rollouts": SampleRollouts(
            policy=world.base,
            problems=world.problems,
            sampling=SamplingConfig(samples=8, temperature=1.0, max_new_tokens=24, shard=24),
            seed=7,
        ),
        "column": ScoreRollouts(policy=world.base, rollouts=world.rollouts),
    }[kind]
    assert stage.identity() == ref.id
    store.discard(ref.id)
    path = f"{Path(__file__).parents[1]}{os.pathsep}{Path(__file__).parents[2]}"
    killed = python(
        KILLED, store.root, kind, stage.model_dump_json(), 2, home=tmp_path, PYTHONPATH=path
    )
    assert killed.returncode == 9, killed.stderr
    partial = store.root / "partial" / ref.id
    written = {
        file.name: file.stat().st_mtime_ns
        for file in partial.glob("shard-*[tk]")
        if not file.name.endswith(".sum")
    } | {file.name: file.stat().st_mtime_ns for file in partial.glob("shard-*.safetensors")}
    assert len(written) == 2
    done = python(
        KILLED, store.root, kind, stage.model_dump_json(), -1, home=tmp_path, PYTHONPATH=path
    )
    assert done.returncode == 0, done.stderr
    assert stage.stored(Store(store.root)) == ref
    for file in world.store.path(ref.id).glob("shard-*"):
        ours = store.path(ref.id) / file.name
        assert ours.read_bytes() == file.read_bytes(), "the same bytes as undisturbed"
        assert file.name not in written or ours.stat().st_mtime_ns == written[file.name], (
            "written once, before the kill"
        )
    counts = [event["done"] for event in events(tmp_path) if "done" in event]
    assert counts[-1] == [event["total"] for event in events(tmp_path)][-1]
