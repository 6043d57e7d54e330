"""The table of problems of an evaluation: written to a file, and summarized on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erpd_core.evaluation_details import ProblemResult
from tasks.host.atomic_files import write_atomically
from tasks.untrusted.output_files import check_output

ProblemRow = dict[str, Any]
SHOWN = 10
"""Number of problems printed per benchmark."""
AGAINST = ("samples", "solved", "length", "truncated", "unanswered", "answer", "votes")
"""Columns that the other model has too, as `against_solved` and so on."""


def check_path(path: Path) -> None:
    """Check that the table can be written to a file. Raises ValueError if not."""
    if path.suffix not in (".jsonl", ".parquet"):
        raise ValueError(
            f"--per-problem {path}: the table is written as .jsonl or .parquet; give such a file"
        )
    check_output(path, "--per-problem")


def join(
    model: Sequence[ProblemResult], against: Sequence[ProblemResult] | None
) -> list[ProblemRow]:
    """A row for every problem, in the order of the benchmarks.

    If there is another model, a row has its columns too, and the difference of the two scores.
    """
    rows = [result.model_dump(mode="json") for result in model]
    if against is not None:
        others = {
            (result.benchmark, result.problem): result.model_dump(mode="json") for result in against
        }
        for row in rows:
            other = others[row["benchmark"], row["problem"]]
            row |= {f"against_{name}": other[name] for name in AGAINST}
            row["difference"] = row["solved"] / row["samples"] - other["solved"] / other["samples"]
    return rows


def write_table(rows: Sequence[ProblemRow], path: Path) -> None:
    """Write the table atomically, as Parquet if the file's suffix says so, else as JSON lines."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        write_atomically(
            path, lambda target: pq.write_table(pa.Table.from_pylist(list(rows)), target)
        )
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))


def worth_showing(rows: Sequence[ProblemRow]) -> list[ProblemRow]:
    """The problems to print: where two models differ most, or those solved least often."""
    if rows and "difference" in rows[0]:
        differing = [row for row in rows if row["difference"]]
        return sorted(differing, key=lambda row: -abs(row["difference"]))[:SHOWN]
    return sorted(rows, key=lambda row: row["solved"] / row["samples"])[:SHOWN]


def counts(rows: Sequence[ProblemRow]) -> Mapping[str, int]:
    """Numbers of problems that were never, sometimes and always solved."""
    never = sum(row["solved"] == 0 for row in rows)
    always = sum(row["solved"] == row["samples"] for row in rows)
    return {"never": never, "sometimes": len(rows) - never - always, "always": always}
