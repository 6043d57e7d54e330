"""After a teacher: which signal next (Sec. 4.4, Fig. 3), decided from validation scores and their uncertainty.

Strategy 1 while the teacher is better than its start beyond noise; else 3 when an earlier student is clearly behind the teacher; else 2.
The evidence is returned with the decision, and so is why every other strategy was not taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from erpd_core.config import DecisionConfig
from erpd_core.refs import Decision
from erpd_core.scoring import Outcomes, avg_at_k, compare


def decide(
    config: DecisionConfig,
    iteration: int,
    start: Outcomes,
    teacher: Outcomes,
    students: Mapping[int, Outcomes],
    weak_available: bool,
) -> Decision:
    """Choose the strategy of one iteration.

    **Arguments:** validation outcomes of the iteration's start, of its strong teacher, and of the students of earlier iterations (keyed
    by iteration; the last one is the start itself and never a candidate); `weak_available`: may an unlearned teacher be trained.
    **Returns:** the decision; `evidence` holds every number it rests on. `strategy: stop` when nothing allowed applies.
    """
    gain = compare(teacher, start)
    evidence: dict[str, object] = {
        "start": avg_at_k(start).model_dump(mode="json"),
        "teacher": avg_at_k(teacher).model_dump(mode="json"),
        "teacher_minus_start": gain.difference,
        "standard_error": gain.standard_error,
        "z": config.z,
        "min_gain": config.min_gain,
    }
    behind = {index: compare(teacher, outcomes) for index, outcomes in sorted(students.items()) if index < iteration - 1}
    evidence["teacher_minus_student"] = {
        str(index): {"difference": gap.difference, "standard_error": gap.standard_error} for index, gap in behind.items()
    }

    if config.mode == "fixed":
        strategy = config.fixed_for(iteration)
        if strategy == "S3" and behind:
            evidence["student"] = max(behind, key=lambda i: behind[i].difference)
        others = {name: f"the recipe fixes {strategy}" for name in ("S1", "S2", "S3") if name != strategy}
        return Decision(strategy=strategy, reason="fixed by the recipe", evidence=evidence, alternatives=others)

    says = f"teacher minus start is {gain.difference:+.3f} (standard error {gain.standard_error:.3f})"
    not_taken: dict[str, str] = {}
    if "S1" not in config.allowed:
        not_taken["S1"] = "not allowed by the recipe"
    elif gain.beyond_noise(config.z, config.min_gain):
        reason = f"the teacher is better than its start beyond noise: {says}"
        return Decision(strategy="S1", reason=reason, evidence=evidence, alternatives={"S2": "S1 applies", "S3": "S1 applies"})
    else:
        not_taken["S1"] = f"the teacher is not better than its start beyond noise: {says}"

    clear = [index for index, comparison in behind.items() if comparison.beyond_noise(config.z, config.min_gain)]
    if "S3" not in config.allowed:
        not_taken["S3"] = "not allowed by the recipe"
    elif clear:
        student = max(clear, key=lambda i: behind[i].difference)
        evidence["student"] = student
        reason = f"the strong teacher has run out, and the student of iteration {student} is clearly behind it"
        return Decision(strategy="S3", reason=reason, evidence=evidence, alternatives=not_taken | {"S2": "S3 applies"})
    else:
        not_taken["S3"] = "no earlier student is clearly behind the teacher" if behind else "there is no student before the start"

    if "S2" in config.allowed and weak_available:
        reason = "the strong teacher has run out and no earlier student is clearly behind it"
        return Decision(strategy="S2", reason=reason, evidence=evidence, alternatives=not_taken)
    not_taken["S2"] = "not allowed by the recipe" if "S2" not in config.allowed else "the recipe has no weak_teacher"
    reason = "no strategy is left: " + "; ".join(not_taken.values())
    return Decision(strategy="stop", reason=reason, evidence=evidence, alternatives=not_taken)
