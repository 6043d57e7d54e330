"""vLLM in separate processes: imports, memory, tied heads, an online stage, a campaign on Ray."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT, World, python, run_campaign
from transformers import AutoModelForCausalLM
from vllm_lab import NEEDS_VLLM, disturbed, saved

pytestmark = [pytest.mark.slow, NEEDS_VLLM]


@pytest.fixture
def folder(world: World) -> Path:
    return world.store.path(world.base.id)


def here(script: str, *arguments: object, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a separate process; it may import the tests' helpers."""
    done = python(script, *arguments, home=home, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.long
def test_it_lives_beside_everything_else(tmp_path: Path):
    """One process imports vLLM with Prefect, MLflow and Ray. Only packages that are left out on
    purpose are missing from the environment.
    """
    assert (
        here(
            "import prefect, mlflow, ray, transformers, vllm; print(vllm.__version__)",
            home=tmp_path,
        ).stdout.strip()
        == "0.32.0"
    )
    checked = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True
    ).stdout.lower()
    without = (
        "torchvision",
        "torchaudio",
        "torchcodec",
        "opencv-python-headless",
        "triton",
        "llama-cpp-python",
        "llm,",
    )
    odd = [
        line
        for line in checked.splitlines()
        if "no broken" not in line and not any(f"requires {name}" in line for name in without)
    ]
    assert odd == []


TIED = """
import sys
from pathlib import Path
import vllm_lab as t
from tasks.engines.vllm import VLLMEngine
from transformers import AutoModelForCausalLM
base, changed = map(Path, sys.argv[1:])
def answers(folder, weights=None):
    engine = VLLMEngine(folder, t.RUNTIME)
    if weights:
        engine.load_weights(AutoModelForCausalLM.from_pretrained(weights).named_parameters())
    found = t.sample(engine, 32)
    engine.close()
    return found
taken_over, fresh, before = answers(base, changed), answers(changed), answers(base)
print(taken_over == fresh, sum(a == b for x, y in zip(fresh, before) for a, b in zip(x, y)))
"""


@pytest.mark.long
def test_a_head_tied_to_the_embedding_follows_it(folder: Path, tmp_path: Path):
    """vLLM's CPU build keeps a packed copy of the head, which its own reload does not update
    (SmolLM2 and small Qwen3 have tied heads).
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    base = saved(model, folder, tmp_path / "tied")
    changed = saved(disturbed(base), base, tmp_path / "changed")
    done = here(TIED, base, changed, home=tmp_path)
    same, unmoved = done.stdout.split()
    assert same == "True", "updated weights sample like the same weights loaded from a folder"
    assert int(unmoved) < 8 * 32 / 2


MEMORY = """
import os, sys
from pathlib import Path
import psutil
import vllm_lab as t
from tasks.engines.vllm import VLLMEngine
rss = lambda: psutil.Process().memory_info().rss / 2**20
runtime = t.RUNTIME.model_copy(update={"kv_cache_gib": 1.0})
engine = VLLMEngine(Path(sys.argv[1]), runtime)
first = t.sample(engine, 4)
held = rss()
engine.close()
engine.close()
print(held - rss())
engine = VLLMEngine(Path(sys.argv[1]), runtime)
print(t.sample(engine, 4) == first, rss() - held)
print(*sorted({one.laddr.ip for one in psutil.Process().net_connections() if one.status == "LISTEN"}))
engine.close()
"""  # noqa: E501


@pytest.mark.long
def test_close_frees_the_memory_and_another_engine_may_follow(folder: Path, tmp_path: Path):
    freed, again, listening = here(MEMORY, folder, home=tmp_path).stdout.splitlines()
    assert float(freed) > 900, "of the 1,024 MiB of its KV cache"
    same, more = again.split()
    assert same == "True" and float(more) < 200, "a second engine reuses the freed memory"
    assert listening in ("", "127.0.0.1")
    assert not (Path.home() / ".config" / "vllm" / "usage_stats.json").exists()


ONLINE = """
import sys
from pathlib import Path
from helpers import context
from erpd_core.config import OnlineConfig, OptimizerConfig, SamplingConfig
from erpd_core.refs import PolicyRef, ProblemsRef
from tasks.training.online import TrainOnline
from tasks.execution.stage import get_or_compute
from tasks.store import Store
from tasks.training.base import load_records
store = Store(Path(sys.argv[1]))
config = OnlineConfig(
    optimizer=OptimizerConfig(lr=3e-4), steps=12, prompts_per_step=32,
    sampling=SamplingConfig(samples=8, temperature=1.0, max_new_tokens=24, shard=32),
)
stage = TrainOnline(
    init=PolicyRef.model_validate_json(sys.argv[2]), problems=ProblemsRef.model_validate_json(sys.argv[3]), config=config, seed=3
)
ref = get_or_compute(stage, context(store, engine="vllm", device="cpu", cpus=1, kv_cache_gib=0.25))
for record in load_records(store, ref):
    print(record["reward_mean"], record["kl_theta_start"], record["ratio_max"])
"""  # noqa: E501


def test_online_training_learns_from_what_vllm_samples(world: World, tmp_path: Path):
    """Trainer and engine share a process and the weights are updated at each step. The policy
    learns, and its first step has the base's accuracy.
    """
    shutil.copytree(world.store.root, tmp_path / "store")
    done = here(
        ONLINE,
        tmp_path / "store",
        world.base.model_dump_json(),
        world.problems.model_dump_json(),
        home=tmp_path,
    )
    reward, kl, ratio = np.array(
        [[float(word) for word in line.split()] for line in done.stdout.splitlines()]
    ).T
    assert len(reward) == 12 and kl[0] == 0 and kl[-1] > 0.01
    assert abs(reward[0] - world.rollouts.accuracy) < 0.15
    assert reward[-3:].mean() - reward[:3].mean() > 0.15
    assert ratio == pytest.approx(np.ones(12), abs=1e-3), (
        "with one update per batch, the samples are on-policy"
    )


@pytest.mark.long
@pytest.mark.ray
def test_a_campaign_on_ray_samples_with_vllm(undisturbed: Any, short_home: Path):
    """The shrunk campaign with another engine: other random numbers, but scores that agree within
    their noise.
    """
    engine = (
        "runtime.engine=vllm",
        "runtime.device=cpu",
        "runtime.kv_cache_gib=0.25",
        "runtime.cpus=1",
    )
    campaign = run_campaign(short_home, "iterations=1", "runtime.ray=on", *engine, timeout=500)
    result, other = campaign.result, undisturbed.result
    assert result["status"] == "completed" and campaign.done.stdout.count("\n") == 1
    assert result["base"]["policy"] == other["base"]["policy"]
    ours, theirs = result["base"]["scores"]["test"], other["base"]["scores"]["test"]
    assert ours != theirs, "vLLM sampled"
    assert abs(ours["avg"] - theirs["avg"]) < 4 * math.sqrt(
        2 * 0.25 / (ours["k"] * ours["problems"])
    )
    assert result["iterations"][0]["teacher"]["scores"]["test"]["avg"] > ours["avg"]
    assert result["iterations"][0]["student"]["kl_old"] > 0
    assert list((short_home / "cwd").iterdir()) == list((short_home / "user").iterdir()) == []
