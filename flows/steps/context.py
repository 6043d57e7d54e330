"""What an iteration knows when it begins, and how it asks for stages and keeps account of what
they cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from erpd_core.config import CampaignConfig
from erpd_core.refs import Frozen, PolicyRef, ProblemsRef, RolloutRef, TrainingRef, ValuesRef
from flows.steps.recorder import Answers, Desk
from tasks.datasets import draw_problems
from tasks.execution.prefect_tasks import Verb
from tasks.execution.stage import Stage
from tasks.training.stage import load_records


class Known(Frozen):
    """What a campaign knows when an iteration begins."""

    base: PolicyRef
    start: PolicyRef
    start_validation: RolloutRef
    students: dict[int, PolicyRef]
    """Students of earlier iterations; the last one is the start."""
    student_validations: dict[int, RolloutRef]
    strategies: tuple[str, ...] = ()
    """What the iterations before this one did."""
    validation: ProblemsRef
    benchmarks: dict[str, ProblemsRef]


def seed_for(config: CampaignConfig, iteration: int, purpose: str) -> int:
    """A seed of its own for every purpose, so that adding one changes no other."""
    return int.from_bytes(
        hashlib.sha256(f"{config.seed}/{iteration}/{purpose}".encode()).digest()[:4], "big"
    )


class Steps:
    """One iteration's way to its desk."""

    def __init__(self, config: CampaignConfig, index: int, known: Known, desk: Desk) -> None:
        self.config, self.index, self.known, self.desk = config, index, known, desk
        self.seconds: dict[str, float] = {}
        """Phase -> seconds of work, in whichever session it was done."""

    def seed(self, purpose: str) -> int:
        return seed_for(self.config, self.index, purpose)

    def ask(self, verb: Verb, phase: str, stage: Stage[Any], label: str, role: str) -> Any:
        """The stage's answer, its cost booked under `phase`."""
        return self.ask_all(verb, phase, [(stage, label, role)])[0]

    def ask_all(
        self, verb: Verb, phase: str, asked: Sequence[tuple[Stage[Any], str, str]]
    ) -> list[Any]:
        """Several independent stages at once: (stage, label, role) each."""
        return self.start(verb, phase, asked)()

    def start(
        self, verb: Verb, phase: str, asked: Sequence[tuple[Stage[Any], str, str]]
    ) -> Answers:
        """The same without waiting: they run beside whatever is asked next. Call what is
        returned, once, for their answers.
        """
        answers = self.desk.start(verb, asked, self.index)

        def booked() -> list[Any]:
            found = answers()
            spent = self.desk.seconds(*(stage for stage, _, _ in asked))
            self.seconds[phase] = round(self.seconds.get(phase, 0.0) + spent, 3)
            return found

        return booked

    def prompts(self) -> ProblemsRef:
        """This iteration's training problems: none that an earlier one drew while others are
        left (Sec. 4.4: new for each batch).
        """
        earlier = [seed_for(self.config, index, "prompts") for index in range(1, self.index)]
        measured = {"validation": self.known.validation, **self.known.benchmarks}
        stage = draw_problems(
            "prompts", self.config.prompts, self.seed("prompts"), earlier, measured
        )
        found: ProblemsRef = self.desk.ask("problems", stage, "draw prompts", self.index, "prompts")
        self.desk.record_problems(found, "training")
        if found.overlap:
            self.desk.record_overlap(self.index, found.overlap)
        return found

    def keep_track(
        self, name: str, training: TrainingRef | ValuesRef, tags: dict[str, str]
    ) -> None:
        """The records of a training into MLflow."""
        self.desk.track_training(self.index, name, load_records(self.desk.store, training), tags)

    def record_policies(self, policies: Sequence[PolicyRef], role: str) -> None:
        for policy in policies:
            self.desk.record_policy(policy, self.index, role)
