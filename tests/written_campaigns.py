"""Campaigns written into a store and a registry as flows write them, without running them.

Also helpers for the output of commands on them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from erpd_core.evaluation_details import ProblemResult
from erpd_core.refs import Decision, EvalReport
from erpd_core.scoring import avg_at_k
from flows.recipes.load import load_recipe
from tasks.evaluation.result_files import DETAILS, RESULTS, lines
from tasks.registry import Registry
from tasks.store import Store, identity

K = 4
"""Samples per problem."""


class Written:
    """A home with campaigns of one or more iterations; each artifact is in store and registry."""

    def __init__(self, home: Path, url: str = "") -> None:
        self.home, self.url = home, url or f"sqlite:///{home}/registry.db"
        self.registry = Registry(self.url)
        self.store = Store(home / "store")

    def artifact(
        self,
        kind: Any,
        spec: dict[str, Any],
        inputs: dict[str, str],
        ref: Mapping[str, Any],
        files: Mapping[str, str] | None = None,
    ) -> str:
        with self.store.build(kind, spec, inputs, 1) as build:
            if build is not None:
                for name, text in (files or {"bytes": "0" * 1000}).items():
                    build.put(name, lambda path, text=text: path.write_text(text))
                build.commit({"ref": {"id": build.id, **ref}})
        id = identity(kind, spec, inputs, 1)
        manifest = self.store.manifest(id)
        self.registry.record_artifact(
            id, kind, spec, list(inputs.items()), manifest.meta, seconds=12.5
        )
        return id

    def campaign(
        self,
        name: str,
        results: Sequence[Mapping[str, Sequence[int]]],
        settings: Sequence[str] = (),
        seed: int = 0,
    ) -> str:
        """Write a campaign; returns its identity.

        **Arguments:**
            results: For the base, then for each iteration: policy -> per problem, how many of its K
                samples solved it.
        """
        id = f"{name}-0123456789"
        self.registry.campaign_started(
            id, name, "tiny", load_recipe("tiny", settings).model_dump(mode="json")
        )
        problems = self.artifact(
            "problems", {"seed": seed}, {}, {"name": "test", "count": len(results[0]["base"])}
        )
        base = old = self.artifact("policy", {"files": "tiny"}, {}, {"role": "base", "step": 0})
        self.measure(id, 0, "base", base, problems, results[0]["base"], kl=0.0)
        for index, solved in enumerate(results[1:], 1):
            ref = {"sequences": 48, "tokens": 1234, "accuracy": 0.5}
            rollouts = self.artifact(
                "rollouts", {"seed": index}, {"policy": old, "problems": problems}, ref
            )
            column = self.artifact("column", {}, {"policy": old, "rollouts": rollouts}, {})
            spec = {"config": {"loss": {"kind": "sapo"}}, "role": "teacher", "of": name}
            teacher = self.trained(
                spec, {"init": old, "rollouts": rollouts, "old": column}, "teacher", 40
            )
            numerator = self.artifact("column", {}, {"policy": teacher, "rollouts": rollouts}, {})
            inputs = {
                "init": old,
                "rollouts": rollouts,
                "old": column,
                "numerator-1": numerator,
                "denominator-1": column,
            }
            student = self.trained({"loss": {"kind": "distill"}, "of": name}, inputs, "student", 16)
            self.measure(id, index, "teacher", teacher, problems, solved["teacher"], kl=0.5)
            self.measure(id, index, "student", student, problems, solved["student"], kl=0.125)
            self.registry.record_decision(
                id, index, Decision(strategy="S1", reason="the teacher is better")
            )
            self.registry.attach(id, index, "teacher", teacher)
            self.registry.attach(id, index, "student", student)
            self.registry.iteration(id, index, "completed", {"teacher": 3.0})
            old = student
        self.registry.attach(id, 0, "base", base)
        self.registry.campaign_finished(id)
        return id

    def trained(self, spec: dict[str, Any], inputs: dict[str, str], role: str, step: int) -> str:
        """Write a training and its policy; returns the policy's identity."""
        training = self.artifact(
            "training", spec, inputs, {"trail": [{"role": role, "step": step}]}
        )
        return self.artifact(
            "policy", {"step": step}, {"training": training}, {"role": role, "step": step}
        )

    def measure(
        self,
        campaign: str,
        iteration: int,
        role: str,
        policy: str,
        problems: str,
        solved: Sequence[int],
        kl: float,
    ) -> None:
        same = {
            "benchmark": "test",
            "gold": "1",
            "samples": K,
            "length": 8.0,
            "truncated": 0,
            "unanswered": 0,
            "answer": "1",
            "votes": K,
        }
        results = [
            ProblemResult(problem=f"p{number}", solved=count, **same)
            for number, count in enumerate(solved)
        ]  # type: ignore[arg-type]
        score = avg_at_k(
            {row.problem: [1.0] * row.solved + [0.0] * (K - row.solved) for row in results}
        )
        report = EvalReport(
            policy=policy, scores={"test": score}, kl_old=kl, kl_base=kl, entropy=0.25, length=8.0
        )
        files = {RESULTS: lines(results), DETAILS: "{}"}
        evaluation = self.artifact(
            "evaluation",
            {"of": campaign},
            {"policy": policy, "benchmark-test": problems},
            report.model_dump(mode="json"),
            files,
        )
        self.registry.attach(campaign, iteration, f"{role} evaluation", evaluation)
        self.registry.record_report(campaign, iteration, role, report)

    def policy(self, campaign: str, iteration: int, role: str) -> str:
        return next(
            entry.report.policy
            for entry in self.registry.reports(campaign)
            if (entry.iteration, entry.role) == (iteration, role)
        )


BASE = [2, 2, 2, 2, 2, 2]
NIGHT = [
    {"base": BASE},
    {"teacher": [4, 4, 4, 4, 4, 2], "student": [4, 4, 4, 3, 3, 2]},
    {"teacher": [4, 4, 4, 4, 4, 4], "student": [4, 4, 4, 4, 4, 3]},
]
NOON = [{"base": BASE}, {"teacher": [4, 4, 3, 3, 3, 2], "student": [3, 3, 3, 3, 3, 3]}]


def shown(what: Any) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(what, soft_wrap=True)
    return console.export_text()


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The single error line of a command that was given bad input."""
    assert (done.returncode, done.stdout) == (2, ""), (done.returncode, done.stdout, done.stderr)
    (line,) = done.stderr.strip().splitlines()
    return line
