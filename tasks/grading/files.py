"""Grades JSON-lines files of gold answers and predictions (`erpd grade IN.jsonl OUT.jsonl`).

The output file has the same rows with a verdict added.
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
_SURROGATE = re.compile("[\ud800-\udfff]")
VERDICTS: tuple[Verdict, ...] = ("correct", "wrong", "unparsable", "timeout")


def read_rows(source: Path) -> list[dict[str, Any]]:
    """Read and check all rows of `source`.

    **Raises:** ValueError with the file, the line and the remedy.
    """
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
    """Grade a JSON-lines file and add a `"verdict"` to each row.

    Rows keep their order and their other keys. A row with a blank gold is `unparsable`.

    **Arguments:**
        source: Rows with `"gold"` and `"prediction"`.
        target: Output file, written atomically; may be `source`.
        extractor: A name in `EXTRACTORS` or `MODES`.
        workers: Maximum number of processes (see `Grader`).
        deadline: Wall-clock seconds per row.
    **Returns:** The number of rows with each verdict.
    **Raises:** ValueError for an invalid row.
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
    """Grade checked rows and return their verdicts in order; a blank gold is `unparsable`."""
    gradable = [index for index, row in enumerate(rows) if row["gold"].strip()]
    verdicts: list[Verdict] = ["unparsable"] * len(rows)
    with Grader(workers=workers, deadline=deadline) as grader:
        graded = grader.grade_many(
            [(rows[index]["gold"], rows[index]["prediction"]) for index in gradable], extractor
        )
    for index, verdict in zip(gradable, graded, strict=True):
        verdicts[index] = verdict
    return verdicts


def write_rows(target: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON lines atomically.

    A row with a lone surrogate, which UTF-8 cannot encode, is written with escapes.
    """
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            for row in rows:
                text = json.dumps(row, ensure_ascii=False)
                out.write((json.dumps(row) if _SURROGATE.search(text) else text) + "\n")
            out.flush()
            os.fsync(out.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp creates files readable only by their owner
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
