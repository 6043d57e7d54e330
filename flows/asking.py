"""`decision.mode: ask`: an iteration waits for a person, with the evidence, in Prefect's UI (Resume) or for `erpd decide`.

When nobody answers in time the automatic decision is taken, through the same door. What was answered is in the registry, so a campaign that
is killed afterwards does not ask again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from prefect import get_client
from prefect.artifacts import create_markdown_artifact
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, create_model

from erpd_core.refs import Decision
from tasks.home import home
from tasks.store import write_atomically

NOBODY = "nobody"


class Waiting(BaseModel):
    """A decision that waits for a person: what `erpd decide` reads."""

    campaign: str
    iteration: int
    flow_run: str
    api: str
    until: float
    """Seconds since the epoch; then the automatic decision is taken."""
    strategies: tuple[str, ...]
    students: tuple[int, ...]
    """Iterations whose student strategy 3 could move away from."""
    automatic: str
    evidence: str
    """Markdown."""

    @property
    def page(self) -> str:
        return f"{self.api.removesuffix('/api')}/runs/flow-run/{self.flow_run}"


class Answer(RunInput):
    """What a person is asked for. The strategies that are possible now replace `strategy` in the form."""

    strategy: str = Field(title="Strategy", description="What this iteration distils; `stop` ends the campaign at its present student.")
    student: PositiveInt | None = Field(
        None, title="Student (S3)", description="Iteration of the earlier student; the one farthest behind when empty."
    )
    steps: PositiveInt | None = Field(None, title="Distillation steps", description="As in the recipe when empty.")
    kl_budget: PositiveFloat | None = Field(None, title="KL budget", description="Nats per token from the start; the recipe's when empty.")
    by: str = Field("", title="Your name", description="Goes to the registry and MLflow.")
    why: str = Field("", title="Why", description="Goes to the registry and MLflow.")


def waiting_folder() -> Path:
    return home() / "waiting"


def waiting() -> list[Waiting]:
    """What waits now, the oldest first."""
    return [Waiting.model_validate_json(path.read_bytes()) for path in sorted(waiting_folder().glob("*.json"), key=os.path.getmtime)]


def ask_person(campaign: str, iteration: int, automatic: Decision, possible: Sequence[str], evidence: str, seconds: float) -> Decision:
    """Pause the flow run this is called in until somebody answers; the decision then taken, its evidence saying who took it and why.

    An answer that is not possible (strategy 3 without an earlier student) is asked again, saying so.
    """
    students = tuple(int(index) for index in automatic.evidence.get("teacher_minus_student", {}))
    said = ""
    while True:
        one = Waiting(
            campaign=campaign,
            iteration=iteration,
            flow_run=str(flow_run.id),
            api=str(PREFECT_API_URL.value()),
            until=time.time() + seconds,
            strategies=tuple(possible),
            students=students,
            automatic=automatic.strategy,
            evidence=f"{said}{evidence}",
        )
        answer = _wait(one, automatic, seconds)
        try:
            return taken(automatic, answer, students)
        except ValueError as error:
            said = f"**{error}**\n\n"


def _wait(one: Waiting, automatic: Decision, seconds: float) -> Answer:
    create_markdown_artifact(one.evidence, key=f"decision-{one.campaign}-{one.iteration}".replace("_", "-"), description="Evidence")
    choices: Any = Literal[one.strategies]
    named = create_model("Decision", __base__=Answer, strategy=(choices, Answer.model_fields["strategy"]))
    form = named.with_initial_data(description=one.evidence, strategy=automatic.strategy)
    late = {"strategy": automatic.strategy, "by": NOBODY, "why": f"no answer within {seconds:g} s"}
    timer = threading.Timer(seconds, _resume, (one, late))
    timer.daemon = True
    with _announced(one):
        timer.start()
        try:
            key = f"decision-{one.iteration}-{time.time_ns()}"
            answer = pause_flow_run(wait_for_input=form, timeout=int(seconds) + 3600, poll_interval=2, key=key)
        finally:
            timer.cancel()
    assert answer is not None, "a form was asked for"
    return answer


@contextmanager
def _announced(one: Waiting) -> Iterator[None]:
    path = waiting_folder() / f"{one.campaign}-{one.iteration}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, lambda target: target.write_text(one.model_dump_json(indent=1)))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def answer(one: Waiting, given: dict[str, Any]) -> None:
    """Answer a waiting decision. Raises ValueError for an answer that is not possible, LookupError when it does not wait any more."""
    import httpx
    from prefect.exceptions import FlowPauseTimeout, ObjectNotFound

    said = Answer.model_validate(given)
    if said.strategy not in one.strategies:
        raise ValueError(f"--strategy {said.strategy}: possible are {', '.join(one.strategies)}")
    _check_student(said, one.students)
    try:
        _resume(one, given)
    except (FlowPauseTimeout, ObjectNotFound, httpx.HTTPError, RuntimeError) as error:  # RuntimeError: nothing answers at the address
        raise LookupError(f"{one.campaign}: iteration {one.iteration} does not wait for an answer any more ({error})") from error


def _resume(one: Waiting, given: dict[str, Any]) -> None:
    with get_client(sync_client=True) as client:
        client.resume_flow_run(one.flow_run, run_input=given)  # type: ignore[arg-type]


def taken(automatic: Decision, answer: Answer, students: Sequence[int]) -> Decision:
    """The decision an answer makes. Raises ValueError for strategy 3 where there is no earlier student, or not that one."""
    _check_student(answer, students)
    settings = {name: value for name in ("steps", "kl_budget") if (value := getattr(answer, name)) is not None}
    by = answer.by or "somebody"
    asked = {"by": by, "why": answer.why, "automatic": automatic.strategy, "automatic_reason": automatic.reason, **settings}
    evidence = {**automatic.evidence, "asked": asked}
    if answer.strategy == "S3":
        behind = automatic.evidence["teacher_minus_student"]
        evidence["student"] = answer.student or int(max(behind, key=lambda index: behind[index]["difference"]))
    if answer.by == NOBODY:
        return automatic.model_copy(update={"evidence": evidence})
    others = {name: why for name, why in automatic.alternatives.items() if name != answer.strategy}
    if automatic.strategy != answer.strategy:
        others[automatic.strategy] = f"the automatic decision, which {by} did not follow"
    reason = f"chosen by {by}{f': {answer.why}' if answer.why else ''}"
    return automatic.model_copy(update={"strategy": answer.strategy, "reason": reason, "evidence": evidence, "alternatives": others})


def _check_student(answer: Answer, students: Sequence[int]) -> None:
    if answer.strategy != "S3":
        return
    if not students:
        raise ValueError("S3 needs a student earlier than the start, and there is none yet")
    if answer.student is not None and answer.student not in students:
        raise ValueError(f"student {answer.student}: earlier students are those of iterations {', '.join(map(str, students))}")


def evidence_text(evidence: dict[str, Any], automatic: Decision) -> str:
    """What a person sees: a Markdown table of the evidence, and what would be done without them."""
    from flows.report import evidence_lines

    lines = [f"| {what} | {value} |" for what, value in evidence_lines(evidence)]
    others = [f"- not {name}: {why}" for name, why in automatic.alternatives.items()]
    head = f"Automatic decision: **{automatic.strategy}** ({automatic.reason})"
    return "\n".join([head, "", "| evidence | |", "|---|---|", *lines, "", *others])
