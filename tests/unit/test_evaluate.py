"""Evaluations: details and problem rows match the samples; sampling defaults, table, overrides."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from chat_server import serving
from helpers import World
from rich.console import Console

from deployments.output.evaluation import print_evaluation
from erpd_core.config import SamplingConfig
from erpd_core.evaluation_details import BenchmarkDetails, ProblemResult
from erpd_core.refs import EvalReport
from flows.inspect.evaluate_models import (
    EvaluationRequest,
    compare_results,
    evaluate_models,
    plan_evaluation,
    read_settings,
)
from flows.inspect.problem_table import check_path, counts, join, worth_showing, write_table
from tasks.datasets import load_problems
from tasks.engines.hf import draw
from tasks.evaluation.evaluate import EvaluatePolicy
from tasks.evaluation.result_files import load_details, load_results
from tasks.execution.stage import get_or_compute
from tasks.models.generation_defaults import evaluation_sampling
from tasks.rollouts import SampleRollouts, shards
from tasks.rollouts.score import load_column
from tasks.tracking import details_metrics

# ---------------------------------------------------------------------------------------- the stage


@pytest.fixture(scope="module")
def stage(world: World) -> EvaluatePolicy:
    """An evaluation with the world's problems, sampling and seed, which reuses its samples."""
    sampling = SamplingConfig(samples=8, temperature=1.0, max_new_tokens=24, shard=24)
    return EvaluatePolicy(
        policy=world.base,
        old=world.base,
        base=world.base,
        benchmarks={"sums": world.problems},
        sampling=sampling,
        seed=7,
    )


@pytest.fixture(scope="module")
def report(world: World, stage: EvaluatePolicy) -> EvalReport:
    rollouts = len(world.store.artifacts("rollouts"))
    measured = get_or_compute(stage, world.context)
    assert len(world.store.artifacts("rollouts")) == rollouts, "it reuses the stored samples"
    return measured


@pytest.fixture(scope="module")
def rows(world: World) -> list[dict]:
    return [
        row
        for path in shards(world.store, world.rollouts)
        for row in pq.read_table(path).to_pylist()
    ]


def test_details_are_those_of_the_samples(
    world: World, stage: EvaluatePolicy, report: EvalReport, rows: list[dict]
):
    details = load_details(world.store, stage.identity())["sums"]
    right = {
        problem: sum(row["reward"] for row in rows if row["problem"] == problem)
        for problem in {row["problem"] for row in rows}
    }
    assert details.pass_at_k[1] == pytest.approx(report.scores["sums"].avg)
    assert details.pass_at_k[8] == pytest.approx(sum(count > 0 for count in right.values()) / 64)
    assert list(details.pass_at_k) == [1, 2, 4, 8]
    assert details.truncated == sum(row["truncated"] for row in rows) / len(rows)
    assert details.unanswered == sum(row["verdict"] == "unparsable" for row in rows) / len(rows)
    assert (
        details.length
        == report.length
        == pytest.approx(sum(len(row["response_tokens"]) for row in rows) / len(rows))
    )
    assert (
        details.entropy
        == report.entropy
        == pytest.approx(float(load_column(world.store, world.old, "entropy").double().mean()))
    )
    assert (details.kl_old, details.kl_base) == (0, 0)
    assert details.majority is not None and details.majority > report.scores["sums"].avg, (
        "the right answer is more frequent than any wrong one"
    )
    assert (
        details.majority_ci95 is not None
        and details.majority_ci95[0] < details.majority < details.majority_ci95[1]
    )


def test_majority_by_the_worlds_own_rule(
    world: World, stage: EvaluatePolicy, report: EvalReport, rows: list[dict]
):
    """Counted without extractor, grader or groups: the answer is the text after the last #."""
    total = 0.0
    golds = {problem.id: problem.answer for problem in load_problems(world.store, world.problems)}
    for problem, gold in golds.items():
        answers = [
            row["text"].rpartition("#")[2]
            for row in rows
            if row["problem"] == problem and row["verdict"] != "unparsable"
        ]
        most = max((answers.count(answer) for answer in answers), default=0)
        winners = {answer for answer in answers if answers.count(answer) == most}
        total += (gold in winners) / len(winners) if winners else 0.0
    details = load_details(world.store, stage.identity())["sums"]
    assert details.majority == pytest.approx(total / 64)


def test_every_problem_has_a_row(
    world: World, stage: EvaluatePolicy, report: EvalReport, rows: list[dict]
):
    results, problems = (
        load_results(world.store, stage.identity()),
        load_problems(world.store, world.problems),
    )
    assert [entry.problem for entry in results] == [problem.id for problem in problems]
    for entry, problem in zip(results, problems, strict=True):
        own = [row for row in rows if row["problem"] == entry.problem]
        assert (entry.benchmark, entry.samples, entry.gold) == ("sums", 8, problem.answer)
        assert entry.solved == sum(row["reward"] for row in own)
        assert entry.length == sum(len(row["response_tokens"]) for row in own) / 8
        assert 1 <= entry.votes <= 8 and entry.answer is not None
    assert sum(entry.solved for entry in results) / 512 == pytest.approx(report.scores["sums"].avg)


def test_metrics_of_details_have_names_of_their_own():
    details = BenchmarkDetails(
        pass_at_k={1: 0.5, 4: 0.75},
        majority=0.625,
        majority_ci95=(0.5, 0.75),
        truncated=0.25,
        unanswered=0.125,
        length=9,
        entropy=0.5,
        kl_old=0,
        kl_base=0,
    )
    assert details_metrics({"AIME25": details}, "student") == {
        "eval/AIME25/pass_at_k": 0.75,
        "eval/AIME25/majority": 0.625,
        "eval/AIME25/truncated": 0.25,
        "eval/AIME25/unanswered": 0.125,
        "eval/AIME25/length": 9.0,
        "eval/AIME25/entropy": 0.5,
    }
    code = details.model_copy(update={"majority": None, "majority_ci95": None})
    assert "teacher/eval/LCB/pass_at_k" in details_metrics({"LCB": code}, "teacher")
    assert not any("majority" in name for name in details_metrics({"LCB": code}))


# ----------------------------------------------------------------------------------------- sampling


def model(folder: Path, kind: str, **generation: object) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_sampling_is_the_papers_with_the_models_own_top_k(tmp_path: Path):
    sampling = evaluation_sampling(
        model(tmp_path, "qwen3", top_k=20, temperature=0.7, top_p=0.8), {"samples": 4}
    )
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.samples) == (
        0.6,
        0.95,
        20,
        4,
    )


def test_qwen35_is_sampled_at_temperature_1(tmp_path: Path):
    sampling = evaluation_sampling(model(tmp_path, "qwen3_5_text"), {})
    assert (sampling.temperature, sampling.presence_penalty) == (1.0, 1.5)
    assert (
        evaluation_sampling(model(tmp_path, "qwen3_5_text"), {"temperature": 0.3}).temperature
        == 0.3
    )


def test_a_model_that_says_nothing_has_no_top_k_and_0_turns_it_off(tmp_path: Path):
    assert evaluation_sampling(model(tmp_path, "llama"), {"top_k": None}).top_k is None
    assert evaluation_sampling(model(tmp_path, "qwen3", top_k=20), {"top_k": 0}).top_k is None
    assert evaluation_sampling(model(tmp_path, "qwen3", top_k=20), {"top_k": 5}).top_k == 5


def test_sampling_without_top_k_is_written_as_before_there_was_one():
    """Rollouts from before `top_k` existed keep their identity."""
    assert (
        "top_k" not in SamplingConfig().model_dump(mode="json")
        and '"top_k"' not in SamplingConfig().model_dump_json()
    )
    with_one = SamplingConfig(top_k=3)
    assert with_one.model_dump(mode="json")["top_k"] == 3
    assert SamplingConfig.model_validate_json(with_one.model_dump_json()) == with_one


def test_another_top_k_is_another_rollout(world: World):
    identities = {
        SampleRollouts(
            policy=world.base, problems=world.problems, sampling=SamplingConfig(top_k=top_k), seed=1
        ).identity()
        for top_k in (None, 3, 4)
    }
    assert len(identities) == 3


def test_only_the_k_most_likely_tokens_are_drawn():
    """Probabilities keep their ratios: the softmax of logs 4, 3, 2, 1 cut at 2 is 4/7 and 3/7."""
    logits = torch.tensor([4.0, 1.0, 3.0, 2.0]).log().expand(7000, 4)
    uniform = (torch.arange(7000) + 0.5) / 7000
    drawn = draw(logits, uniform, SamplingConfig(temperature=1.0, top_k=2))
    assert drawn.bincount(minlength=4).tolist() == [4000, 0, 3000, 0]
    assert draw(logits, uniform, SamplingConfig(temperature=1.0, top_k=99)).bincount().tolist() == [
        2800,
        700,
        2100,
        1400,
    ]
    nucleus = draw(logits, uniform, SamplingConfig(temperature=1.0, top_k=2, top_p=0.5))
    assert nucleus.bincount(minlength=4).tolist() == [7000, 0, 0, 0], (
        "top-p applies to the tokens that top-k kept"
    )


# ------------------------------------------------------------------------------------------- tables


def result(problem: str, solved: int, samples: int = 4, benchmark: str = "b") -> ProblemResult:
    return ProblemResult(
        benchmark=benchmark,
        problem=problem,
        gold="1",
        samples=samples,
        solved=solved,
        length=8,
        truncated=0,
        unanswered=0,
        answer="1",
        votes=solved or 1,
    )


def test_two_models_stand_side_by_side_in_the_table(tmp_path: Path):
    table = join([result("x", 4), result("y", 1)], [result("y", 2, 8), result("x", 1)])
    assert [(row["solved"], row["against_solved"], row["difference"]) for row in table] == [
        (4, 1, 0.75),
        (1, 2, 0.0),
    ]
    assert [row["problem"] for row in worth_showing(table)] == ["x"], (
        "the other problem does not differ"
    )
    for name in ("t.jsonl", "t.parquet"):
        write_table(table, tmp_path / name)
    assert [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()] == table
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == table


def test_the_hardest_problems_are_shown():
    table = join([result(str(solved), solved % 5) for solved in range(25)], None)
    assert [row["solved"] for row in worth_showing(table)] == [0] * 5 + [1] * 5
    assert counts(table) == {"never": 5, "sometimes": 15, "always": 5}


@pytest.mark.parametrize("name", ["table.csv", "table", "."])
def test_a_table_has_a_known_form(name: str, tmp_path: Path):
    with pytest.raises(ValueError, match="--per-problem"):
        check_path(tmp_path / name)


def test_the_comparison_is_paired_within_each_benchmark():
    model = [result(str(i), 4) for i in range(6)] + [result("0", 2, benchmark="c")]
    against = [result(str(i), 2) for i in range(6)] + [result("0", 2, benchmark="c")]
    comparison = compare_results(model, against)
    assert comparison["b"] | {"ci95": None} == {
        "difference": 0.5,
        "ci95": None,
        "p_value": pytest.approx(2 / 64),
        "beyond_noise": True,
        "problems": 6,
    }
    assert (
        comparison["c"]["difference"],
        comparison["c"]["p_value"],
        comparison["c"]["beyond_noise"],
    ) == (
        0,
        1,
        False,
    )


def test_the_runtime_and_a_judge_may_be_set_and_nothing_else():
    runtime, judge = read_settings(["runtime.device=cpu", "runtime.dtype=bfloat16"])
    assert (runtime.ray, runtime.device, runtime.dtype, judge) == ("off", "cpu", "bfloat16", None)
    judge = read_settings(
        ["judge.endpoint=http://127.0.0.1:1/v1", "judge.model=some", "judge.max_calls=3"]
    )[1]
    assert judge is not None and (judge.model, judge.max_calls) == ("some", 3)
    for wrong, expected in (
        ("seed=3", "seed"),
        ("runtime.devise=cpu", "devise"),
        ("runtime.device=tpu", "device"),
        ("runtime", "key.path"),
        ("judge.model=some", "judge: endpoint"),
        ("judge.endpoint=ftp://x", "judge: .*URL"),
    ):
        with pytest.raises(ValueError, match=expected):
            read_settings([wrong])


def test_a_judge_turns_answers_and_is_named_in_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ERPD_HOME", str(tmp_path))
    (tmp_path / "logs").mkdir()
    asked = EvaluationRequest(
        model="tiny", benchmarks=("tiny",), k=4, count=12, sampling={"max_new_tokens": 24}
    )
    plain, _ = evaluate_models(plan_evaluation(asked), None)
    with serving("yes") as server:
        settings = (f"judge.endpoint={server.endpoint}", "judge.model=yes-man")
        result, rows = evaluate_models(
            plan_evaluation(dataclasses.replace(asked, settings=settings)), None
        )
    outcomes = result["judge"]["tiny"]["outcomes"]
    assert outcomes["same"] > 0 and "judge" not in plain
    assert result["scores"]["tiny"]["avg"] == pytest.approx(
        plain["scores"]["tiny"]["avg"] + outcomes["same"] / 48
    )
    console = Console(record=True, width=120)
    print_evaluation(result, rows, {"model": "tiny", "against": ""}, console)
    assert f"the judge on tiny: same {outcomes['same']}" in console.export_text()


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"k": 0}, ["--k 0", "1 or more"]),
        ({"benchmarks": ("tiny", "tiny")}, ["tiny", "twice"]),
        ({"benchmarks": ("sums.jsonl", "other/sums.csv")}, ["sums"]),
        ({"benchmarks": ("nope",)}, ["nope"]),
        ({"sampling": {"temperature": 0.0}}, ["temperature", "greater than 0"]),
        ({"sampling": {"top_p": 1.5}}, ["top_p", "1.5"]),
        ({"sampling": {"max_new_tokens": 0}}, ["max_new_tokens", "0"]),
        ({"sampling": {"top_k": -1}}, ["top_k", "-1"]),
        ({"per_problem": Path("rows.csv")}, ["rows.csv", ".jsonl or .parquet"]),
        ({"settings": ("runtime.devise=cpu",)}, ["devise", "unknown key"]),
        ({"settings": ("teacher.steps=3",)}, ["teacher", "runtime"]),
        ({"model": "/nope"}, ["/nope", "directory"]),
        ({"against": "/nope"}, ["/nope", "directory"]),
        ({"wording": {"template": "Answer me"}}, ["template", "{problem}"]),
        ({"wording": {"extractor": "nose"}}, ["extractor", "boxed"]),
    ],
    ids=str,
)
def test_what_cannot_be_evaluated_is_said_before_anything_is_sampled(given: dict, words: list[str]):
    asked = EvaluationRequest(
        **{"model": "tiny", "benchmarks": ("tiny",), "k": 2, "count": 3, **given}
    )
    with pytest.raises(ValueError) as refused:
        plan_evaluation(asked)
    assert all(word in str(refused.value) for word in words), refused.value
