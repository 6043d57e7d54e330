"""The fixed batch of an iteration, its training runs, and the log-prob columns of its signals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from erpd_core.config import PPO, DistillPhase, RunConfig
from erpd_core.refs import Decision, LogprobRef, PolicyRef, Role, RolloutRef, TrainingRef, ValuesRef
from erpd_core.schedule import run_config, run_dependencies, runs_of, scored_sides
from flows.steps.context import IterationContext
from flows.steps.recorder import PendingResults, StageCall
from tasks.rollouts import SampleRollouts
from tasks.rollouts.informative import SampleInformative
from tasks.rollouts.score import ScoreRollouts
from tasks.training.batch_check import batch_outcomes
from tasks.training.critic import TrainCritic
from tasks.training.student import SidedSignal, SignalPhase
from tasks.training.teacher import TrainTeacher

WatchTraining = Callable[[TrainTeacher, str], Callable[[], None]]


def _unwatched(stage: TrainTeacher, role: str) -> Callable[[], None]:
    return lambda: None


class FixedBatch:
    """A batch of verified rollouts, and everything that is trained on it or scored over it."""

    def __init__(self, context: IterationContext, rollouts: RolloutRef) -> None:
        self.context, self.state, self.recorder = context, context.state, context.recorder
        self.rollouts = rollouts
        self.teacher: PolicyRef | None = None
        """The policy of the side `teacher` without a step; set once validation has chosen one."""
        self._columns: dict[str, LogprobRef] = {}
        self._trained: dict[str, TrainingRef] = {}

    @classmethod
    def sample(cls, context: IterationContext) -> FixedBatch:
        """Sample the batch from the iteration's start, and score it under the start (Sec. 3.1)."""
        sampling = SampleRollouts(
            policy=context.state.start,
            problems=context.draw_prompts(),
            sampling=context.config.sampling,
            seed=context.seed("rollouts"),
        )
        if informative := context.config.prompts.informative:
            sampling = SampleInformative(**dict(sampling), informative=informative)
        rollouts = context.recorder.run(sampling, "sample the fixed batch", "rollouts")
        outcomes = batch_outcomes(context.recorder.store, rollouts)
        context.recorder.record_outcomes(outcomes, rollouts.refill)
        batch = cls(context, rollouts)
        batch.columns({"score the batch under old": context.state.start})
        return batch

    @property
    def old(self) -> LogprobRef:
        """The column of the iteration's start."""
        return self._columns[self.state.start.id]

    def columns(self, policies: Mapping[str, PolicyRef]) -> list[LogprobRef]:
        """The batch's log-probs under each policy; missing columns are computed in parallel.

        **Arguments:**
            policies: Label of the stage -> policy.
        """
        missing = {
            policy.id: StageCall(
                ScoreRollouts(policy=policy, rollouts=self.rollouts), label, "column"
            )
            for label, policy in policies.items()
            if policy.id not in self._columns
        }
        computed = self.recorder.start(list(missing.values()))()
        self._columns |= zip(missing, computed, strict=True)
        return [self._columns[policy.id] for policy in policies.values()]

    # -------------------------------------------------------------------------------- training runs

    def run(self, name: str) -> TrainingRef:
        """A training run of the recipe on this batch, trained when it is first requested."""
        self.train([name])
        return self._trained[name]

    def train(self, names: Sequence[str], watch: WatchTraining = _unwatched) -> None:
        """Train runs and the runs they start from, in parallel where they are independent.

        **Arguments:**
            watch: Gets the stage and the role of each run, and returns what is called about every
                second while it trains.
        """
        needs = run_dependencies(self.context.config, names)
        while left := [name for name in needs if name not in self._trained]:
            ready = [name for name in left if self._trained.keys() >= needs[name]]
            started = [(name, *self._start(name)) for name in ready]
            for name, stage, results in started:
                _, called = _role(name)
                (training,) = results(watch(stage, called))
                self._trained[name] = training
                loss = run_config(self.context.config, name).loss.kind
                self.recorder.record_policies(training.trail, called)
                self.recorder.record_training(called, training, {"loss": loss})

    def _start(self, name: str) -> tuple[TrainTeacher, PendingResults[TrainingRef]]:
        config = run_config(self.context.config, name)
        role, called = _role(name)
        init = self.policy(config.init) if isinstance(config, RunConfig) else self.state.start
        stage = TrainTeacher(
            init=init,
            rollouts=self.rollouts,
            old=self.old,
            role=role,
            config=config,
            seed=self.context.seed(called),
            values=self._values(config.loss, init) if isinstance(config.loss, PPO) else None,
        )
        label = f"train {called} ({config.loss.kind}, {config.steps} steps)"
        return stage, self.recorder.start([StageCall(stage, label, f"{called} training")])

    def _values(self, loss: PPO, init: PolicyRef) -> ValuesRef:
        """Fit PPO's critic to the batch, and return its values."""
        seed = self.context.seed("critic")
        stage = TrainCritic(init=init, rollouts=self.rollouts, config=loss.critic, seed=seed)
        label = f"train the critic ({loss.critic.steps} steps)"
        values = self.recorder.run(stage, label, "critic training")
        self.recorder.record_training("critic", values, {"loss": "value"})
        return values

    # -------------------------------------------------------------------------------------- signals

    def phases(
        self, alternatives: Mapping[str, Sequence[DistillPhase]], steps: int, decision: Decision
    ) -> dict[str, tuple[SignalPhase, ...]]:
        """The phases of each alternative, with the columns of their sides.

        All columns are computed in parallel.

        **Arguments:**
            steps: Optimizer steps of a phase that does not set its own.
        """
        named = {
            side: _named(side, decision)
            for phases in alternatives.values()
            for phase in phases
            for side in phase.sides
        }
        scored = {side: named[side] for side in scored_sides(named)}
        self.train(runs_of(list(scored.values())))
        columns = self.columns(
            {f"score the batch under {name}": self.policy(name) for name in scored.values()}
        )
        sides: dict[str, LogprobRef | None] = {
            **dict.fromkeys(named),
            **dict(zip(scored, columns, strict=True)),
            "old": self.old,
        }
        return {
            name: tuple(_sided(phase, sides, steps) for phase in phases)
            for name, phases in alternatives.items()
        }

    def policy(self, side: str) -> PolicyRef:
        """The policy that a side names.

        **Raises:** ValueError for a student that does not exist.
        """
        run, _, step = side.partition("@")
        if run == "old":
            return self.state.start
        if run == "base":
            return self.state.base
        if run.startswith("student:"):
            return self._student(side, int(run.removeprefix("student:")))
        if run == "unlearned":
            weak = self.context.config.weak_teacher
            assert weak is not None, "the config checks that it is there"
            return self.run("weak").at(weak.unlearn_step)
        if run == "teacher" and not step and self.teacher is not None:
            return self.teacher
        training = self.run(run)
        return training.at(int(step)) if step else training.last

    def _student(self, side: str, iteration: int) -> PolicyRef:
        students = self.state.students
        if iteration not in students:
            existing = sorted(students) or "none yet"
            raise ValueError(
                f"iteration {self.context.index}: {side} does not exist (students of iterations: "
                f"{existing}); use another strategy"
            )
        return students[iteration]


def _role(name: str) -> tuple[Role, str]:
    """The role of a training run's policies, and the name they are recorded under."""
    role: Role = "teacher" if name == "teacher" else "unlearned" if name == "weak" else "extra"
    return role, name if role == "extra" else role


def _named(side: str, decision: Decision) -> str:
    """The side. If it names a student, the student that the decision chose, if it chose one."""
    if side.startswith("student:") and "student" in decision.evidence:
        return f"student:{decision.evidence['student']}"
    return side


def _sided(phase: DistillPhase, sides: Mapping[str, LogprobRef | None], steps: int) -> SignalPhase:
    signals = [(phase.signal, 1.0), *((extra.signal, extra.weight) for extra in phase.plus)]
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
