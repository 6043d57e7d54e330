"""`decision.mode: ask`: an iteration waits for a person, with the evidence, in Prefect's UI
(Resume) or for `erpd decide`.

When nobody answers in time the automatic decision is taken, through the same door. What was
answered is in the registry, so a campaign that is killed afterwards does not ask again.
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
from tasks.host.atomic_files import write_atomically
from tasks.host.home import home
from tasks.untrusted.display_text import markdown

NOBODY = "nobody"
HEAD = "| evidence | value |"
"""Of the evidence's table."""
GRACE_SECONDS = 10.0
"""A run that waits in its process answers for nobody itself."""


class DecisionRequest(Frozen):
    """What a person is to decide."""

    campaign: str
    iteration: int
    automatic: Decision
    """What is done without an answer."""
    possible: tuple[str, ...]
    evidence: str
    """Markdown."""
    seconds: float
    """How long an answer is waited for."""

    @property
    def students(self) -> tuple[int, ...]:
        """Iterations whose student strategy 3 could move away from."""
        return tuple(
            int(index) for index in self.automatic.evidence.get("teacher_minus_student", {})
        )


class PendingDecision(BaseModel):
    """A decision that waits for a person: what `erpd decide` reads."""

    campaign: str
    iteration: int
    flow_run: str
    api: str
    until: float
    """Seconds since the epoch; then the automatic decision is taken."""
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
        """What is answered when nobody does."""
        return {"strategy": self.automatic, "by": NOBODY, "why": "no answer in time"}


class Answer(RunInput):
    """What a person is asked for. The strategies that are possible now replace `strategy` in the
    form.
    """

    model_config = ConfigDict(json_schema_extra=as_fields)
    strategy: str = Field(
        title="Strategy",
        description="What this iteration distils; `stop` ends the campaign at its present student.",
    )
    student: PositiveInt | None = Field(
        None,
        title="Student (S3)",
        description="Iteration of the earlier student; the one farthest behind when empty.",
    )
    steps: PositiveInt | None = Field(
        None, title="Distillation steps", description="As in the recipe when empty."
    )
    kl_budget: PositiveFloat | None = Field(
        None,
        title="KL budget",
        description="Nats per token from the start; the recipe's when empty.",
    )
    by: str = Field("", title="Your name", description="Goes to the registry and MLflow.")
    why: str = Field("", title="Why", description="Goes to the registry and MLflow.")


def pending_folder() -> Path:
    return home() / "waiting"


def pending_decisions() -> list[PendingDecision]:
    """What waits now, the oldest first."""
    return [
        PendingDecision.model_validate_json(path.read_bytes())
        for path in sorted(pending_folder().glob("*.json"), key=os.path.getmtime)
    ]


def ask_here(question: DecisionRequest) -> Decision:
    """Pause the flow run this is called in until somebody answers; the decision then taken, its
    evidence saying who took it and why.

    The process waits, with all it holds. An answer that is not possible (strategy 3 without an
    earlier student) is asked again, saying so.
    """

    def ask(one: PendingDecision, form: Any, key: str) -> Answer | None:
        timer = threading.Timer(question.seconds, _resume, (one, one.late))
        timer.daemon = True
        timer.start()
        try:
            return pause_flow_run(
                wait_for_input=form,
                timeout=_patience(question),
                poll_interval=2,
                key=f"{key}-{time.time_ns()}",
            )
        finally:
            timer.cancel()
            one.path.unlink(missing_ok=True)

    return _until_possible(question, ask)


def ask_elsewhere(question: DecisionRequest) -> Decision:
    """Suspend the deployed flow run this is called in: its process ends, and a new one gets here
    again when somebody has answered.

    `answer_overdue` answers for nobody.
    """

    def ask(one: PendingDecision, form: Any, key: str) -> Answer | None:
        answer = suspend_flow_run(wait_for_input=form, timeout=_patience(question), key=key)
        one.path.unlink(missing_ok=True)
        return answer

    return _until_possible(question, ask)


def can_suspend(seconds: float, pause_seconds: float) -> bool:
    """Is the wait a long one, in a flow run that can begin anew: the first of a deployment's?"""
    return seconds > pause_seconds and bool(deployment.id) and not flow_run.parent_flow_run_id


def _until_possible(
    question: DecisionRequest, ask: Callable[[PendingDecision, Any, str], Answer | None]
) -> Decision:
    said = ""
    for tries in itertools.count():
        one, form = _announce(question, said)
        answer = ask(one, form, f"decision-{question.iteration}-{tries}")
        assert answer is not None, "a form was asked for"
        try:
            return taken(question.automatic, answer, question.students)
        except ValueError as error:
            said = f"**{error}**\n\n"
    raise AssertionError("unreachable")


def _announce(question: DecisionRequest, said: str) -> tuple[PendingDecision, Any]:
    """Tell where decisions are looked for, and the form. One that was announced already keeps
    its end.
    """
    one = PendingDecision(
        campaign=question.campaign,
        iteration=question.iteration,
        flow_run=str(flow_run.id),
        api=str(PREFECT_API_URL.value()),
        until=time.time() + question.seconds,
        strategies=question.possible,
        students=question.students,
        automatic=question.automatic.strategy,
        evidence=f"{said}{question.evidence}",
    )
    if before := next(
        (
            other
            for other in pending_decisions()
            if other.path == one.path and other.flow_run == one.flow_run
        ),
        None,
    ):
        one = one.model_copy(update={"until": before.until})
    else:
        key = f"decision-{one.campaign}-{one.iteration}".replace("_", "-")
        create_markdown_artifact(one.evidence, key=key, description="Evidence")
    one.path.parent.mkdir(exist_ok=True)
    write_atomically(one.path, lambda target: target.write_text(one.model_dump_json(indent=1)))
    choices: Any = Literal[one.strategies]
    asked = Answer.model_fields["strategy"]
    # The dialog of Prefect's UI squeezes the form's own description to one line of pixels: the
    # evidence stands in the first field's too.
    strategy = Field(
        one.automatic,
        title=asked.title,
        description=f"{_as_paragraphs(one.evidence)}\n\n{asked.description}",
    )
    named = create_model("Decision", __base__=Answer, strategy=(choices, strategy))
    return one, named.with_initial_data(description=one.evidence)


def _as_paragraphs(evidence: str) -> str:
    """The evidence as a field's description takes it: there are no tables in one, and a new line
    is a space.
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


def _patience(question: DecisionRequest) -> int:
    """Seconds until Prefect gives up; longer than ours, for nobody's answer comes in time."""
    return int(question.seconds) + 3600


def answer_overdue() -> int:
    """Take the automatic decision for every one that nobody took in time; how many these are.
    For processes that stay, as `erpd up` has.
    """
    import httpx

    overdue = [one for one in pending_decisions() if time.time() > one.until + GRACE_SECONDS]
    for one in overdue:
        try:
            _resume(one, one.late)
        except httpx.TimeoutException:  # a busy server: the next round asks again
            continue
        except (
            Exception
        ) as error:  # of a run that has ended, or another's server; nothing waits there any more
            get_logger("erpd").warning("%s, iteration %s: %s", one.campaign, one.iteration, error)
            one.path.unlink(missing_ok=True)
    return len(overdue)


def answer(one: PendingDecision, given: dict[str, Any]) -> None:
    """Answer a waiting decision. Raises ValueError for an answer that is not possible,
    LookupError when it does not wait any more.
    """
    import httpx
    from prefect.exceptions import FlowPauseTimeout, ObjectNotFound

    said = Answer.model_validate(given)
    if said.strategy not in one.strategies:
        raise ValueError(f"--strategy {said.strategy}: possible are {', '.join(one.strategies)}")
    _check_student(said, one.students)
    try:
        _resume(one, given)
    except (
        FlowPauseTimeout,
        ObjectNotFound,
        httpx.HTTPError,
        RuntimeError,
    ) as error:  # RuntimeError: nothing answers at the address
        raise LookupError(
            f"{one.campaign}: iteration {one.iteration} does not wait for an answer any more "
            f"({error})"
        ) from error


def _resume(one: PendingDecision, given: dict[str, Any]) -> None:
    with temporary_settings({PREFECT_API_URL: one.api}), get_client(sync_client=True) as client:
        client.resume_flow_run(one.flow_run, run_input=given)  # type: ignore[arg-type]


def taken(automatic: Decision, answer: Answer, students: Sequence[int]) -> Decision:
    """The decision an answer makes. Raises ValueError for strategy 3 where there is no earlier
    student, or not that one.
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
    """What a person sees: a Markdown table of the evidence, and what would be done without them."""
    from flows.reports.campaign import evidence_lines

    lines = [
        f"| {markdown(what)} | {markdown(value)} |" for what, value in evidence_lines(evidence)
    ]
    others = [f"- not {name}: {markdown(why)}" for name, why in automatic.alternatives.items()]
    head = f"Automatic decision: **{automatic.strategy}** ({markdown(automatic.reason)})"
    return "\n".join([head, "", HEAD, "|---|---|", *lines, "", *others])
