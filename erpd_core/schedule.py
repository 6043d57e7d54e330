"""What an iteration has to do, derived from the config: rules that flows and estimates share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from graphlib import TopologicalSorter
from typing import Literal, TypeGuard

from erpd_core.config import CampaignConfig, DistillConfig, RunConfig, Strategy, TrainConfig

Phase = Literal["rollouts", "score", "teacher", "distill", "validation", "evaluate", "online"]
"""Part of an iteration whose seconds are recorded."""
WITHOUT_COLUMN = ("none", "live")
"""Sides of a signal that are no column of the store."""


def runs_of(sides: Sequence[str]) -> list[str]:
    """The training runs that sides of signals name, in order.

    **Example:** `runs_of(["teacher@40", "old", "unlearned"]) == ["teacher", "weak"]`
    """
    names = [side.partition("@")[0] for side in sides]
    runs = ["weak" if name == "unlearned" else name for name in names]
    other = ("old", "base", *WITHOUT_COLUMN)
    return list(dict.fromkeys(r for r in runs if r not in other and not r.startswith("student:")))


def run_config(config: CampaignConfig, name: str) -> TrainConfig | RunConfig:
    """The config of a training run: `teacher`, `weak`, or a name in `runs`."""
    run = {"teacher": config.teacher, "weak": config.weak_teacher, **config.runs}[name]
    assert run is not None, "the config checks that every side has its run"
    return run


def run_dependencies(config: CampaignConfig, names: Iterable[str]) -> dict[str, set[str]]:
    """Run -> the runs it starts from, for `names` and everything they start from."""
    needs: dict[str, set[str]] = {}
    left = list(names)
    while left:
        run = run_config(config, name := left.pop(0))
        needs[name] = set(runs_of([run.init])) if isinstance(run, RunConfig) else set()
        left += sorted(needs[name] - needs.keys())
    return needs


def run_order(config: CampaignConfig, names: Iterable[str]) -> list[str]:
    """`names` and everything they start from, each after the runs it starts from."""
    return list(TopologicalSorter(run_dependencies(config, names)).static_order())


def is_strategy(choice: str | None) -> TypeGuard[Strategy]:
    """Whether a decision distils a signal; `none`, `online` and `stop` do not."""
    return choice in ("S1", "S2", "S3")


def first_runs(config: CampaignConfig, choice: str | None) -> list[str]:
    """The runs trained before the decision. `teacher` is among them if its score is needed.

    **Arguments:**
        choice: What the recipe fixes for the iteration, None where the decision is open.
    """
    if not is_strategy(choice):
        return ["teacher"]
    runs = runs_of(config.distill.sides(choice))
    if "teacher" in runs or not runs or config.decision.teacher == "always":
        return list(dict.fromkeys(["teacher", *runs]))
    return runs


def scored_sides(sides: Iterable[str]) -> list[str]:
    """The sides whose log-probs have to be computed; those of `old` always are."""
    return [side for side in dict.fromkeys(sides) if side not in ("old", *WITHOUT_COLUMN)]


def kept_steps(keep: Sequence[int], total: int) -> tuple[int, ...]:
    """The steps of a distillation whose policies are kept; the last step always is."""
    return tuple(sorted({*(step for step in keep if step < total), total}))


def validates_students(distill: DistillConfig, strategy: Strategy) -> bool:
    """Whether validation chooses the student, among kept steps or alternatives."""
    return distill.select == "validation" or len(distill.alternatives(strategy)) > 1
