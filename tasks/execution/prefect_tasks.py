"""The Prefect face of the stages: one task per verb. Bodies are `tasks.execution.stage.fulfil`,
which tests call without any server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import prefect
from prefect.states import Completed, State

from erpd_core.config import RuntimeConfig
from tasks.execution.progress import Progress
from tasks.execution.stage import Context, Stage, fulfil
from tasks.store import open_store

Verb = Literal["import", "problems", "rollouts", "score", "train", "distill", "evaluate"]


def _hopeful(task: Any, run: Any, state: State[Any]) -> bool:
    """Try again after what may pass (a lost worker, a full disk), not after what is wrong with
    the question or the arithmetic.
    """
    error = state.result(raise_on_failure=False)
    return not isinstance(error, ValueError | LookupError | ArithmeticError | TypeError)


def perform(stage: Stage[Any], runtime: RuntimeConfig, label: str, events: Path | None) -> Any:
    """Answer a stage in this process."""
    progress = Progress(events, label)
    progress.event(status="started")
    ref = fulfil(stage, Context(store=open_store(), runtime=runtime, progress=progress))
    progress.event(status="finished")
    return ref


def _task(verb: str) -> Any:
    decorate = prefect.task(
        name=verb,
        task_run_name="{label}",
        retries=1,
        retry_delay_seconds=3,
        retry_condition_fn=_hopeful,
        persist_result=False,
    )
    return decorate(perform)


TASKS: dict[str, Any] = {verb: _task(verb) for verb in Verb.__args__}  # type: ignore[attr-defined]


@prefect.task(name="cached", task_run_name="{label}", persist_result=False)
def show_cached(label: str, ref: Any) -> Any:
    """Show in the UI that a stage's answer was found in the store."""
    return Completed(
        name="Cached",
        message=f"found in the store: {getattr(ref, 'id', None) or ref.policy}",
        data=ref,
    )
