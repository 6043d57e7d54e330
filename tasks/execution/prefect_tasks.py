"""The Prefect tasks that stages run as: one for each verb."""

from __future__ import annotations

from typing import Any, get_args

import prefect
from prefect.states import Completed, State

from tasks.execution.stage import Verb, run_stage


def _is_transient(task: Any, run: Any, state: State[Any]) -> bool:
    """Retry transient failures (lost worker, full disk), never bad input or numerical faults."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, ValueError | LookupError | ArithmeticError | TypeError)


def _task(verb: str) -> Any:
    decorate = prefect.task(
        name=verb,
        task_run_name="{label}",
        retries=1,
        retry_delay_seconds=3,
        retry_condition_fn=_is_transient,
        persist_result=False,
    )
    return decorate(run_stage)


PREFECT_TASKS: dict[str, Any] = {verb: _task(verb) for verb in get_args(Verb)}


@prefect.task(name="cached", task_run_name="{label}", persist_result=False)
def report_cache_hit(label: str, ref: Any) -> Any:
    """Show a stage in Prefect's UI as Cached, because the store holds its result."""
    artifact = getattr(ref, "id", None) or ref.policy
    return Completed(name="Cached", message=f"found in the store: {artifact}", data=ref)
