"""A config as a list of planned work, in the order of `flows`: sampling, scoring, training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

from erpd_core.config import PPO, CampaignConfig, Loss, RaceSelection, SamplingConfig, Strategy
from erpd_core.estimates.work import Batch
from erpd_core.refs import Frozen
from erpd_core.schedule import (
    Phase,
    first_runs,
    is_strategy,
    kept_steps,
    run_config,
    run_order,
    runs_of,
    scored_sides,
    validates_students,
)

EstimatePhase = Phase | Literal["base"]
PHASES: tuple[EstimatePhase, ...] = ("base", *get_args(Phase))
"""Phases of an estimate. A campaign records its seconds under all but `base`, the evaluation of the
base model before the first iteration.
"""


class Lengths(Frozen):
    """Expected numbers of tokens. They are assumptions, and reports print them as such."""

    prompt: float = 150.0
    """Mean tokens of a prompt."""
    response: float
    """Mean tokens of a response."""
    spread: float = 0.5
    """Standard deviation of response lengths divided by their mean."""
    longest: float = 3.0
    """Longest response of a shard as a multiple of the mean; at most the sampling limit."""
    within: float = 0.75
    """Upper bound of the mean as a share of the sampling limit, which cuts off the longest
    responses.
    """
    source: str
    """Where the numbers come from."""

    def batch(self, prompts: int, sampling: SamplingConfig, samples: int | None = None) -> Batch:
        """The expected batch of `prompts` prompts; `samples` overrides those of `sampling`."""
        response = max(1.0, min(self.response, self.within * sampling.max_new_tokens))
        return Batch(
            prompts=prompts,
            samples=samples or sampling.samples,
            prompt=self.prompt,
            response=response,
            spread=self.spread,
            longest=min(self.longest * response, sampling.max_new_tokens),
        )


class PlannedWork(Frozen):
    """One stage of a campaign, with what determines its cost."""

    iteration: int
    """From 1; 0 for work before the first iteration."""
    phase: EstimatePhase
    what: str
    """Description for reports."""
    kind: Literal["sample", "score", "train"]
    batch: Batch
    shard: int = 0
    """`sample`: prompts that are sampled at once. `score`: prompts that one process takes at a
    time.
    """
    steps: int = 0
    """`train`: optimizer steps."""
    minibatch: int = 0
    """`train`: responses per step."""
    twice: bool = False
    """`train`: whether the logits of the head are computed twice."""
    kept: int = 0
    """`train`: kept checkpoints."""
    repeat: int = 1
    """Number of times that it is done."""
    online: bool = False
    """Whether it is part of an online stage. One process and engine then does it, with the start
    policy next to the one in training, and nothing is stored.
    """


def planned_work(
    config: CampaignConfig, problems: Mapping[str, int], lengths: Lengths
) -> list[PlannedWork]:
    """All work of a campaign, if the store has none of it yet.

    An automatic decision is assumed to be S1.

    **Arguments:**
        problems: Number of problems of `prompts`, `validation` and each benchmark.
    """
    return list(_Walk(config, problems, lengths).tasks())


class _Walk:
    def __init__(
        self, config: CampaignConfig, problems: Mapping[str, int], lengths: Lengths
    ) -> None:
        self.config, self.problems, self.lengths = config, problems, lengths
        self.index = 0

    def tasks(self) -> Iterator[PlannedWork]:
        yield self._sample("base", "validation", self.config.evaluation.validation_sampling)
        yield from self._evaluate("base", policies=1, columns=1)
        for index in range(1, self.config.iterations + 1):
            self.index = index
            choice = self.config.decision.fixed_for(self.index) or "S1"
            yield from self._online() if choice == "online" else self._offline(choice)

    # ----------------------------------------------------------------------------------- iterations

    def _offline(self, choice: str) -> Iterator[PlannedWork]:
        config = self.config
        batch = self.lengths.batch(self.problems["prompts"], config.sampling)
        yield self._sample("rollouts", "prompts", config.sampling)
        yield self._score("score", "under old", batch, config.sampling)
        runs = first_runs(config, choice)
        sides = config.distill.sides(choice) if is_strategy(choice) else ()
        for name in run_order(config, [*runs, *runs_of(sides)]):
            yield from self._run(name, batch)
        yield from self._select(len(config.teacher.trail) if "teacher" in runs else 1, "teacher: ")
        if self._racing:  # until its gain is proven, which is assumed to take half of the samples
            sampling = config.evaluation.validation_sampling
            yield self._sample(
                "validation",
                "validation",
                sampling,
                about="teacher against start: ",
                samples=(sampling.samples + 1) // 2,
            )
        if is_strategy(choice):
            scored = [side for side in scored_sides(sides) if side != "base" or self.index > 1]
            if scored:
                yield self._score(
                    "score", "sides of the signals", batch, config.sampling, len(scored)
                )
            yield from self._distil(choice, batch)
        if config.evaluation.signal:
            yield self._score(
                "score", "what the student made of its signal", batch, config.sampling
            )
        yield from self._evaluate("evaluate", 2 if is_strategy(choice) else 1, self._references)

    @property
    def _references(self) -> int:
        """Log-prob columns of an evaluation: the policy, the iteration's start, and the base."""
        return 2 if self.index <= 1 else 3

    def _distil(self, choice: Strategy, batch: Batch) -> Iterator[PlannedWork]:
        config = self.config.distill
        sampling = self.config.evaluation.validation_sampling
        candidates = 0
        for name, phases in config.alternatives(choice).items():
            steps = sum(phase.steps or config.steps for phase in phases)
            kept = len(kept_steps(config.keep, steps))
            candidates += kept
            what = f"student {name}".rstrip()
            yield self._train("distill", what, batch, steps, config.minibatch, config.loss, kept)
        chooses = validates_students(config, choice)
        if chooses:
            yield from self._select(candidates, "students: ")
            limited = config.kl_budget or config.kl_budget_of_teacher
            seen = self.lengths.batch(
                self.problems["validation"],
                sampling,
                self._racing.rounds(sampling.samples)[0] if self._racing else None,
            )
            columns = 2 if self._racing else self._references
            if limited or not self._racing:
                what = "KL of teacher and students"
                yield self._score("validation", what, seen, sampling, (candidates + 1) * columns)
        if (self._racing or not chooses) and self.index < self.config.iterations:
            yield self._sample("validation", "validation", sampling, about="student: ")

    def _online(self) -> Iterator[PlannedWork]:
        online = self.config.online
        assert online is not None, "the config checks that online stages have their section"
        fresh = self.lengths.batch(online.prompts_per_step, online.sampling)
        updates, shard = (
            online.updates_per_batch,
            min(online.sampling.shard, online.prompts_per_step),
        )
        for task in (
            PlannedWork(
                iteration=self.index,
                phase="online",
                what="sample",
                kind="sample",
                batch=fresh,
                shard=shard,
                repeat=online.steps,
            ),
            self._score("online", "policy and start", fresh, online.sampling, 2 * online.steps),
            self._train(
                "online",
                online.loss.kind,
                fresh,
                online.steps * updates,
                fresh.sequences // updates,
                online.loss,
                len(online.trail),
            ),
        ):
            yield task.model_copy(update={"online": True})
        yield from self._select(len(online.trail), "online: ")
        yield from self._evaluate("evaluate", 1, self._references)

    # ------------------------------------------------------------------------------------ selection

    @property
    def _racing(self) -> RaceSelection | None:
        selection = self.config.evaluation.selection
        return selection if isinstance(selection, RaceSelection) else None

    def _select(self, candidates: int, about: str) -> Iterator[PlannedWork]:
        """Sampling of the candidates for one place.

        A race is assumed to drop half of them in every round, down to two that stay to the end.
        """
        sampling = self.config.evaluation.validation_sampling
        if self._racing is None:
            yield self._sample("validation", "validation", sampling, candidates, about)
        elif candidates > 1:
            for samples in self._racing.rounds(sampling.samples):
                yield self._sample(
                    "validation", "validation", sampling, candidates, about, samples=samples
                )
                candidates = max(2, (candidates + 1) // 2)

    # -------------------------------------------------------------------------------- training runs

    def _run(self, name: str, batch: Batch) -> Iterator[PlannedWork]:
        config = run_config(self.config, name)
        if isinstance(config.loss, PPO):
            critic = config.loss.critic
            yield self._train(
                "teacher",
                f"{name}: critic",
                batch,
                critic.steps,
                critic.minibatch,
                None,
                len(critic.trail),
            )
            values = self._score("teacher", f"{name}: values", batch, self.config.sampling)
            yield values.model_copy(update={"shard": batch.prompts})  # in one process
        yield self._train(
            "teacher",
            f"{name}: {config.loss.kind}",
            batch,
            config.steps,
            config.minibatch,
            config.loss,
            len(config.trail),
        )

    # ------------------------------------------------------------------------------------ one stage

    def _sample(
        self,
        phase: EstimatePhase,
        on: str,
        sampling: SamplingConfig,
        repeat: int = 1,
        about: str = "",
        samples: int | None = None,
    ) -> PlannedWork:
        batch = self.lengths.batch(self.problems[on], sampling, samples)
        what = f"sample {about}{on if on in ('prompts', 'validation') else 'benchmarks'}"
        shard = min(sampling.shard, batch.prompts)
        return PlannedWork(
            iteration=self.index,
            phase=phase,
            what=what,
            kind="sample",
            batch=batch,
            shard=shard,
            repeat=repeat,
        )

    def _score(
        self,
        phase: EstimatePhase,
        what: str,
        batch: Batch,
        sampling: SamplingConfig,
        repeat: int = 1,
    ) -> PlannedWork:
        shard = min(sampling.shard, batch.prompts)
        return PlannedWork(
            iteration=self.index,
            phase=phase,
            what=f"score {what}",
            kind="score",
            batch=batch,
            shard=shard,
            repeat=repeat,
        )

    def _train(
        self,
        phase: EstimatePhase,
        what: str,
        batch: Batch,
        steps: int,
        minibatch: int,
        loss: Loss | None,
        kept: int,
    ) -> PlannedWork:
        return PlannedWork(
            iteration=self.index,
            phase=phase,
            what=f"train {what}",
            kind="train",
            batch=batch,
            steps=steps,
            minibatch=min(minibatch, batch.sequences),
            twice=loss is not None and loss.SEQUENCE_LEVEL,
            kept=kept,
        )

    def _evaluate(self, phase: EstimatePhase, policies: int, columns: int) -> Iterator[PlannedWork]:
        evaluation = self.config.evaluation
        for name in evaluation.benchmarks:
            samples = evaluation.samples.get(name)
            yield self._sample(phase, name, evaluation.sampling, policies, samples=samples)
            batch = self.lengths.batch(self.problems[name], evaluation.sampling, samples)
            yield self._score(phase, "benchmarks", batch, evaluation.sampling, policies * columns)
