"""The stage that evaluates a policy on benchmarks: scores with intervals, KL, entropy, length.

KL, entropy and length are measured on the policy's own fresh samples. The artifact also holds more
measures of each benchmark and the results of each problem (`tasks.evaluation.result_files`).
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, ClassVar

from pydantic import Field

from erpd_core.config import JudgeConfig, RuntimeConfig, SamplingConfig
from erpd_core.evaluation_details import BenchmarkDetails, ProblemResult
from erpd_core.kl import k1
from erpd_core.refs import EvalReport, JudgedRef, PolicyRef, ProblemsRef, RolloutRef, Score
from erpd_core.schedule import Phase
from erpd_core.scoring import Outcomes, avg_at_k, clustered, majority_at_k, pass_curve
from tasks.evaluation.judge.prompt import judge_spec
from tasks.evaluation.judge.rollouts import JudgeRollouts, judged_outcomes
from tasks.evaluation.result_files import DETAILS, JUDGED, RESULTS, lines
from tasks.evaluation.votes import Responses, read_responses
from tasks.execution.nested import get_or_compute_inside
from tasks.execution.progress import Progress
from tasks.execution.stage import Context, Stage, Verb, get_or_compute
from tasks.grading import EXTRACTORS
from tasks.rollouts import SampleRollouts, outcomes
from tasks.rollouts.samplers import kept_engines
from tasks.rollouts.score import ScoreRollouts, load_column
from tasks.store import Build


class EvaluatePolicy(Stage[EvalReport]):
    """The EvalReport of one policy.

    Its samples and columns are separate artifacts, so a killed evaluation resumes.
    """

    KIND: ClassVar[str] = "evaluation"
    VERSION: ClassVar[int] = 2
    REF: ClassVar[type] = EvalReport
    VERB: ClassVar[Verb] = "evaluate"
    PHASE: ClassVar[Phase | None] = "evaluate"

    policy: PolicyRef
    old: PolicyRef
    """The policy at the start of the iteration, for `kl_old`."""
    base: PolicyRef
    """The base policy of the campaign, for `kl_base`."""
    benchmarks: dict[str, ProblemsRef]
    sampling: SamplingConfig
    samples: dict[str, int] = Field(default_factory=dict)
    """Benchmark -> samples per problem, if not `sampling.samples`."""
    seed: int
    judge: JudgeConfig | None = None
    """Judges answers that the rules do not call correct. Those it accepts count as right in every
    measure of this evaluation.
    """

    def runs_on_actors(self, runtime: RuntimeConfig) -> bool:
        return runtime.samples_on_actors

    def spec(self) -> dict[str, Any]:
        samples = {"samples": self.samples} if self.samples else {}
        judge = {"judge": judge_spec(self.judge)} if self.judge else {}
        settings = {
            "sampling": self.sampling.model_dump(mode="json"),
            "seed": self.seed,
            "benchmarks": sorted(self.benchmarks),
        }
        return settings | samples | judge

    def inputs(self) -> dict[str, str]:
        problems = {f"benchmark-{name}": ref.id for name, ref in self.benchmarks.items()}
        return {"policy": self.policy.id, "old": self.old.id, "base": self.base.id, **problems}

    def compute(self, context: Context, build: Build) -> EvalReport:
        scores: dict[str, Score] = {}
        details: dict[str, BenchmarkDetails] = {}
        results: list[ProblemResult] = []
        judged: dict[str, JudgedRef] = {}
        totals = dict.fromkeys(("kl_old", "kl_base", "entropy"), 0.0)
        tokens = sequences = 0
        for name, rollouts in self._sample(context).items():
            part = _on(context, name)
            tried = outcomes(context.store, rollouts)
            if self.judge and rollouts.problems.extractor != "code":
                judging = dataclasses.replace(
                    part, progress=Progress(part.progress.path, f"{part.progress.label}, judge")
                )
                judged[name] = get_or_compute(
                    JudgeRollouts(rollouts=rollouts, judge=self.judge), judging
                )
                tried = judged_outcomes(context.store, rollouts, judged[name])
            responses = read_responses(context.store, rollouts, tried)
            sums = self._sums(context, rollouts)
            scores[name] = avg_at_k(tried)
            details[name] = _details(rollouts, tried, responses, sums)
            results += [answers.result(name, problem) for problem, answers in responses.items()]
            for total, value in sums.items():
                totals[total] += value
            tokens, sequences = tokens + rollouts.tokens, sequences + rollouts.sequences
        report = EvalReport(
            policy=self.policy.id,
            scores=scores,
            **{name: total / tokens for name, total in totals.items()},
            length=tokens / sequences,
        )
        details_text = json.dumps(
            {name: detail.model_dump(mode="json") for name, detail in details.items()}, indent=1
        )
        if self.judge:
            judged_text = json.dumps(
                {name: ref.model_dump(mode="json") for name, ref in judged.items()}, indent=1
            )
            build.put(JUDGED, lambda path: path.write_text(judged_text))
        build.put(RESULTS, lambda path: path.write_text(lines(results)))
        build.put(DETAILS, lambda path: path.write_text(details_text))
        build.put("report.json", lambda path: path.write_text(report.model_dump_json(indent=1)))
        return report

    def _sample(self, context: Context) -> dict[str, RolloutRef]:
        """Benchmark -> samples of the policy, by engines that start once for all benchmarks."""
        with kept_engines(context.runtime):
            return {
                name: get_or_compute(
                    SampleRollouts(
                        policy=self.policy,
                        problems=problems,
                        sampling=self.sampling.model_copy(
                            update={"samples": self.samples.get(name, self.sampling.samples)}
                        ),
                        seed=self.seed,
                    ),
                    _on(context, name),
                )
                for name, problems in self.benchmarks.items()
            }

    def _sums(self, context: Context, rollouts: RolloutRef) -> dict[str, float]:
        """Sums over the policy's own response tokens, in nats.

        `kl_old` is the k1 estimator of KL(policy || old), `kl_base` that of KL(policy || base).
        """
        silent = dataclasses.replace(context, progress=Progress(None))

        def column(policy: PolicyRef, name: str = "lp") -> Any:
            ref = get_or_compute_inside(
                self, ScoreRollouts(policy=policy, rollouts=rollouts), silent
            )
            return load_column(context.store, ref, name).double()

        own = column(self.policy)
        return {
            "kl_old": float(k1(own, column(self.old)).sum()),
            "kl_base": float(k1(own, column(self.base)).sum()),
            "entropy": float(column(self.policy, "entropy").sum()),
        }


def _on(context: Context, benchmark: str) -> Context:
    """The context with progress that names the benchmark."""
    label = f"{context.progress.label} on {benchmark}"
    return dataclasses.replace(context, progress=Progress(context.progress.path, label))


def _details(
    rollouts: RolloutRef, tried: Outcomes, responses: dict[str, Responses], sums: dict[str, float]
) -> BenchmarkDetails:
    votes = {problem: answers.groups for problem, answers in responses.items()}
    extracts = rollouts.problems.extractor in EXTRACTORS
    majority, ci95 = (
        clustered(list(majority_at_k(tried, votes).values())) if extracts else (None, None)
    )
    return BenchmarkDetails(
        pass_at_k=pass_curve(tried),
        majority=majority,
        majority_ci95=ci95,
        truncated=sum(sum(answers.truncated) for answers in responses.values())
        / rollouts.sequences,
        unanswered=sum(answers.unanswered for answers in responses.values()) / rollouts.sequences,
        length=rollouts.tokens / rollouts.sequences,
        **{name: total / rollouts.tokens for name, total in sums.items()},
    )
