"""The fixed batch of an iteration and what is worked out on it once: training runs, and a column for each policy a signal names."""

from __future__ import annotations

from collections.abc import Sequence

from erpd_core.config import PPO, DistillPhase, RunConfig, TrainConfig
from erpd_core.refs import Decision, LogprobRef, PolicyRef, Role, RolloutRef, TrainingRef, ValuesRef
from flows.steps import Steps
from tasks.critic import TrainCritic
from tasks.rollouts import SampleRollouts
from tasks.score import ScoreRollouts
from tasks.train import SidedSignal, SignalPhase, TrainTeacher


class FixedBatch:
    """Sampled from the iteration's start when it is made (Sec. 3.1)."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        sampling = SampleRollouts(
            policy=steps.known.start, problems=steps.prompts(), sampling=steps.config.sampling, seed=steps.seed("rollouts")
        )
        self.rollouts: RolloutRef = steps.ask("rollouts", "rollouts", sampling, "sample the fixed batch", "rollouts")
        self.old = self.column(steps.known.start, "score the batch under old")
        self.teacher: PolicyRef | None = None
        """What the side `teacher` means without a step: the step that validation chose, once it has."""
        self._trained: dict[str, TrainingRef] = {}

    def column(self, policy: PolicyRef, label: str) -> LogprobRef:
        """Log-probs of the batch under a policy."""
        stage = ScoreRollouts(policy=policy, rollouts=self.rollouts)
        column: LogprobRef = self.steps.ask("score", "score", stage, label, "column")
        return column

    # ------------------------------------------------------------------------------------------------------- training runs

    def run(self, name: str) -> TrainingRef:
        """A training run of the recipe on this batch, trained when it is first asked for."""
        if name not in self._trained:
            config = {"teacher": self.steps.config.teacher, "weak": self.steps.config.weak_teacher, **self.steps.config.runs}[name]
            assert config is not None, "the config checks that every side has its run"
            role: Role = "teacher" if name == "teacher" else "unlearned" if name == "weak" else "extra"
            init = self.policy(config.init) if isinstance(config, RunConfig) else self.steps.known.start
            self._trained[name] = self._train(config, init, role, name if role == "extra" else role)
        return self._trained[name]

    def _train(self, config: TrainConfig, init: PolicyRef, role: Role, name: str) -> TrainingRef:
        stage = TrainTeacher(
            init=init,
            rollouts=self.rollouts,
            old=self.old,
            role=role,
            config=config,
            seed=self.steps.seed(name),
            values=self._values(config.loss, init) if isinstance(config.loss, PPO) else None,
        )
        label = f"train {name} ({config.loss.kind}, {config.steps} steps)"
        training: TrainingRef = self.steps.ask("train", "teacher", stage, label, f"{name} training")
        self.steps.record_policies(training.trail, name)
        self.steps.keep_track(name, training, {"loss": config.loss.kind})
        return training

    def _values(self, loss: PPO, init: PolicyRef) -> ValuesRef:
        """PPO's critic, fitted to the batch first: what its advantages are made of."""
        stage = TrainCritic(init=init, rollouts=self.rollouts, config=loss.critic, seed=self.steps.seed("critic"))
        label = f"train the critic ({loss.critic.steps} steps)"
        values: ValuesRef = self.steps.ask("train", "teacher", stage, label, "critic training")
        self.steps.keep_track("critic", values, {"loss": "value"})
        return values

    # -------------------------------------------------------------------------------------------------------------- signals

    def phase(self, phase: DistillPhase, steps: int, decision: Decision) -> SignalPhase:
        """A phase whose sides have become columns; `steps` where it says none itself."""
        signals = [(phase.signal, 1.0), *((one.signal, one.weight) for one in phase.plus)]
        sided = tuple(
            SidedSignal(
                spec=spec,
                weight=weight,
                numerator=self._side(spec.numerator, decision),
                denominator=self._side(spec.denominator, decision),
            )
            for spec, weight in signals
        )
        return SignalPhase(signals=sided, steps=phase.steps or steps)

    def _side(self, side: str, decision: Decision) -> LogprobRef | None:
        """The column of one side of a signal (see `SignalSpec`)."""
        if side in ("none", "live"):
            return None
        if side == "old":
            return self.old
        if side.startswith("student:") and "student" in decision.evidence:
            side = f"student:{decision.evidence['student']}"
        return self.column(self.policy(side), f"score the batch under {side}")

    def policy(self, side: str) -> PolicyRef:
        """The policy that a side names. Raises ValueError for a student of an iteration that has none."""
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
                    f"iteration {self.steps.index}: {side} is not there (students of iterations: {there}); use another strategy"
                )
            return known.students[number]
        if run == "unlearned":
            assert self.steps.config.weak_teacher is not None, "the config checks that it is there"
            return self.run("weak").at(self.steps.config.weak_teacher.unlearn_step)
        if run == "teacher" and not step and self.teacher is not None:
            return self.teacher
        training = self.run(run)
        return training.at(int(step)) if step else training.last


def runs_of(sides: Sequence[str]) -> list[str]:
    """The training runs that sides rest on, in order."""
    names = ["weak" if name == "unlearned" else name for name in (side.partition("@")[0] for side in sides)]
    return list(dict.fromkeys(name for name in names if name not in ("old", "base", "none", "live") and not name.startswith("student:")))
