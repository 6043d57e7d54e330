"""Decides which signal follows a teacher, from validation scores (Sec. 4.4, Fig. 3).

The first that applies is taken:

1. S1, if the teacher is better than its start beyond noise.
2. S3, if an earlier student is clearly behind the teacher.
3. S2, if the recipe has an unlearned teacher.
4. An online stage (Fig. 8), if the recipe has one.
5. Stop.

A fallback is taken at most `at_most` times until a teacher or an online stage helps again. In
Table 2 strategy 3 is taken once, although the student it moved away from is still behind, and
strategy 2 follows. The decision carries its evidence and, for every other strategy, why it was not
taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from erpd_core.config import DecisionConfig, Fallback
from erpd_core.refs import Decision
from erpd_core.scoring import Comparison, Outcomes, avg_at_k, compare


def decide(
    config: DecisionConfig,
    iteration: int,
    start: Outcomes,
    teacher: Outcomes,
    students: Mapping[int, Outcomes],
    weak_available: bool,
    online_available: bool = False,
    before: Sequence[str] = (),
    compare: Callable[[Outcomes, Outcomes], Comparison] = compare,
) -> Decision:
    """Choose the strategy of one iteration.

    **Arguments:**
        iteration: Number of the iteration, from 1.
        start: Validation outcomes of the policy that the iteration starts from.
        teacher: Validation outcomes of its strong teacher.
        students: Iteration -> validation outcomes of its student, for earlier iterations. The last
            one is the start itself and never a candidate for S3.
        weak_available: Whether the recipe has an unlearned teacher.
        online_available: Whether the recipe has an online stage.
        before: Strategies of the iterations before this one.
        compare: The paired comparison of two policies' outcomes.
    **Returns:** The decision; its `evidence` holds every number behind it. The strategy is `stop`
        if nothing that is allowed applies.
    """
    gain = compare(teacher, start)
    evidence: dict[str, object] = {
        "start": avg_at_k(start).model_dump(mode="json"),
        "teacher": avg_at_k(teacher).model_dump(mode="json"),
        "teacher_minus_start": gain.difference,
        "standard_error": gain.standard_error,
        "z": config.z,
        "min_gain": config.min_gain,
        "before": list(before),
    }
    behind = {
        index: compare(teacher, outcomes)
        for index, outcomes in sorted(students.items())
        if index < iteration - 1
    }
    evidence["teacher_minus_student"] = {
        str(index): {"difference": gap.difference, "standard_error": gap.standard_error}
        for index, gap in behind.items()
    }

    if (strategy := config.fixed_for(iteration)) is not None:
        if strategy == "S3" and behind:
            evidence["student"] = max(behind, key=lambda i: behind[i].difference)
        others = {
            name: f"the recipe fixes {strategy}"
            for name in ("S1", "S2", "S3", "online")
            if name != strategy
        }
        return Decision(
            strategy=strategy, reason="fixed by the recipe", evidence=evidence, alternatives=others
        )

    measured = (
        f"teacher minus start is {gain.difference:+.3f} (standard error {gain.standard_error:.3f})"
    )
    not_taken: dict[str, str] = {}
    if "S1" not in config.allowed:
        not_taken["S1"] = "not allowed by the recipe"
    elif gain.beyond_noise(config.z, config.min_gain):
        reason = f"the teacher is better than its start beyond noise: {measured}"
        return Decision(
            strategy="S1", reason=reason, evidence=evidence, alternatives=_rest("S1", not_taken)
        )
    else:
        not_taken["S1"] = f"the teacher is not better than its start beyond noise: {measured}"

    clear = [
        index
        for index, comparison in behind.items()
        if comparison.beyond_noise(config.z, config.min_gain)
    ]
    if refused := _refused(config, "S3", before):
        not_taken["S3"] = refused
    elif clear:
        student = max(clear, key=lambda i: behind[i].difference)
        evidence["student"] = student
        reason = (
            f"the strong teacher has run out, and the student of iteration {student} is "
            f"clearly behind it"
        )
        return Decision(
            strategy="S3", reason=reason, evidence=evidence, alternatives=_rest("S3", not_taken)
        )
    else:
        not_taken["S3"] = (
            "no earlier student is clearly behind the teacher"
            if behind
            else "there is no student before the start"
        )

    fallbacks: tuple[tuple[Fallback, bool, str], ...] = (
        ("S2", weak_available, "weak_teacher"),
        ("online", online_available, "online"),
    )
    for name, available, section in fallbacks:
        if refused := _refused(config, name, before):
            not_taken[name] = refused
        elif not available:
            not_taken[name] = f"the recipe has no {section}"
        else:
            reason = "; ".join(
                [
                    "the strong teacher has run out",
                    *(f"{other}: {why}" for other, why in not_taken.items() if other != "S1"),
                ]
            )
            return Decision(
                strategy=name, reason=reason, evidence=evidence, alternatives=_rest(name, not_taken)
            )
    reason = "no strategy is left: " + "; ".join(not_taken.values())
    return Decision(strategy="stop", reason=reason, evidence=evidence, alternatives=not_taken)


def _refused(config: DecisionConfig, name: Fallback, before: Sequence[str]) -> str | None:
    """Why the recipe rules out this fallback now; None if it does not."""
    if name not in config.allowed:
        return "not allowed by the recipe"
    helped = max(
        (
            place
            for place, strategy in enumerate(before, 1)
            if strategy in ("S1", "online") and strategy != name
        ),
        default=0,
    )
    taken = sum(strategy == name for strategy in before[helped:])
    if taken >= config.at_most.get(name, taken + 1):
        return (
            f"taken {taken} time{'s' if taken > 1 else ''} already since a teacher or an "
            f"online stage last helped"
        )
    return None


def _rest(taken: str, not_taken: Mapping[str, str]) -> dict[str, str]:
    """Every strategy but the one taken -> why it was not taken."""
    return {
        name: not_taken.get(name, f"{taken} applies")
        for name in ("S1", "S2", "S3", "online")
        if name != taken
    }
