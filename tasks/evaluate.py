"""Policy x benchmarks -> EvalReport: scores with intervals, and KL, entropy and length on the policy's own fresh samples."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pyarrow.parquet as pq
from pydantic import Field

from erpd_core.config import SamplingConfig
from erpd_core.kl import k1
from erpd_core.refs import EvalReport, PolicyRef, ProblemsRef, RolloutRef, Score
from erpd_core.scoring import avg_at_k
from tasks.progress import Progress
from tasks.rollouts import SampleRollouts, outcomes, shards
from tasks.score import ScoreRollouts, load_column
from tasks.stage import Context, Stage, fulfil, fulfil_apart
from tasks.store import Build, Store


class EvaluatePolicy(Stage[EvalReport]):
    """The contract's REPORT of one policy. Its samples and columns are artifacts of their own, so a killed evaluation goes on."""

    KIND: ClassVar[str] = "evaluation"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = EvalReport
    SAMPLES: ClassVar[bool] = True

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

    def question(self) -> dict[str, Any]:
        samples = {"samples": self.samples} if self.samples else {}
        return {"sampling": self.sampling.model_dump(mode="json"), **samples, "seed": self.seed, "benchmarks": sorted(self.benchmarks)}

    def inputs(self) -> dict[str, str]:
        problems = {f"benchmark-{name}": ref.id for name, ref in self.benchmarks.items()}
        return {"policy": self.policy.id, "old": self.old.id, "base": self.base.id, **problems}

    def run(self, context: Context, build: Build) -> EvalReport:
        scores: dict[str, Score] = {}
        totals = dict.fromkeys(("kl_old", "kl_base", "entropy"), 0.0)
        tokens = sequences = 0
        for name, problems in self.benchmarks.items():
            part = dataclasses.replace(context, progress=Progress(context.progress.path, f"{context.progress.label} on {name}"))
            sampling = self.sampling.model_copy(update={"samples": self.samples.get(name, self.sampling.samples)})
            rollouts = fulfil(SampleRollouts(policy=self.policy, problems=problems, sampling=sampling, seed=self.seed), part)
            scores[name] = avg_at_k(outcomes(context.store, rollouts))
            for total, value in self._sums(context, rollouts).items():
                totals[total] += value
            tokens, sequences = tokens + rollouts.tokens, sequences + rollouts.sequences
        report = EvalReport(
            policy=self.policy.id, scores=scores, **{name: total / tokens for name, total in totals.items()}, length=tokens / sequences
        )
        build.put("report.json", lambda path: path.write_text(report.model_dump_json(indent=1)))
        return report

    def _sums(self, context: Context, rollouts: RolloutRef) -> dict[str, float]:
        silent = dataclasses.replace(context, progress=Progress(None))

        def column(policy: PolicyRef, name: str = "lp") -> Any:
            ref = fulfil_apart(ScoreRollouts(policy=policy, rollouts=rollouts), silent)
            return load_column(context.store, ref, name).double()

        own = column(self.policy)
        return {
            "kl_old": float(k1(own, column(self.old)).sum()),
            "kl_base": float(k1(own, column(self.base)).sum()),
            "entropy": float(column(self.policy, "entropy").sum()),
        }


def truncation_rate(store: Store, ref: RolloutRef) -> float:
    """Share of responses cut at the length limit."""
    cut = [value for path in shards(store, ref) for value in pq.read_table(path, columns=["truncated"])["truncated"].to_pylist()]
    return sum(cut) / len(cut)
