"""`erpd eval`: one policy on one benchmark, without servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console

from deployments.display import Display
from erpd_core.config import RuntimeConfig, SamplingConfig
from tasks.home import home
from tasks.policies import import_policy, model_from_text


def evaluate_model(
    model: str,
    benchmark: str,
    sampling: Mapping[str, Any],
    count: int | None,
    seed: int,
    console: Console,
    checking: Callable[[], AbstractContextManager[None]],
) -> dict[str, Any]:
    """The contract's REPORT of a policy (its own base: both KLs are 0), with pass@K and truncation beside it."""
    from erpd_core.scoring import pass_at_k
    from tasks.datasets import benchmark_from_text, draw_problems
    from tasks.evaluate import EvaluatePolicy, truncation_rate
    from tasks.progress import Progress
    from tasks.rollouts import SampleRollouts, outcomes
    from tasks.stage import Context, fulfil
    from tasks.store import Store

    events = home() / "logs" / "eval.events.jsonl"
    context = Context(Store(home() / "store"), RuntimeConfig(ray="off"), Progress(events, f"evaluate on {benchmark}"))
    with Display({events: ""}, console):
        with checking():
            settings = SamplingConfig(**sampling)
            policy = fulfil(import_policy(model_from_text(model)), context)
            problems = fulfil(draw_problems(benchmark, benchmark_from_text(benchmark, count), seed), context)
        stage = EvaluatePolicy(
            policy=policy, old=policy, base=policy, benchmarks={Path(benchmark).stem: problems}, sampling=settings, seed=seed
        )
        report = fulfil(stage, context)
        rollouts = fulfil(SampleRollouts(policy=policy, problems=problems, sampling=settings, seed=seed), context)
    tried = outcomes(context.store, rollouts)
    extra = {"k": settings.samples, "pass_at_k": pass_at_k(tried, settings.samples), "truncated": truncation_rate(context.store, rollouts)}
    return {**report.model_dump(mode="json"), **extra}
