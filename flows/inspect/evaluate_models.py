"""Policies on benchmarks, outside any campaign. What was sampled lies in the store, so a killed
evaluation goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from erpd_core.config import JudgeConfig, ProblemsConfig, RuntimeConfig, SamplingConfig
from flows.inspect.problem_table import ProblemRow, check_path, join, write_table
from flows.recipes.load import apply_overrides, explain
from flows.recipes.paper import load_paper_settings
from tasks.host.home import home
from tasks.models.import_policy import ImportPolicy, import_policy, model_from_text

if TYPE_CHECKING:
    from erpd_core.refs import PolicyRef, ProblemsRef
    from tasks.datasets import DrawProblems
    from tasks.evaluation.evaluate import EvaluatePolicy
    from tasks.execution.stage import Context
    from tasks.store import Store

SAMPLES = 8
"""Samples a problem where neither `--k` nor the benchmark says."""


@dataclass(frozen=True)
class Asked:
    """What `erpd eval` was asked."""

    model: str
    benchmarks: Sequence[str]
    against: str | None = None
    k: int | None = None
    """Samples a problem; each benchmark's own when absent."""
    wording: Mapping[str, Any] = field(default_factory=dict)
    """`template` and `extractor` of every benchmark; absent or None where its own holds."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `SamplingConfig`; absent or None where the model's own default holds."""
    count: int | None = None
    seed: int = 0
    settings: Sequence[str] = ()
    """`runtime.key=value` and `judge.key=value`."""
    per_problem: Path | None = None
    """Where the table of single problems is written; under ERPD_HOME when absent."""


@dataclass(frozen=True)
class Planned:
    """What was asked and found to be possible; nothing is written yet."""

    asked: Asked
    runtime: RuntimeConfig
    judge: JudgeConfig | None
    models: Mapping[str, ImportPolicy]
    """By role: `model`, `against`."""
    draws: Mapping[str, DrawProblems]
    samples: Mapping[str, int]
    """By benchmark, a problem."""
    sampling: Mapping[str, SamplingConfig]
    """By role."""


def plan_evaluation(asked: Asked) -> Planned:
    """Read and check all that was asked, and every row of its files. Raises ValueError for what
    cannot be evaluated.
    """
    from tasks.datasets import check_problems

    if asked.per_problem is not None:
        check_path(asked.per_problem)
    runtime, judge = read_settings(asked.settings)
    samples, draws = _benchmarks(asked)
    texts = {"model": asked.model} | (
        {"against": asked.against} if asked.against is not None else {}
    )
    models = {role: import_policy(model_from_text(text)) for role, text in texts.items()}
    most = max(samples.values())
    sampling = {
        role: _sampling(asked, texts[role], Path(model.folder), most)
        for role, model in models.items()
    }
    for draw in draws.values():
        check_problems(draw.source, draw.seed)
    return Planned(asked, runtime, judge, models, draws, samples, sampling)


def evaluate_models(plan: Planned, events: Path | None) -> tuple[dict[str, Any], list[ProblemRow]]:
    """The contract's REPORT of a model, with more measures beside it, and a row for every problem.

    With `against`, that model's REPORT, its columns and the paired comparison too.

    Both KLs are against the other model when there is one with the same tokenizer; else the model
    is its own base and both are 0. Progress goes to `events`.
    """
    from tasks.execution.progress import Progress
    from tasks.execution.stage import Context, get_or_compute
    from tasks.store import open_store

    context = Context(open_store(), plan.runtime, Progress(events, "evaluate"))
    stages = _stages(plan, context)
    for name, stage in stages.items():
        label = f"evaluate {name}" if len(stages) > 1 else "evaluate"
        get_or_compute(stage, Context(context.store, plan.runtime, Progress(events, label)))
    return _result(plan.asked, stages, context)


def read_settings(overrides: Sequence[str]) -> tuple[RuntimeConfig, JudgeConfig | None]:
    """The runtime, whose engine can be had here, and the judge, if one is named. Raises
    ValueError in one line for anything else.
    """
    from tasks.engines import check_engine

    tree: dict[str, Any] = {"runtime": {"ray": "off"}}
    apply_overrides(tree, overrides)
    if other := sorted(tree.keys() - {"runtime", "judge"}):
        raise ValueError(
            f"--set {other[0]}: here are runtime.KEY and judge.KEY only; write "
            f"runtime.device=cpu, for example"
        )
    part = "runtime"
    try:
        runtime = RuntimeConfig.model_validate(tree[part])
        part = "judge"
        judge = JudgeConfig.model_validate(tree[part]) if part in tree else None
    except ValidationError as error:
        raise ValueError(f"--set {part}: {explain(error)}") from error
    check_engine(runtime)
    return runtime, judge


def _stages(plan: Planned, context: Context) -> dict[str, EvaluatePolicy]:
    """One evaluation for each model, all on the same problems with the same seeds."""
    from tasks.evaluation.evaluate import EvaluatePolicy
    from tasks.execution.stage import get_or_compute

    policies: dict[str, PolicyRef] = {
        role: get_or_compute(stage, context) for role, stage in plan.models.items()
    }
    problems: dict[str, ProblemsRef] = {
        name: get_or_compute(stage, context) for name, stage in plan.draws.items()
    }
    most = max(plan.samples.values())
    stages = {}
    for role, policy in policies.items():
        others = [
            other
            for one, other in policies.items()
            if one != role and _comparable(context.store, policy, other)
        ]
        base = others[0] if others else policy
        stages[role] = EvaluatePolicy(
            policy=policy,
            old=base,
            base=base,
            benchmarks=problems,
            sampling=plan.sampling[role],
            samples={name: k for name, k in plan.samples.items() if k != most},
            seed=plan.asked.seed,
            judge=plan.judge,
        )
    return stages


def _benchmarks(asked: Asked) -> tuple[dict[str, int], dict[str, DrawProblems]]:
    """Name -> samples a problem, and name -> the stage that draws its problems."""
    from tasks.datasets import benchmark_from_text, draw_problems, samples_of

    if asked.k is not None and asked.k < 1:
        raise ValueError(f"--k {asked.k}: at least one sample a problem is needed; give 1 or more")
    samples: dict[str, int] = {}
    draws = {}
    for text in asked.benchmarks:
        name = Path(text).stem if Path(text).suffix else text
        if name in draws:
            raise ValueError(
                f"benchmark: {name!r} is there twice; benchmarks are told apart by name, or by "
                f"file name without its ending"
            )
        samples[name] = asked.k or samples_of(text) or SAMPLES
        draws[name] = draw_problems(
            name, worded(benchmark_from_text(text, asked.count), asked.wording), asked.seed
        )
    return samples, draws


def worded(source: ProblemsConfig, wording: Mapping[str, Any]) -> ProblemsConfig:
    """The source with another template or extractor, where one is given. Raises ValueError in
    one line for one that cannot be.
    """
    try:
        given = {name: value for name, value in wording.items() if value is not None}
        return type(source).model_validate({**source.model_dump(), **given})
    except ValidationError as error:
        raise ValueError(f"benchmark: {explain(error)}") from error


def _sampling(asked: Asked, model: str, folder: Path, samples: int) -> SamplingConfig:
    """What was asked; then the paper's length limit for a model it names; then the model's
    defaults.
    """
    from tasks.models.generation_defaults import evaluation_sampling

    limits = {
        one.id: one.evaluation.max_new_tokens for one in load_paper_settings().models.values()
    }
    given = {name: value for name, value in asked.sampling.items() if value is not None}
    try:
        return evaluation_sampling(
            folder, {"max_new_tokens": limits.get(model), **given, "samples": samples}
        )
    except ValidationError as error:
        raise ValueError(f"sampling: {explain(error)}") from error


def _comparable(store: Store, a: PolicyRef, b: PolicyRef) -> bool:
    """Do tokens mean the same to both, so that log-probs of the two can be compared?"""
    from tasks.models.policy import vocabulary

    tokenizers = [store.manifest(one.id).files.get("tokenizer.json") for one in (a, b)]
    return (
        vocabulary(store.path(a.id)) == vocabulary(store.path(b.id))
        and tokenizers[0] == tokenizers[1]
    )


def _result(
    asked: Asked, stages: Mapping[str, EvaluatePolicy], context: Context
) -> tuple[dict[str, Any], list[ProblemRow]]:
    from tasks.evaluation.result_files import load_details, load_judged, load_results

    reports = {}
    for role, stage in stages.items():
        report = stage.stored(context.store)
        assert report is not None, "it has just been evaluated"
        details = {
            name: one.model_dump(mode="json")
            for name, one in load_details(context.store, stage.identity()).items()
        }
        reports[role] = {
            **report.model_dump(mode="json"),
            "details": details,
            "sampling": stage.sampling.model_dump(mode="json"),
        }
        if stage.judge:
            judged = load_judged(context.store, stage.identity())
            reports[role]["judge"] = {
                name: one.model_dump(mode="json") for name, one in judged.items()
            }
    results = {
        role: load_results(context.store, stage.identity()) for role, stage in stages.items()
    }
    rows = join(results["model"], results.get("against"))
    path = asked.per_problem or home() / "reports" / "eval" / f"{stages['model'].identity()}.jsonl"
    write_table(rows, path)
    found = {**reports["model"], "per_problem": str(path)}
    if "against" in results:
        found |= {
            "against": reports["against"],
            "comparison": compare_results(results["model"], results["against"]),
        }
    return found, rows


def compare_results(model: Sequence[Any], against: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Benchmark -> the paired difference model - against, with its clustered interval and the
    chance of it among equals.
    """
    from erpd_core.scoring import compare, p_value

    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(one.benchmark for one in model):
        a, b = (
            {
                one.problem: [1.0] * one.solved + [0.0] * (one.samples - one.solved)
                for one in some
                if one.benchmark == name
            }
            for some in (model, against)
        )
        compared, chance = compare(a, b), p_value(a, b)
        found[name] = {
            "difference": compared.difference,
            "ci95": list(compared.ci95),
            "p_value": chance,
            "beyond_noise": chance < 0.05,
            "problems": compared.problems,
        }
    return found
