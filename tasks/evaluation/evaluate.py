"""Policy x benchmarks -> EvalReport: scores with intervals, and KL, entropy and length on the
policy's own fresh samples.

Beside the report lie more measures of each benchmark and what came of each problem
(`tasks.evaluation.result_files`).
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
from tasks.rollouts.score import ScoreRollouts, load_column
from tasks.store import Build


class EvaluatePolicy(Stage[EvalReport]):
    """The contract's REPORT of one policy. Its samples and columns are artifacts of their own,
    so a killed evaluation goes on.
    """

    KIND: ClassVar[str] = "evaluation"
    VERSION: ClassVar[int] = 2
    REF: ClassVar[type] = EvalReport
    VERB: ClassVar[Verb] = "evaluate"
    PHASE: ClassVar[str | None] = "evaluate"

    policy: PolicyRef
    old: PolicyRef
    """The iteration's start, for `kl_old`."""
    base: PolicyRef
    """The campaign's base, for `kl_base`."""
    benchmarks: dict[str, ProblemsRef]
    sampling: SamplingConfig
    samples: dict[str, int] = Field(default_factory=dict)
    """Samples per problem of single benchmarks, instead of `sampling.samples`."""
    seed: int
    judge: JudgeConfig | None = None
    """Asked about answers that rules do not call correct; what it turns counts as right in every
    measure here.
    """

    def runs_on_actors(self, runtime: RuntimeConfig) -> bool:
        return runtime.samples_apart

    def spec(self) -> dict[str, Any]:
        samples = {"samples": self.samples} if self.samples else {}
        judge = {"judge": judge_spec(self.judge)} if self.judge else {}
        asked = {
            "sampling": self.sampling.model_dump(mode="json"),
            "seed": self.seed,
            "benchmarks": sorted(self.benchmarks),
        }
        return asked | samples | judge

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
        for name, problems in self.benchmarks.items():
            part = dataclasses.replace(
                context,
                progress=Progress(context.progress.path, f"{context.progress.label} on {name}"),
            )
            sampling = self.sampling.model_copy(
                update={"samples": self.samples.get(name, self.sampling.samples)}
            )
            rollouts = get_or_compute(
                SampleRollouts(
                    policy=self.policy, problems=problems, sampling=sampling, seed=self.seed
                ),
                part,
            )
            tried = outcomes(context.store, rollouts)
            if self.judge and problems.extractor != "code":
                asking = dataclasses.replace(
                    part, progress=Progress(part.progress.path, f"{part.progress.label}, judge")
                )
                judged[name] = get_or_compute(
                    JudgeRollouts(rollouts=rollouts, judge=self.judge), asking
                )
                tried = judged_outcomes(context.store, rollouts, judged[name])
            responses = read_responses(context.store, rollouts, tried)
            sums = self._sums(context, rollouts)
            scores[name] = avg_at_k(tried)
            details[name] = _details(rollouts, tried, responses, sums)
            results += [one.result(name, problem) for problem, one in responses.items()]
            for total, value in sums.items():
                totals[total] += value
            tokens, sequences = tokens + rollouts.tokens, sequences + rollouts.sequences
        report = EvalReport(
            policy=self.policy.id,
            scores=scores,
            **{name: total / tokens for name, total in totals.items()},
            length=tokens / sequences,
        )
        written = json.dumps(
            {name: one.model_dump(mode="json") for name, one in details.items()}, indent=1
        )
        if self.judge:
            said = json.dumps(
                {name: one.model_dump(mode="json") for name, one in judged.items()}, indent=1
            )
            build.put(JUDGED, lambda path: path.write_text(said))
        build.put(RESULTS, lambda path: path.write_text(lines(results)))
        build.put(DETAILS, lambda path: path.write_text(written))
        build.put("report.json", lambda path: path.write_text(report.model_dump_json(indent=1)))
        return report

    def _sums(self, context: Context, rollouts: RolloutRef) -> dict[str, float]:
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


def _details(
    rollouts: RolloutRef, tried: Outcomes, responses: dict[str, Responses], sums: dict[str, float]
) -> BenchmarkDetails:
    votes = {problem: one.groups for problem, one in responses.items()}
    answered = rollouts.problems.extractor in EXTRACTORS
    majority, ci95 = (
        clustered(list(majority_at_k(tried, votes).values())) if answered else (None, None)
    )
    return BenchmarkDetails(
        pass_at_k=pass_curve(tried),
        majority=majority,
        majority_ci95=ci95,
        truncated=sum(sum(one.truncated) for one in responses.values()) / rollouts.sequences,
        unanswered=sum(one.unanswered for one in responses.values()) / rollouts.sequences,
        length=rollouts.tokens / rollouts.sequences,
        **{name: total / rollouts.tokens for name, total in sums.items()},
    )
