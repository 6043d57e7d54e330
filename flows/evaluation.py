"""An evaluation as a flow: a model on benchmarks, alone or against another."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from pydantic import Field, PositiveInt

from erpd_core.refs import EvalReport
from flows.inspect.evaluate_models import Asked, evaluate_models, plan_evaluation
from flows.inspect.problem_table import ProblemRow
from flows.recipes.forms import Change, Form
from flows.reports.results import interval, nats, percent, points
from tasks.host.home import home
from tasks.untrusted.display_text import markdown, one_line

SHOWN = 200
"""Problems of the run's table: the first ones."""
Model = Annotated[str, Field(min_length=1)]


class EvaluationForm(Form):
    """What is evaluated, and on what."""

    model: Model = "tiny"
    """`tiny`, a model directory, a policy's id, or a hub id (owner/name)."""
    benchmarks: Annotated[list[str], Field(min_length=1)] = ["tiny"]
    """`tiny`, names of `erpd benchmarks`, or files of problems."""
    against: Model | None = None
    """Another model, compared with the first problem by problem."""
    k: PositiveInt | None = None
    """Samples per problem; the benchmark's own when empty."""
    count: PositiveInt | None = None
    """Problems of each benchmark; all when empty."""
    seed: int = 0
    changes: list[Change] = Field(default_factory=list)
    """`runtime.KEY=value`: device, engine and the like; `judge.KEY=value`: endpoint and model."""


@flow(
    name="evaluation",
    description="AVG@K, pass@K and majority@K of a model on benchmarks, alone or against another.",
)
def evaluation(what: EvaluationForm) -> dict[str, Any]:
    """The contract's REPORT, with more measures beside it; the same as artifacts of the run."""
    asked = Asked(
        what.model,
        what.benchmarks,
        what.against,
        what.k,
        count=what.count,
        seed=what.seed,
        settings=what.changes,
    )
    result, rows = evaluate_models(
        plan_evaluation(asked), home() / "logs" / "evaluations.events.jsonl"
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
    """What a model answered, and what a data file says, in one line each."""
    return {
        name: one_line(value) if isinstance(value, str) else value for name, value in row.items()
    }


def evaluation_markdown(result: dict[str, Any], what: EvaluationForm) -> str:
    """A table of scores, and the comparison where there is one."""
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
    for benchmark, one in result.get("comparison", {}).items():
        low, high = one["ci95"]
        lines += [
            "",
            f"{markdown(benchmark)}: {points(one['difference'])} points [{points(low)}, "
            f"{points(high)}], p = {one['p_value']:.3g}",
        ]
    return "\n".join(lines)
