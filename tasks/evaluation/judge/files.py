"""`erpd judge IN.jsonl OUT.jsonl`: rows with a problem, a gold answer and a prediction in, the
same rows with verdicts out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erpd_core.config.judge import JudgeConfig
from tasks.evaluation.judge.client import key_of
from tasks.evaluation.judge.judge import OUTCOMES, JudgeItem, judge_answers
from tasks.grading.files import grade_rows, read_rows, write_rows
from tasks.untrusted.output_files import check_output


def read_judge_rows(source: Path) -> list[dict[str, Any]]:
    """All rows of `source`, checked. Raises ValueError naming the file, the row and the remedy."""
    rows = read_rows(source)
    for number, row in enumerate(rows, start=1):
        if "problem" not in row or not isinstance(row["problem"], str | None):
            raise ValueError(
                f'{source}, row {number}: "problem" must be there, as a string (or null if it is '
                f"not known)"
            )
    return rows


def judge_file(
    source: Path,
    target: Path,
    config: JudgeConfig,
    cache: Path | None = None,
    workers: int | None = None,
    deadline: float = 5.0,
) -> dict[str, Any]:
    """Grade a JSON-lines file by rules, then have the rest judged. Rows keep their order and their
    other keys; "problem" may be null.

    Each row gets `"verdict"`, `"rules"` (the verdict before the judge) and `"judge"` (what the
    judge said; null where it was not asked).
    **Returns:** counts by what the judge said, how many rows are correct by rules and with the
    judge, and what it cost.
    """
    rows = read_judge_rows(source)
    check_output(target)
    key_of(config)
    rules = grade_rows(rows, "auto", workers, deadline)
    asked = [index for index, verdict in enumerate(rules) if verdict != "correct"]
    report = judge_answers([_item(rows[index]) for index in asked], config, cache)
    said = dict(zip(asked, report.outcomes, strict=True))
    judged = []
    for index, (row, verdict) in enumerate(zip(rows, rules, strict=True)):
        outcome = said.get(index)
        judged.append(
            row
            | {
                "verdict": "correct" if outcome == "same" else verdict,
                "rules": verdict,
                "judge": outcome,
            }
        )
    write_rows(target, judged)
    return {
        "rows": len(rows),
        "correct_by_rules": rules.count("correct"),
        "correct": sum(row["verdict"] == "correct" for row in judged),
        **{outcome: report.outcomes.count(outcome) for outcome in OUTCOMES},
        "calls": report.calls,
        "tokens": report.tokens,
        "spent": report.spent,
    }


def _item(row: dict[str, Any]) -> JudgeItem:
    return JudgeItem(row["problem"] or "(not given)", row["gold"], row["prediction"])
