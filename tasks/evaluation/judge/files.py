"""`erpd judge IN.jsonl OUT.jsonl`: adds verdicts to rows with problem, gold and prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erpd_core.config.judge import JudgeConfig
from tasks.evaluation.judge.client import key_of
from tasks.evaluation.judge.judge import OUTCOMES, JudgeItem, judge_answers
from tasks.grading.files import grade_rows, read_rows, write_rows
from tasks.untrusted.output_files import check_output


def read_judge_rows(source: Path) -> list[dict[str, Any]]:
    """All rows of `source`, checked. Raises ValueError with the file, the row and the remedy."""
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
    """Grade a JSON-lines file by rules, and have the judge decide on rows that are not correct.

    Rows keep their order and their other keys; "problem" may be null. Each row gets `"verdict"`,
    `"rules"` (the verdict before the judge) and `"judge"` (the judge's outcome; null if it was not
    asked).

    **Returns:** The number of rows for each outcome of the judge, the number of correct rows by
        rules and with the judge, and what the judge cost.
    """
    rows = read_judge_rows(source)
    check_output(target)
    key_of(config)
    rules = grade_rows(rows, "auto", workers, deadline)
    asked = [index for index, verdict in enumerate(rules) if verdict != "correct"]
    report = judge_answers([_item(rows[index]) for index in asked], config, cache)
    outcomes = dict(zip(asked, report.outcomes, strict=True))
    judged = []
    for index, (row, verdict) in enumerate(zip(rows, rules, strict=True)):
        outcome = outcomes.get(index)
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
