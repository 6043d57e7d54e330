"""Grades JSON-lines files of programs and test cases (`erpd grade-code IN.jsonl OUT.jsonl`).

The output file has the same rows with an outcome added.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from tasks.grading.code.cases import Tests, read_tests
from tasks.grading.code.grader import CodeGrader, CodeVerdict
from tasks.grading.files import write_rows
from tasks.untrusted.input_files import parse_json, short, text_lines
from tasks.untrusted.output_files import check_output


def read_code_rows(source: Path) -> list[tuple[dict[str, Any], Tests]]:
    """Read and check all rows of `source` and their test cases.

    **Raises:** ValueError with the file, the line and the remedy.
    """
    return [_row(line, where) for where, line in text_lines(source)]


def _row(line: str, where: str) -> tuple[dict[str, Any], Tests]:
    row = parse_json(line, where)
    if not isinstance(row, dict) or not {"code", "unit_tests"} <= row.keys():
        raise ValueError(
            f'{where}: every row needs "code" and "unit_tests"; write {{"code": "...", '
            f'"unit_tests": {{...}}}}'
        )
    if not isinstance(row["code"], str):
        raise ValueError(
            f'{where}: "code" is {short(json.dumps(row["code"]), 40)}, not a string; put it in '
            f"quotes"
        )
    try:
        return row, read_tests(row["unit_tests"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}; fix that row or leave it out") from error


def grade_code_file(source: Path, target: Path, grader: CodeGrader) -> dict[str, int]:
    """Grade a JSON-lines file of programs.

    Each row gets "verdict", "passed", "total" and "isolation". Rows keep their order and their
    other keys. `target` is written atomically and may be `source`.

    **Returns:** The number of rows with each verdict.
    **Raises:** ValueError for an invalid row; SandboxError if no program can be isolated.
    """
    rows = read_code_rows(source)
    check_output(target)
    outcomes = grader.run([(row["code"], tests) for row, tests in rows])
    write_rows(
        target, [row | asdict(outcome) for (row, _), outcome in zip(rows, outcomes, strict=True)]
    )
    return {
        verdict: sum(outcome.verdict == verdict for outcome in outcomes)
        for verdict in get_args(CodeVerdict)
    }
