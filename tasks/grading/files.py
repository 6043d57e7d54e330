"""`erpd grade IN.jsonl OUT.jsonl`: rows with a gold answer and a prediction in, the same rows
with a verdict out.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from erpd_core.refs import Verdict
from tasks.grading.workers import Grader
from tasks.untrusted.input_files import parse_json, short, text_lines
from tasks.untrusted.output_files import check_output

NEEDED = ("gold", "prediction")
_HALF = re.compile("[\ud800-\udfff]")
VERDICTS: tuple[Verdict, ...] = ("correct", "wrong", "unparsable", "timeout")


def read_rows(source: Path) -> list[dict[str, Any]]:
    """All rows of `source`, checked. Raises ValueError naming the file, the line and the remedy."""
    return [_row(line, where) for where, line in text_lines(source)]


def _row(line: str, where: str) -> dict[str, Any]:
    row = parse_json(line, where)
    if not isinstance(row, dict):
        raise ValueError(
            f'{where}: a {type(row).__name__}, not an object; write {{"gold": "...", '
            f'"prediction": "..."}}'
        )
    for name in NEEDED:
        if name not in row:
            raise ValueError(f'{where}: no key "{name}"; every row needs "gold" and "prediction"')
        if not isinstance(row[name], str):
            raise ValueError(
                f'{where}: "{name}" is {short(json.dumps(row[name]), 40)}, not a string; put it '
                f"in quotes"
            )
    return row


def grade_file(
    source: Path,
    target: Path,
    extractor: str = "auto",
    workers: int | None = None,
    deadline: float = 5.0,
) -> dict[str, int]:
    """Grade a JSON-lines file. Rows keep their order and their other keys, and get `"verdict"`.

    `target` appears whole or not at all, and may be `source`. A row whose gold is blank has nothing
    to be graded against: `unparsable`.
    **Returns:** how many rows got each verdict.
    """
    rows = read_rows(source)
    check_output(target)
    verdicts = grade_rows(rows, extractor, workers, deadline)
    write_rows(
        target, [row | {"verdict": verdict} for row, verdict in zip(rows, verdicts, strict=True)]
    )
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}


def grade_rows(
    rows: list[dict[str, Any]], extractor: str, workers: int | None, deadline: float
) -> list[Verdict]:
    """Verdicts of checked rows, in their order; a blank gold is `unparsable`."""
    gradable = [index for index, row in enumerate(rows) if row["gold"].strip()]
    verdicts: list[Verdict] = ["unparsable"] * len(rows)
    with Grader(workers=workers, deadline=deadline) as grader:
        found = grader.grade_many(
            [(rows[index]["gold"], rows[index]["prediction"]) for index in gradable], extractor
        )
    for index, verdict in zip(gradable, found, strict=True):
        verdicts[index] = verdict
    return verdicts


def write_rows(target: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON lines; `target` appears whole or not at all. A row with half a character (a lone
    surrogate), which UTF-8 has no bytes for, is written with escapes.
    """
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            for row in rows:
                text = json.dumps(row, ensure_ascii=False)
                out.write((json.dumps(row) if _HALF.search(text) else text) + "\n")
            out.flush()
            os.fsync(out.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only their owner can read
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
