"""On-policy training, with fresh samples for every step (Fig. 8, Tables 3 and 4).

It is the online baseline, and the online stage between offline iterations. The sampler gets the
weights in memory. What step k samples, and the order in which it learns from it, depend only on the
seed and k, so a run that resumes after a kill ends in the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch

from erpd_core.advantages import group_normalized
from erpd_core.batch import TokenBatch, minibatches
from erpd_core.config import OnlineConfig
from erpd_core.faults import Fault, placed
from erpd_core.finite import SLOWER, require_finite_column
from erpd_core.online import fresh_record, informative_groups, mean_record
from erpd_core.optimize import make_optimizer, optimize, score
from erpd_core.refs import Problem, ProblemsRef, Role, TrainingRef
from erpd_core.schedule import Phase
from erpd_core.signals import FixedSignal
from erpd_core.step_statistics import Record
from tasks.datasets import load_problems
from tasks.engines import Engine, open_engine
from tasks.execution.stage import Context, Verb
from tasks.grading import AnyGrader, open_grader
from tasks.models.policy import HFPolicy, load_policy
from tasks.rollouts import sample_and_grade, seed_of, to_batch
from tasks.store import Build
from tasks.training.base import Training, skipping
from tasks.training.checkpoint import resume


class TrainOnline(Training):
    """On-policy GRPO (or another loss) from `init` on training problems, with its kept policies."""

    VERB: ClassVar[Verb] = "train"
    PHASE: ClassVar[Phase | None] = "online"

    role: Role = "online"
    problems: ProblemsRef
    config: OnlineConfig

    @property
    def trail(self) -> tuple[int, ...]:
        return self.config.trail

    def spec(self) -> dict[str, Any]:
        config = self.config.model_dump(mode="json", exclude={"keep"})
        spec = {"config": config, "role": self.role, "trail": self.trail, "seed": self.seed}
        return spec | skipping(self.config.loss)

    def inputs(self) -> dict[str, str]:
        return {"init": self.init.id, "problems": self.problems.id}

    def compute(self, context: Context, build: Build) -> TrainingRef:
        folder = context.store.path(self.init.id)
        policy = load_policy(folder, context.runtime, context.progress.say)
        optimizer = make_optimizer(policy, self.config.optimizer)
        done, records = resume(build, policy, optimizer)
        with (
            closing(open_engine(folder, context.runtime, policy)) as engine,
            open_grader(self.problems.extractor) as grader,
        ):
            loop = OnlineLoop(
                context=context,
                config=self.config,
                seed=self.seed,
                problems=load_problems(context.store, self.problems),
                extractor=self.problems.extractor,
                policy=policy,
                start=load_policy(folder, context.runtime),
                optimizer=optimizer,
                engine=engine,
                grader=grader,
            )
            with placed("online training"):
                for record in loop.steps(done):
                    records.append(record)
                    self.after_step(context, build, policy, optimizer, records, self.trail)
        return self.finish(build, records, self.trail)


@dataclass(frozen=True)
class OnlineLoop:
    """The training loop, and what stays in memory between its steps.

    That is the policy in training, the policy it started from (`start`), the sampler and the
    grading workers.
    """

    context: Context
    config: OnlineConfig
    seed: int
    problems: Sequence[Problem]
    extractor: str
    policy: HFPolicy
    start: HFPolicy
    optimizer: torch.optim.Optimizer
    engine: Engine
    grader: AnyGrader

    def steps(self, done: int) -> Iterator[Record]:
        """Take the steps from `done + 1` to the last; yields the record of each (see `_step`)."""
        draws = minibatches(len(self.problems), self.config.prompts_per_step, self.seed, done)
        for step in range(done + 1, self.config.steps + 1):
            record = self._step(step, [self.problems[index] for index in next(draws).tolist()])
            shown = {
                "accuracy": round(record["reward_mean"], 3),
                "kl": round(record["kl_theta_start"], 4),
            }
            self.context.progress(step, self.config.steps, **shown)
            yield record

    def _step(self, step: int, problems: Sequence[Problem]) -> Record:
        """Sample, verify, score and update once.

        A batch without an informative group gives no update, and its record has none of the keys
        that describe an update (`loss`, `grad_norm`, ...).

        **Returns:** The record of the step, with these keys: those of `erpd_core.optimize`; for
            several updates, their mean those of `erpd_core.online.fresh_record` `updates`: number
            of optimizer steps `groups_informative`: number of groups with mixed outcomes
            `seconds_rollout`: sampling and verifying `seconds_update`: scoring and learning
            `seconds_kl`: log-probs of the start policy, which are only measured
        **Raises:** Fault if a number is not finite.
        """
        seed = seed_of(self.seed, "step", step) >> 32
        clock = [time.perf_counter()]
        with placed(f"fresh batch {step}"):
            batch = self._sample(step, problems, seed)
        if not batch.sequences:
            raise Fault(
                "no response has a token", "look at the model's stop tokens", f"fresh batch {step}"
            )
        clock.append(time.perf_counter())
        start_N, _ = score(self.start, batch, self.context.runtime.token_budget)
        clock.append(time.perf_counter())
        old_N, entropy_N = score(self.policy, batch, self.context.runtime.token_budget)
        with placed(f"fresh batch {step}"):
            require_finite_column(old_N, "log-probs of the policy's own samples", SLOWER)
            require_finite_column(
                start_N, "log-probs of them under the start policy", "start from another policy"
            )
        advantage_S = group_normalized(batch.reward_S, batch.group_S)
        informative = informative_groups(advantage_S, batch.group_S)
        updates: list[Record] = []
        if informative:
            with placed(f"fresh batch {step}"):
                updates += optimize(
                    self.policy,
                    self.optimizer,
                    batch,
                    old_N,
                    FixedSignal(advantage_S[batch.seq_N]),
                    self.config.loss,
                    steps=self.config.updates_per_batch,
                    minibatch=max(1, batch.sequences // self.config.updates_per_batch),
                    seed=seed,
                    max_grad_norm=self.config.optimizer.max_grad_norm,
                    token_budget=self.context.runtime.token_budget,
                )
        else:
            self.context.progress.say(
                f"step {step}: no group has both right and wrong responses; the policy stays as "
                f"it is"
            )
        clock.append(time.perf_counter())
        rollout, kl, update = (after - before for before, after in pairwise(clock))
        return {
            **mean_record(updates),
            "step": step,
            **fresh_record(batch, old_N, entropy_N, start_N),
            "groups_informative": informative,
            "updates": len(updates),
            "seconds_rollout": rollout,
            "seconds_update": update,
            "seconds_kl": kl,
        }

    def _sample(self, step: int, problems: Sequence[Problem], seed: int) -> TokenBatch:
        """Verified responses of the policy as it is now."""
        sampling = self.config.sampling
        self.engine.load_weights(self.policy.model.named_parameters())
        tables = []
        for first in range(0, len(problems), sampling.shard):

            def tick(finished: int, ready: int = first * sampling.samples) -> None:
                sampled = f"{ready + finished}/{len(problems) * sampling.samples}"
                self.context.progress(step - 1, self.config.steps, sampled=sampled)

            some = problems[first : first + sampling.shard]
            tables.append(
                sample_and_grade(
                    some, self.engine, self.grader, sampling, seed, self.extractor, tick
                )
            )
        return to_batch(tables)
