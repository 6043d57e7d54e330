"""`decision.mode: ask`: an iteration waits until a user decides.

The user sees the evidence and answers in Prefect's UI (Resume) or with `erpd decide`. If nobody
answers in time, the automatic decision is submitted as an answer. The decision is recorded in the
registry, so a campaign that is killed afterwards does not ask again.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from prefect import get_client
from prefect.artifacts import create_markdown_artifact
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput
from prefect.logging import get_logger
from prefect.runtime import deployment, flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, create_model

from erpd_core.refs import Decision, Frozen
from flows.recipes.forms import as_fields
from flows.reports.campaign import evidence_lines
from tasks.host.atomic_files import write_atomically
from tasks.host.home import home
from tasks.untrusted.display_text import markdown

NOBODY = "nobody"
HEAD = "| evidence | value |"
"""Header of the evidence table."""
GRACE_SECONDS = 10.0
"""How long `answer_overdue` waits past the end: a run that still has its process answers itself."""


class DecisionRequest(Frozen):
    """A decision that a user has to make."""

    campaign: str
    iteration: int
    automatic: Decision
    """Taken if nobody answers."""
    possible: tuple[str, ...]
    """Strategies to choose from."""
    evidence: str
    """Markdown."""
    seconds: float
    """How long to wait for an answer."""

    @property
    def students(self) -> tuple[int, ...]:
        """Iterations whose student can be the earlier student of strategy 3."""
        return tuple(
            int(index) for index in self.automatic.evidence.get("teacher_minus_student", {})
        )


class PendingDecision(BaseModel):
    """A decision that waits for a user; `erpd decide` reads it from a file."""

    campaign: str
    iteration: int
    flow_run: str
    api: str
    until: float
    """End of the wait, in seconds since the epoch; then the automatic decision is taken."""
    strategies: tuple[str, ...]
    students: tuple[int, ...]
    automatic: str
    evidence: str

    @property
    def page(self) -> str:
        return f"{self.api.removesuffix('/api')}/runs/flow-run/{self.flow_run}"

    @property
    def path(self) -> Path:
        return pending_folder() / f"{self.campaign}-{self.iteration}.json"

    @property
    def late(self) -> dict[str, str]:
        """The answer that is given if nobody answers in time."""
        return {"strategy": self.automatic, "by": NOBODY, "why": "no answer in time"}


class Answer(RunInput):
    """A user's answer. In the form, `strategy` becomes a choice of the possible strategies."""

    model_config = ConfigDict(json_schema_extra=as_fields)
    strategy: str = Field(
        title="Strategy",
        description="What this iteration distils; `stop` ends the campaign at its last student.",
    )
    student: PositiveInt | None = Field(
        None,
        title="Student (S3)",
        description="Iteration of the earlier student; if empty, the one farthest behind.",
    )
    steps: PositiveInt | None = Field(
        None, title="Distillation steps", description="If empty, as in the recipe."
    )
    kl_budget: PositiveFloat | None = Field(
        None,
        title="KL budget",
        description="Nats per token from the start; if empty, as in the recipe.",
    )
    by: str = Field("", title="Your name", description="Recorded in the registry and in MLflow.")
    why: str = Field("", title="Why", description="Recorded in the registry and in MLflow.")


def pending_folder() -> Path:
    return home() / "waiting"


def pending_decisions() -> list[PendingDecision]:
    """The decisions that wait now, the oldest first."""
    return [
        PendingDecision.model_validate_json(path.read_bytes())
        for path in sorted(pending_folder().glob("*.json"), key=os.path.getmtime)
    ]


def ask_here(request: DecisionRequest) -> Decision:
    """Pause the current flow run until somebody answers.

    The process waits and keeps its resources. After an impossible answer (strategy 3 without an
    earlier student), the user is asked again and sees the reason.

    **Returns:** The decision; its evidence says who made it and why.
    """

    def ask(pending: PendingDecision, form: Any, key: str) -> Answer | None:
        timer = threading.Timer(request.seconds, _resume, (pending, pending.late))
        timer.daemon = True
        timer.start()
        try:
            return pause_flow_run(
                wait_for_input=form,
                timeout=_prefect_timeout(request),
                poll_interval=2,
                key=f"{key}-{time.time_ns()}",
            )
        finally:
            timer.cancel()
            pending.path.unlink(missing_ok=True)

    return _until_possible(request, ask)


def ask_elsewhere(request: DecisionRequest) -> Decision:
    """Suspend the current deployed flow run until somebody answers.

    Its process ends. After the answer, a new process runs the flow again up to this point. If
    nobody answers in time, `answer_overdue` does.
    """

    def ask(pending: PendingDecision, form: Any, key: str) -> Answer | None:
        answer = suspend_flow_run(wait_for_input=form, timeout=_prefect_timeout(request), key=key)
        pending.path.unlink(missing_ok=True)
        return answer

    return _until_possible(request, ask)


def can_suspend(seconds: float, pause_seconds: float) -> bool:
    """Whether the wait is long and the flow run can be suspended: a deployment's top-level run."""
    return seconds > pause_seconds and bool(deployment.id) and not flow_run.parent_flow_run_id


def _until_possible(
    request: DecisionRequest, ask: Callable[[PendingDecision, Any, str], Answer | None]
) -> Decision:
    complaint = ""
    for tries in itertools.count():
        pending, form = _announce(request, complaint)
        answer = ask(pending, form, f"decision-{request.iteration}-{tries}")
        assert answer is not None, "the pause has a form"
        try:
            return taken(request.automatic, answer, request.students)
        except ValueError as error:
            complaint = f"**{error}**\n\n"
    raise AssertionError("unreachable")


def _announce(request: DecisionRequest, complaint: str) -> tuple[PendingDecision, Any]:
    """Write the file that `erpd decide` reads, and make the form of Prefect's UI.

    A decision that was announced before keeps the end of its wait.

    **Arguments:**
        complaint: Why the last answer was impossible; empty at the first try.
    """
    pending = PendingDecision(
        campaign=request.campaign,
        iteration=request.iteration,
        flow_run=str(flow_run.id),
        api=str(PREFECT_API_URL.value()),
        until=time.time() + request.seconds,
        strategies=request.possible,
        students=request.students,
        automatic=request.automatic.strategy,
        evidence=f"{complaint}{request.evidence}",
    )
    if before := next(
        (
            other
            for other in pending_decisions()
            if other.path == pending.path and other.flow_run == pending.flow_run
        ),
        None,
    ):
        pending = pending.model_copy(update={"until": before.until})
    else:
        key = f"decision-{pending.campaign}-{pending.iteration}".replace("_", "-")
        create_markdown_artifact(pending.evidence, key=key, description="Evidence")
    pending.path.parent.mkdir(exist_ok=True)
    write_atomically(
        pending.path, lambda target: target.write_text(pending.model_dump_json(indent=1))
    )
    choices: Any = Literal[pending.strategies]
    field = Answer.model_fields["strategy"]
    # Prefect's UI shows the form's description one pixel high, so the first field's description
    # has the evidence too.
    strategy = Field(
        pending.automatic,
        title=field.title,
        description=f"{_as_paragraphs(pending.evidence)}\n\n{field.description}",
    )
    named = create_model("Decision", __base__=Answer, strategy=(choices, strategy))
    return pending, named.with_initial_data(description=pending.evidence)


def _as_paragraphs(evidence: str) -> str:
    """The evidence as a list of paragraphs, for a field's description.

    A description has no tables, and shows a line break as a space.
    """
    lines = [
        line
        for line in evidence.splitlines()
        if line and line != HEAD and not line.startswith("|---")
    ]
    return "\n\n".join(
        f"- {line[2:-2].replace(' | ', ': ', 1)}" if line.startswith("| ") else line
        for line in lines
    )


def _prefect_timeout(request: DecisionRequest) -> int:
    """Seconds until Prefect gives up: longer than our wait, so that our late answer is in time."""
    return int(request.seconds) + 3600


def answer_overdue() -> int:
    """Answer every overdue decision with the automatic one, and return how many were overdue.

    Called regularly by a process that keeps running, such as those of `erpd up`.
    """
    import httpx

    overdue = [
        pending for pending in pending_decisions() if time.time() > pending.until + GRACE_SECONDS
    ]
    for pending in overdue:
        try:
            _resume(pending, pending.late)
        except httpx.TimeoutException:  # busy server: the next call tries again
            continue
        except Exception as error:  # the run has ended, or belongs to another server
            get_logger("erpd").warning(
                "%s, iteration %s: %s", pending.campaign, pending.iteration, error
            )
            pending.path.unlink(missing_ok=True)
    return len(overdue)


def answer(one: PendingDecision, given: dict[str, Any]) -> None:
    """Answer a decision that waits.

    **Raises:** ValueError for an impossible answer; LookupError if the decision no longer waits.
    """
    import httpx
    from prefect.exceptions import FlowPauseTimeout, ObjectNotFound

    checked = Answer.model_validate(given)
    if checked.strategy not in one.strategies:
        raise ValueError(f"--strategy {checked.strategy}: possible are {', '.join(one.strategies)}")
    _check_student(checked, one.students)
    try:
        _resume(one, given)
    # RuntimeError: nothing answers at the address
    except (FlowPauseTimeout, ObjectNotFound, httpx.HTTPError, RuntimeError) as error:
        raise LookupError(
            f"{one.campaign}: iteration {one.iteration} no longer waits for an answer ({error})"
        ) from error


def _resume(pending: PendingDecision, given: dict[str, Any]) -> None:
    with temporary_settings({PREFECT_API_URL: pending.api}), get_client(sync_client=True) as client:
        client.resume_flow_run(pending.flow_run, run_input=given)  # type: ignore[arg-type]


def taken(automatic: Decision, answer: Answer, students: Sequence[int]) -> Decision:
    """The decision that results from an answer.

    **Arguments:**
        students: Iterations of the earlier students that strategy 3 can use.
    **Raises:** ValueError for strategy 3 without an earlier student, or with an unknown one.
    """
    _check_student(answer, students)
    settings = {
        name: value
        for name in ("steps", "kl_budget")
        if (value := getattr(answer, name)) is not None
    }
    by = answer.by or "somebody"
    asked = {
        "by": by,
        "why": answer.why,
        "automatic": automatic.strategy,
        "automatic_reason": automatic.reason,
        **settings,
    }
    evidence = {**automatic.evidence, "asked": asked}
    if answer.strategy == "S3":
        behind = automatic.evidence["teacher_minus_student"]
        evidence["student"] = answer.student or int(
            max(behind, key=lambda index: behind[index]["difference"])
        )
    if answer.by == NOBODY:
        return automatic.model_copy(update={"evidence": evidence})
    others = {name: why for name, why in automatic.alternatives.items() if name != answer.strategy}
    if automatic.strategy != answer.strategy:
        others[automatic.strategy] = f"the automatic decision, which {by} did not follow"
    reason = f"chosen by {by}{f': {answer.why}' if answer.why else ''}"
    return automatic.model_copy(
        update={
            "strategy": answer.strategy,
            "reason": reason,
            "evidence": evidence,
            "alternatives": others,
        }
    )


def _check_student(answer: Answer, students: Sequence[int]) -> None:
    if answer.strategy != "S3":
        return
    if not students:
        raise ValueError("S3 needs a student earlier than the start, and there is none yet")
    if answer.student is not None and answer.student not in students:
        raise ValueError(
            f"student {answer.student}: earlier students are those of iterations "
            f"{', '.join(map(str, students))}"
        )


def evidence_text(evidence: dict[str, Any], automatic: Decision) -> str:
    """What the user sees: the evidence as a Markdown table, and the automatic decision."""
    lines = [
        f"| {markdown(what)} | {markdown(value)} |" for what, value in evidence_lines(evidence)
    ]
    others = [f"- not {name}: {markdown(why)}" for name, why in automatic.alternatives.items()]
    head = f"Automatic decision: **{automatic.strategy}** ({markdown(automatic.reason)})"
    return "\n".join([head, "", HEAD, "|---|---|", *lines, "", *others])
