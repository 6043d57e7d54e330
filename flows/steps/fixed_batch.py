"""The fixed batch of an iteration and what is worked out on it once: training runs, and a column
for each policy a signal names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from erpd_core.config import PPO, DistillPhase, RunConfig, TrainConfig
from erpd_core.refs import Decision, LogprobRef, PolicyRef, Role, RolloutRef, TrainingRef, ValuesRef
from flows.steps.context import Steps
from flows.steps.recorder import Answers
from tasks.rollouts import SampleRollouts
from tasks.rollouts.score import ScoreRollouts
from tasks.training.batch_check import batch_outcomes
from tasks.training.critic import TrainCritic
from tasks.training.student import SidedSignal, SignalPhase
from tasks.training.teacher import TrainTeacher

Alternatives = Mapping[str, Sequence[DistillPhase]]


class FixedBatch:
    """Sampled from the iteration's start when it is made (Sec. 3.1)."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        sampling = SampleRollouts(
            policy=steps.known.start,
            problems=steps.prompts(),
            sampling=steps.config.sampling,
            seed=steps.seed("rollouts"),
        )
        self.rollouts: RolloutRef = steps.ask(
            "rollouts", "rollouts", sampling, "sample the fixed batch", "rollouts"
        )
        steps.desk.record_outcomes(steps.index, batch_outcomes(steps.desk.store, self.rollouts))
        self._columns: dict[str, LogprobRef] = {}
        self._trained: dict[str, TrainingRef] = {}
        self.teacher: PolicyRef | None = None
        """What the side `teacher` means without a step: the step that validation chose, once it
        has.
        """
        (self.old,) = self.columns({"score the batch under old": steps.known.start})

    def columns(self, policies: Mapping[str, PolicyRef]) -> list[LogprobRef]:
        """Label -> policy: log-probs of the batch under each, those that are not there yet
        worked out side by side.
        """
        missing = {
            policy.id: (label, policy)
            for label, policy in policies.items()
            if policy.id not in self._columns
        }
        asked = [
            (ScoreRollouts(policy=policy, rollouts=self.rollouts), label, "column")
            for label, policy in missing.values()
        ]
        if asked:
            self._columns |= zip(missing, self.steps.ask_all("score", "score", asked), strict=True)
        return [self._columns[policy.id] for policy in policies.values()]

    # -------------------------------------------------------------------------------- training runs

    def run(self, name: str) -> TrainingRef:
        """A training run of the recipe on this batch, trained when it is first asked for."""
        self.train([name])
        return self._trained[name]

    def train(self, names: Sequence[str]) -> None:
        """Train these runs, and those they start from, as far as that is to do: side by side,
        but for one that starts from another.
        """
        needs = self._needs(names)
        while left := [name for name in needs if name not in self._trained]:
            begun = [
                (name, self._start(name)) for name in left if self._trained.keys() >= needs[name]
            ]
            for name, answers in begun:
                (self._trained[name],) = answers()
                _, called = _role(name)
                self.steps.record_policies(self._trained[name].trail, called)
                self.steps.keep_track(
                    called, self._trained[name], {"loss": self._config(name).loss.kind}
                )

    def _needs(self, names: Sequence[str]) -> dict[str, set[str]]:
        """Each of the runs, and of those they rest on, with the runs it starts from."""
        needs: dict[str, set[str]] = {}
        left = list(names)
        while left:
            config = self._config(name := left.pop(0))
            needs[name] = set(runs_of([config.init])) if isinstance(config, RunConfig) else set()
            left += sorted(needs[name] - needs.keys())
        return needs

    def _config(self, name: str) -> TrainConfig:
        config = {
            "teacher": self.steps.config.teacher,
            "weak": self.steps.config.weak_teacher,
            **self.steps.config.runs,
        }[name]
        assert config is not None, "the config checks that every side has its run"
        return config

    def _start(self, name: str) -> Answers:
        config = self._config(name)
        role, called = _role(name)
        init = self.policy(config.init) if isinstance(config, RunConfig) else self.steps.known.start
        stage = TrainTeacher(
            init=init,
            rollouts=self.rollouts,
            old=self.old,
            role=role,
            config=config,
            seed=self.steps.seed(called),
            values=self._values(config.loss, init) if isinstance(config.loss, PPO) else None,
        )
        label = f"train {called} ({config.loss.kind}, {config.steps} steps)"
        return self.steps.start("train", "teacher", [(stage, label, f"{called} training")])

    def _values(self, loss: PPO, init: PolicyRef) -> ValuesRef:
        """PPO's critic, fitted to the batch first: what its advantages are made of."""
        stage = TrainCritic(
            init=init, rollouts=self.rollouts, config=loss.critic, seed=self.steps.seed("critic")
        )
        label = f"train the critic ({loss.critic.steps} steps)"
        values: ValuesRef = self.steps.ask("train", "teacher", stage, label, "critic training")
        self.steps.keep_track("critic", values, {"loss": "value"})
        return values

    # -------------------------------------------------------------------------------------- signals

    def phases(
        self, alternatives: Alternatives, steps: int, decision: Decision
    ) -> dict[str, tuple[SignalPhase, ...]]:
        """Alternatives whose sides have become columns, all of them at once; `steps` where a
        phase says none itself.
        """
        named = {
            side: _named(side, decision)
            for phases in alternatives.values()
            for phase in phases
            for side in phase.sides
        }
        scored = {side: name for side, name in named.items() if name not in ("none", "live", "old")}
        self.train(runs_of(list(scored.values())))
        columns = self.columns(
            {f"score the batch under {name}": self.policy(name) for name in scored.values()}
        )
        sides = {**dict.fromkeys(named), **dict(zip(scored, columns, strict=True)), "old": self.old}
        return {
            name: tuple(_sided(phase, sides, steps) for phase in phases)
            for name, phases in alternatives.items()
        }

    def policy(self, side: str) -> PolicyRef:
        """The policy that a side names. Raises ValueError for a student of an iteration that has
        none.
        """
        known = self.steps.known
        run, _, step = side.partition("@")
        if run == "old":
            return known.start
        if run == "base":
            return known.base
        if run.startswith("student:"):
            number = int(run.removeprefix("student:"))
            if number not in known.students:
                there = sorted(known.students) or "none yet"
                raise ValueError(
                    f"iteration {self.steps.index}: {side} is not there (students of iterations: "
                    f"{there}); use another strategy"
                )
            return known.students[number]
        if run == "unlearned":
            assert self.steps.config.weak_teacher is not None, "the config checks that it is there"
            return self.run("weak").at(self.steps.config.weak_teacher.unlearn_step)
        if run == "teacher" and not step and self.teacher is not None:
            return self.teacher
        training = self.run(run)
        return training.at(int(step)) if step else training.last


def _role(name: str) -> tuple[Role, str]:
    """What the policies of a training run are, and what they are called."""
    role: Role = "teacher" if name == "teacher" else "unlearned" if name == "weak" else "extra"
    return role, name if role == "extra" else role


def _named(side: str, decision: Decision) -> str:
    """The side, with the student that the decision chose where it names one."""
    return (
        f"student:{decision.evidence['student']}"
        if side.startswith("student:") and "student" in decision.evidence
        else side
    )


def _sided(phase: DistillPhase, sides: Mapping[str, LogprobRef | None], steps: int) -> SignalPhase:
    signals = [(phase.signal, 1.0), *((one.signal, one.weight) for one in phase.plus)]
    sided = tuple(
        SidedSignal(
            spec=spec,
            weight=weight,
            numerator=sides[spec.numerator],
            denominator=sides[spec.denominator],
        )
        for spec, weight in signals
    )
    return SignalPhase(signals=sided, steps=phase.steps or steps)


def runs_of(sides: Sequence[str]) -> list[str]:
    """The training runs that sides rest on, in order."""
    names = [
        "weak" if name == "unlearned" else name
        for name in (side.partition("@")[0] for side in sides)
    ]
    return list(
        dict.fromkeys(
            name
            for name in names
            if name not in ("old", "base", "none", "live") and not name.startswith("student:")
        )
    )
