"""A flow that evaluates a model on benchmarks, alone or against another model."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from pydantic import Field, PositiveInt

from erpd_core.refs import EvalReport
from flows.inspect.evaluate_models import EvaluationRequest, evaluate_models, plan_evaluation
from flows.inspect.problem_table import ProblemRow
from flows.recipes.forms import Change, Form
from flows.reports.results import interval, nats, percent, points
from tasks.host.home import home
from tasks.untrusted.display_text import markdown, one_line

SHOWN = 200
"""Rows of the problem table in Prefect's UI: the first ones."""
Model = Annotated[str, Field(min_length=1)]


class EvaluationForm(Form):
    """A model, and the benchmarks to evaluate it on."""

    model: Model = "tiny"
    """`tiny`, a model directory, a policy id, or a hub id (owner/name)."""
    benchmarks: Annotated[list[str], Field(min_length=1)] = ["tiny"]
    """`tiny`, benchmark names (`erpd benchmarks` lists them), or problem files."""
    against: Model | None = None
    """A second model; the two are compared problem by problem."""
    k: PositiveInt | None = None
    """Samples per problem; if empty, the benchmark's default."""
    count: PositiveInt | None = None
    """Number of problems from each benchmark; if empty, all."""
    seed: int = 0
    changes: list[Change] = Field(default_factory=list)
    """`runtime.KEY=value` (device, engine and so on), `judge.KEY=value` (endpoint and model)."""


@flow(
    name="evaluation",
    description="AVG@K, pass@K and majority@K of a model on benchmarks, alone or against another.",
)
def evaluation(what: EvaluationForm) -> dict[str, Any]:
    """Evaluate, and show the scores and the problems as artifacts of the run.

    **Returns:** The result of `evaluate_models`.
    """
    request = EvaluationRequest(
        what.model,
        what.benchmarks,
        what.against,
        what.k,
        count=what.count,
        seed=what.seed,
        settings=what.changes,
    )
    result, rows = evaluate_models(
        plan_evaluation(request), home() / "logs" / "evaluations.events.jsonl"
    )
    create_markdown_artifact(
        evaluation_markdown(result, what),
        key="evaluation",
        description="Scores with their 95 % intervals",
    )
    create_table_artifact(
        [_shown(row) for row in rows[:SHOWN]],
        key="problems",
        description=f"the whole table: {result['per_problem']}",
    )
    return result


def _shown(row: ProblemRow) -> ProblemRow:
    """A row whose texts (answers, texts from data files) are one line each."""
    return {
        name: one_line(value) if isinstance(value, str) else value for name, value in row.items()
    }


def evaluation_markdown(result: dict[str, Any], what: EvaluationForm) -> str:
    """The scores as a Markdown table; below it the comparison, if there is one."""
    sides = {what.model: result} | ({what.against: result["against"]} if what.against else {})
    lines = [
        "| model | benchmark | AVG@K | K | problems | KL | entropy | length |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, side in sides.items():
        report = EvalReport.model_validate({key: side[key] for key in EvalReport.model_fields})
        for benchmark, score in report.scores.items():
            names = f"{markdown(name)} | {markdown(benchmark)}"
            figures = [nats(report.kl_base), nats(report.entropy), f"{report.length:.1f}"]
            lines.append(
                f"| {names} | {percent(score.avg)} {interval(score)} | {score.k} | "
                f"{score.problems} | {' | '.join(figures)} |"
            )
    for benchmark, comparison in result.get("comparison", {}).items():
        low, high = comparison["ci95"]
        lines += [
            "",
            f"{markdown(benchmark)}: {points(comparison['difference'])} points "
            f"[{points(low)}, {points(high)}], p = {comparison['p_value']:.3g}",
        ]
    return "\n".join(lines)
