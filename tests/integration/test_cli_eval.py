"""`erpd eval`: its numbers, comparison of two models, resuming after a kill, and errors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from helpers import environment, erpd, wait_until
from safetensors.torch import load_file, save_file

from erpd_core.refs import RolloutRef
from erpd_core.scoring import avg_at_k, compare, p_value, pass_at_k
from tasks.datasets.tiny_world import problems
from tasks.models.import_policy import ASSETS
from tasks.rollouts import outcomes
from tasks.store import Store

pytestmark = pytest.mark.slow
SHORT = ("--max-new-tokens", "24")
HASH = (*SHORT, "--extractor", "hash")
"""Options for a file of the tiny world's problems, whose answers follow a #."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home shared by the module, so that later tests reuse earlier samples."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [
        {"problem": problem.prompt, "answer": problem.answer, "id": problem.id}
        for problem in problems("test", 12, 3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with noise on its weights: the same vocabulary, and clearly worse."""
    folder = tmp_path_factory.mktemp("other")
    for path in (ASSETS / "tiny-base").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    noisy = {
        name: weight + 0.4 * weight.std() * torch.randn(weight.shape, generator=generator)
        if weight.ndim == 2
        else weight
        for name, weight in weights.items()
    }
    save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def evaluated(home: Path, *arguments: object) -> dict[str, Any]:
    done = erpd("eval", *arguments, "--json", home=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def outcomes_of(home: Path, policy: str, count: int) -> list[dict[str, list[float]]]:
    """Outcomes of every rollout of a policy in the store that has `count` problems."""
    store = Store(home / "store")
    refs = [
        RolloutRef.model_validate(store.manifest(artifact).meta["ref"])
        for artifact in store.artifacts("rollouts")
    ]
    return [
        by_problem
        for ref in refs
        if ref.policy.id == policy and len(by_problem := outcomes(store, ref)) == count
    ]


# ------------------------------------------------------------------------------------------- output


def test_the_report_is_the_contracts_and_its_numbers_are_the_stores(home: Path, sums: Path):
    report = evaluated(home, "--model", "tiny", "--benchmark", sums, "--k", "4", *HASH)
    assert {"policy", "scores", "kl_old", "kl_base", "entropy", "length"} <= set(report)
    score, details = report["scores"]["sums"], report["details"]["sums"]
    assert set(score) == {"avg", "k", "problems", "ci95"} and (score["k"], score["problems"]) == (
        4,
        12,
    )
    assert report["kl_old"] == report["kl_base"] == 0.0
    (own,) = outcomes_of(home, report["policy"], 12)
    assert score["avg"] == avg_at_k(own).avg
    assert details["pass_at_k"] == {str(k): pytest.approx(pass_at_k(own, k)) for k in (1, 2, 4)}
    assert 0 < details["majority"] <= details["pass_at_k"]["4"] and 0 <= details["truncated"] <= 1
    assert (details["length"], details["entropy"]) == (report["length"], report["entropy"])
    rows = [json.loads(line) for line in Path(report["per_problem"]).read_text().splitlines()]
    assert {row["problem"]: row["solved"] for row in rows} == {
        problem: sum(row) for problem, row in own.items()
    }
    assert Path(report["per_problem"]).is_relative_to(home)
    assert evaluated(home, "--model", "tiny", "--benchmark", sums, "--k", "4", *HASH) == report


def test_a_table_for_people(home: Path, sums: Path):
    done = erpd("eval", "--model", "tiny", "--benchmark", sums, "--k", "4", *HASH, home=home)
    assert done.returncode == 0, done.stderr
    for word in (
        "sums",
        "AVG@K",
        "12 x 4",
        "pass@K",
        "maj@K",
        "temperature 0.6, top-p 0.95",
        "problems solved never",
        "every problem:",
    ):
        assert word in done.stdout, done.stdout


def test_a_directory_is_its_bytes(home: Path, sums: Path):
    common = ["--benchmark", sums, "--k", "2", *HASH, "--count", "6"]
    by_name, by_folder = (
        evaluated(home, "--model", model, *common) for model in ("tiny", ASSETS / "tiny-base")
    )
    assert by_name == by_folder and by_name["scores"]["sums"]["problems"] == 6


def test_the_tiny_models_answers_are_read_and_several_benchmarks_are_taken(home: Path, sums: Path):
    """The base solves about half of its own problems; a score of 0 would mean that its answers are
    not extracted.
    """
    report = evaluated(
        home,
        "--model",
        "tiny",
        "--benchmark",
        "tiny",
        "--benchmark",
        sums,
        "--count",
        "12",
        "--temperature",
        "1",
        "--top-p",
        "1",
        "--top-k",
        "5",
        *HASH,
        "--per-problem",
        home / "rows.parquet",
    )
    assert list(report["scores"]) == list(report["details"]) == ["tiny", "sums"]
    assert {score["k"] for score in report["scores"].values()} == {8}, "neither sets its own K"
    assert all(0.2 < score["avg"] < 0.8 for score in report["scores"].values())
    assert report["sampling"]["top_k"] == 5 and report["sampling"]["temperature"] == 1
    rows = pq.read_table(home / "rows.parquet").to_pylist()
    assert [row["benchmark"] for row in rows] == ["tiny"] * 12 + ["sums"] * 12
    assert report["length"] == pytest.approx(sum(row["length"] for row in rows) / 24)


# --------------------------------------------------------------------------------------- comparison


def test_two_models_are_compared_on_the_same_problems(home: Path, other: Path):
    result = evaluated(
        home,
        "--model",
        "tiny",
        "--against",
        other,
        "--benchmark",
        "tiny",
        "--count",
        "40",
        "--k",
        "4",
        *SHORT,
    )
    a, b = (outcomes_of(home, report["policy"], 40)[0] for report in (result, result["against"]))
    assert list(a) == list(b)
    compared, reported = compare(a, b), result["comparison"]["tiny"]
    assert reported["difference"] == pytest.approx(
        result["scores"]["tiny"]["avg"] - result["against"]["scores"]["tiny"]["avg"]
    )
    assert reported["ci95"] == pytest.approx(list(compared.ci95))
    assert reported["p_value"] == pytest.approx(p_value(a, b))
    assert reported["difference"] > 0.2 and reported["beyond_noise"] and reported["problems"] == 40
    assert result["kl_base"] > 0.01 and result["against"]["kl_base"] > 0.01, (
        "each model's KL is to the other one, on its own samples"
    )
    rows = [json.loads(line) for line in Path(result["per_problem"]).read_text().splitlines()]
    assert all(row["difference"] == (row["solved"] - row["against_solved"]) / 4 for row in rows)


def test_a_model_is_no_better_than_itself(home: Path, sums: Path):
    """With the same seeds, no sample differs."""
    done = erpd(
        "eval",
        "--model",
        "tiny",
        "--against",
        ASSETS / "tiny-base",
        "--benchmark",
        sums,
        "--k",
        "4",
        *HASH,
        home=home,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "+0.0 points" in done.stdout
        and "p = 1: within noise" in done.stdout
        and "the models differ on none" in done.stdout
    )


# ------------------------------------------------------------------------------------------- resume


@pytest.mark.long
def test_a_killed_evaluation_goes_on_and_ends_in_the_same_numbers(tmp_path: Path):
    arguments = [
        "eval",
        "--model",
        "tiny",
        "--benchmark",
        "tiny",
        "--count",
        "400",
        "--k",
        "8",
        *SHORT,
        "--json",
    ]
    home, other_home = tmp_path / "home", tmp_path / "calm"
    home.mkdir(), other_home.mkdir()
    command, null = [sys.executable, "-m", "deployments.cli", *arguments], subprocess.DEVNULL
    started = subprocess.Popen(command, env=environment(home), cwd=home, stdout=null, stderr=null)
    try:
        assert wait_until(
            lambda: list((home / "store" / "partial").glob("rollouts-*/shard-00000.parquet.sum")),
            300,
            pause=0.02,
        )
    finally:
        started.send_signal(signal.SIGKILL)
        started.wait()
    (first,) = (home / "store" / "partial").glob("rollouts-*/shard-00000.parquet")
    before = first.stat().st_mtime_ns
    done, undisturbed = erpd(*arguments, home=home), erpd(*arguments, home=other_home)
    assert done.returncode == undisturbed.returncode == 0, done.stderr
    (kept,) = (home / "store" / "rollouts").glob("*/shard-00000.parquet")
    assert kept.stat().st_mtime_ns == before, "the finished shard was not sampled again"
    resumed, expected = (json.loads(run.stdout) for run in (done, undisturbed))
    assert {**resumed, "per_problem": None} == {**expected, "per_problem": None}


# ------------------------------------------------------------------------------------------- errors


def test_what_is_wrong_is_said_in_one_line(home: Path):
    """One fault through the real command; tests/unit/test_evaluate.py has all of them."""
    done = erpd("eval", "--model", "tiny", "--benchmark", "tiny", "--k", "0", home=home)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "--k 0" in line and "1 or more" in line
