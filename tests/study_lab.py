"""A study in a registry and a store, for tests of its reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pages import Page

from erpd_core.refs import Decision, EvalReport, Score
from flows.recipes.load import load_recipe
from flows.recipes.studies import Arm, Picture, Study
from flows.reports.study import write_study_report
from tasks.registry import Registry
from tasks.store import Store

EVERY = get_args(Picture)


class Lab:
    """A registry and a store with the campaigns of a study, written as flows write them."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(f"sqlite:///{folder}/registry.db")
        self.store = Store(folder / "store")
        self.out = folder / "reports" / "study"
        self.campaigns: dict[str, str] = {}

    def begin(self, arm: str) -> str:
        """Start an arm's campaign with its base measured on two benchmarks, one of the paper's."""
        campaign = self.campaigns[arm] = f"study-{arm}-0123456789"
        self.registry.campaign_started(campaign, f"study-{arm}", "study", {}, "0123abc")
        self.measure(arm, 0, "base", "base", 0.0, 0.0, test=0.5, hmmt_feb_25=0.4)
        return campaign

    def measure(
        self,
        arm: str,
        iteration: int,
        role: str,
        policy: str,
        kl_old: float,
        kl_base: float,
        **scores: float,
    ) -> None:
        """Record an evaluation. Every score has an interval of +-3 points."""
        benchmark_scores = {
            name: Score(avg=avg, k=8, problems=200, ci95=(avg - 0.03, avg + 0.03))
            for name, avg in scores.items()
        }
        report = EvalReport(
            policy=f"policy-{policy}",
            scores=benchmark_scores,
            kl_old=kl_old,
            kl_base=kl_base,
            entropy=0.25,
            length=8.5,
        )
        self.registry.record_artifact(
            f"policy-{policy}", "policy", {}, meta={"ref": {"role": role, "step": 10}}
        )
        self.registry.attach(self.campaigns[arm], iteration, role, f"policy-{policy}")
        self.registry.record_report(self.campaigns[arm], iteration, role, report)

    def decide(self, arm: str, iteration: int, strategy: Any = "S1") -> None:
        self.registry.record_decision(
            self.campaigns[arm], iteration, Decision(strategy=strategy, reason="so it is")
        )

    def file(
        self,
        kind: Any,
        arm: str,
        iteration: int,
        role: str,
        name: str,
        text: str,
        spec: str,
        seconds: float = 40.0,
    ) -> None:
        """Write an artifact with one file. The same spec is the same artifact in every arm."""
        with self.store.build(kind, {"q": spec}, {}, 1) as build:
            if build is not None:
                build.put(name, lambda path: path.write_text(text))
                build.commit({"ref": {}})
        identity = next(
            artifact
            for artifact in self.store.artifacts(kind)
            if self.store.manifest(artifact).spec == {"q": spec}
        )
        self.registry.record_artifact(identity, kind, {}, meta={}, seconds=seconds)
        self.registry.attach(self.campaigns[arm], iteration, role, identity)

    def train(self, arm: str, role: str, spec: str, kept: dict[int, float], **more: float) -> None:
        records = [{"step": step, "loss": 1 / step, "entropy": 0.2, **more} for step in range(1, 5)]
        self.file(
            "training",
            arm,
            1,
            f"{role} training",
            "records.jsonl",
            "\n".join(json.dumps(record) for record in records),
            spec,
        )
        for step, accuracy in kept.items():
            ref = {"policy": {"id": "policy-t", "role": role, "step": step}, "accuracy": accuracy}
            self.registry.record_artifact(
                f"rollouts-{spec}-{step}", "rollouts", {}, meta={"ref": ref}
            )
            self.registry.attach(
                self.campaigns[arm], 1, f"{role} validation", f"rollouts-{spec}-{step}"
            )

    def signal(self, arm: str) -> None:
        histogram = {
            "counts": [0, 5, 900, 70],
            "edges": [-8.0, 8.0],
            "mean": 0.2,
            "quantiles": [0.0],
            "tokens": 975,
        }
        statistics = {
            "deviation": [
                {"teacher": 10.0**-n, "student": 10.0**-n / 2, "ratio": 0.5, "tokens": 9}
                for n in range(4)
            ],
            "teacher": {"positive": histogram, "negative": histogram},
            "student": {"positive": histogram},
        }
        self.file(
            "signal", arm, 1, "signal", "signal.json", json.dumps(statistics), f"signal of {arm}"
        )

    def run(self) -> Lab:
        """Write the study's four arms.

        Two share base and teacher and differ in the student, one was trained on-policy, one was
        killed.
        """
        for arm, student in (("ce", 0.65), ("ce.kl", 0.6)):
            self.begin(arm)
            self.train(arm, "teacher", "teacher", {2: 0.6, 4: 0.7})
            self.decide(arm, 1)
            self.measure(arm, 1, "teacher", "teacher", 0.2, 0.2, test=0.7, hmmt_feb_25=0.5)
            self.measure(
                arm, 1, "student", f"student-{arm}", 0.05, 0.05, test=student, hmmt_feb_25=0.5
            )
            seconds = {
                "rollouts": 10.0,
                "teacher": 40.0,
                "validation": 5.0,
                "score": 2.0,
                "distill": 8.0,
                "evaluate": 1000.0,
            }
            self.registry.iteration(self.campaigns[arm], 1, "completed", seconds)
            self.signal(arm)
            self.registry.campaign_finished(self.campaigns[arm])
        self.begin("online")
        self.train(
            "online",
            "online",
            "online",
            {2: 0.55, 4: 0.6},
            seconds_rollout=8.0,
            seconds_update=2.0,
            reward_mean=0.5,
        )
        self.decide("online", 1, "online")
        self.measure("online", 1, "student", "online", 0.02, 0.02, test=0.55, hmmt_feb_25=0.45)
        self.registry.iteration(
            self.campaigns["online"], 1, "completed", {"online": 40.0, "validation": 5.0}
        )
        self.registry.campaign_finished(self.campaigns["online"])
        self.begin("late")
        self.registry.iteration(self.campaigns["late"], 1)
        self.registry.campaign_finished(self.campaigns["late"], "killed")
        return self

    def write(self, study: Study) -> Page:
        return Page(write_study_report(self.registry, self.store, study, self.campaigns, self.out))


QWEN, NBG = "Qwen3-4B-Thinking-2507", "Nanbeige4-3B-2511-Thinking"
ROWS: dict[str, dict[str, str]] = {
    "ce": {"base": "base", "1.teacher": "ce", "1.student": "ce+distill"},
    "ce.kl": {"1.student": f"{NBG}:ce+distill"},
    "online": {},
    "late": {},
}


def study_of(
    arms: Sequence[str] = (*ROWS, "never"), description: str = "What differs", **changes: Any
) -> Study:
    settings = {"ce.kl": ("distill.kl_stop=0.05",)}
    configs = {arm: load_recipe("tiny", ("iterations=1", *settings.get(arm, ()))) for arm in arms}
    values = {
        "name": "table1",
        "description": description,
        "scale": "tiny",
        "paper": "table1",
        "pictures": EVERY,
        "arms": tuple(Arm(name=arm, config=configs[arm], rows=ROWS.get(arm, {})) for arm in arms),
    }
    return Study(**{**values, **changes})  # type: ignore[arg-type]
