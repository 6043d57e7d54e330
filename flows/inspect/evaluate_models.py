"""Evaluation of models on benchmarks, outside any campaign.

Samples are kept in the store, so a killed evaluation resumes.
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
"""Samples per problem if neither `--k` nor the benchmark sets them."""


@dataclass(frozen=True)
class EvaluationRequest:
    """The request of `erpd eval`."""

    model: str
    benchmarks: Sequence[str]
    against: str | None = None
    k: int | None = None
    """Samples per problem; if None, each benchmark's default."""
    wording: Mapping[str, Any] = field(default_factory=dict)
    """`template` and `extractor` for every benchmark; absent or None: the benchmark's own."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `SamplingConfig`; absent or None: the model's default."""
    count: int | None = None
    """Number of problems from each benchmark; None for all."""
    seed: int = 0
    settings: Sequence[str] = ()
    """`runtime.key=value` and `judge.key=value`."""
    per_problem: Path | None = None
    """File of the table of problems; if None, a file below ERPD_HOME."""


@dataclass(frozen=True)
class EvaluationPlan:
    """A request that has been checked and can be carried out; nothing is written yet."""

    asked: EvaluationRequest
    runtime: RuntimeConfig
    judge: JudgeConfig | None
    models: Mapping[str, ImportPolicy]
    """Role (`model`, `against`) -> the import of the model."""
    draws: Mapping[str, DrawProblems]
    """Benchmark -> the stage that draws its problems."""
    samples: Mapping[str, int]
    """Benchmark -> samples per problem."""
    sampling: Mapping[str, SamplingConfig]
    """Role -> how the model is sampled."""


def plan_evaluation(asked: EvaluationRequest) -> EvaluationPlan:
    """Check a request, including every row of its files.

    **Raises:** ValueError for anything that cannot be evaluated.
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
    return EvaluationPlan(asked, runtime, judge, models, draws, samples, sampling)


def evaluate_models(
    plan: EvaluationPlan, events: Path | None
) -> tuple[dict[str, Any], list[ProblemRow]]:
    """Evaluate the models of a plan.

    Both KLs of a report are against the other model, if there is one with the same tokenizer.
    Otherwise the model is its own base and both are 0.

    **Arguments:**
        events: File for progress events.
    **Returns:** The model's `EvalReport` as a mapping with additional measures, and a row for each
        problem. With `against`, they include that model's report and columns, and the paired
        comparison.
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
    """The runtime and, if it is set, the judge of `runtime.KEY=value` and `judge.KEY=value`.

    **Raises:** ValueError, in one line, for any other or invalid setting, or an engine that is not
        available here.
    """
    from tasks.engines import check_engine

    tree: dict[str, Any] = {"runtime": {"ray": "off"}}
    apply_overrides(tree, overrides)
    if other := sorted(tree.keys() - {"runtime", "judge"}):
        raise ValueError(
            f"--set {other[0]}: only runtime.KEY and judge.KEY can be set here; write for "
            f"example runtime.device=cpu"
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


def _stages(plan: EvaluationPlan, context: Context) -> dict[str, EvaluatePolicy]:
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
            for other_role, other in policies.items()
            if other_role != role and _comparable(context.store, policy, other)
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


def _benchmarks(asked: EvaluationRequest) -> tuple[dict[str, int], dict[str, DrawProblems]]:
    """Name -> samples per problem, and name -> the stage that draws its problems."""
    from tasks.datasets import benchmark_from_text, draw_problems, samples_of

    if asked.k is not None and asked.k < 1:
        raise ValueError(
            f"--k {asked.k}: at least one sample per problem is needed; give 1 or more"
        )
    samples: dict[str, int] = {}
    draws = {}
    for text in asked.benchmarks:
        name = Path(text).stem if Path(text).suffix else text
        if name in draws:
            raise ValueError(
                f"benchmark: {name!r} is given twice; a benchmark is identified by its name, or by "
                f"its file name without the ending"
            )
        samples[name] = asked.k or samples_of(text) or SAMPLES
        draws[name] = draw_problems(
            name, worded(benchmark_from_text(text, asked.count), asked.wording), asked.seed
        )
    return samples, draws


def worded(source: ProblemsConfig, wording: Mapping[str, Any]) -> ProblemsConfig:
    """The source with another template or extractor, if one is given.

    **Raises:** ValueError, in one line, for an invalid one.
    """
    try:
        given = {name: value for name, value in wording.items() if value is not None}
        return type(source).model_validate({**source.model_dump(), **given})
    except ValidationError as error:
        raise ValueError(f"benchmark: {explain(error)}") from error


def _sampling(asked: EvaluationRequest, model: str, folder: Path, samples: int) -> SamplingConfig:
    """The sampling of a model.

    Settings of the request come first, then the paper's length limit if it uses the model, then the
    model's defaults.
    """
    from tasks.models.generation_defaults import evaluation_sampling

    limits = {
        paper_model.id: paper_model.evaluation.max_new_tokens
        for paper_model in load_paper_settings().models.values()
    }
    given = {name: value for name, value in asked.sampling.items() if value is not None}
    try:
        return evaluation_sampling(
            folder, {"max_new_tokens": limits.get(model), **given, "samples": samples}
        )
    except ValidationError as error:
        raise ValueError(f"sampling: {explain(error)}") from error


def _comparable(store: Store, a: PolicyRef, b: PolicyRef) -> bool:
    """Whether two policies have the same tokens, so that their log-probs can be compared."""
    from tasks.models.policy import vocabulary

    tokenizers = [store.manifest(policy.id).files.get("tokenizer.json") for policy in (a, b)]
    return (
        vocabulary(store.path(a.id)) == vocabulary(store.path(b.id))
        and tokenizers[0] == tokenizers[1]
    )


def _result(
    asked: EvaluationRequest, stages: Mapping[str, EvaluatePolicy], context: Context
) -> tuple[dict[str, Any], list[ProblemRow]]:
    from tasks.evaluation.result_files import load_details, load_judged, load_results

    reports = {}
    for role, stage in stages.items():
        report = stage.stored(context.store)
        assert report is not None, "it has just been evaluated"
        details = {
            name: benchmark.model_dump(mode="json")
            for name, benchmark in load_details(context.store, stage.identity()).items()
        }
        reports[role] = {
            **report.model_dump(mode="json"),
            "details": details,
            "sampling": stage.sampling.model_dump(mode="json"),
        }
        if stage.judge:
            judged = load_judged(context.store, stage.identity())
            reports[role]["judge"] = {
                name: benchmark.model_dump(mode="json") for name, benchmark in judged.items()
            }
    results = {
        role: load_results(context.store, stage.identity()) for role, stage in stages.items()
    }
    rows = join(results["model"], results.get("against"))
    path = asked.per_problem or home() / "reports" / "eval" / f"{stages['model'].identity()}.jsonl"
    write_table(rows, path)
    result = {**reports["model"], "per_problem": str(path)}
    if "against" in results:
        result |= {
            "against": reports["against"],
            "comparison": compare_results(results["model"], results["against"]),
        }
    return result, rows


def compare_results(model: Sequence[Any], against: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Benchmark -> the paired difference of scores, model - against, as a share of 1.

    With its 95 % interval, clustered by problem, and the p-value: the probability of such a
    difference between equal models.
    """
    from erpd_core.scoring import compare, p_value

    comparisons: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(result.benchmark for result in model):
        a, b = (
            {
                result.problem: [1.0] * result.solved + [0.0] * (result.samples - result.solved)
                for result in results
                if result.benchmark == name
            }
            for results in (model, against)
        )
        compared, chance = compare(a, b), p_value(a, b)
        comparisons[name] = {
            "difference": compared.difference,
            "ci95": list(compared.ci95),
            "p_value": chance,
            "beyond_noise": chance < 0.05,
            "problems": compared.problems,
        }
    return comparisons
