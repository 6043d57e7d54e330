"""The table of single problems: written to a file, and printed in short."""

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
"""Problems of a benchmark that are printed."""
BESIDE = ("samples", "solved", "length", "truncated", "unanswered", "answer", "votes")
"""What is said of the other model too, as `against_solved` and so on."""


def check_path(path: Path) -> None:
    """Raises ValueError for a file that the table cannot be written to."""
    if path.suffix not in (".jsonl", ".parquet"):
        raise ValueError(
            f"--per-problem {path}: the table is written as .jsonl or .parquet; give such a file"
        )
    check_output(path, "--per-problem")


def join(
    model: Sequence[ProblemResult], against: Sequence[ProblemResult] | None
) -> list[ProblemRow]:
    """A row for every problem, in the order of the benchmarks; with the other model's columns
    beside, when there is one.
    """
    rows = [one.model_dump(mode="json") for one in model]
    if against is not None:
        others = {(one.benchmark, one.problem): one.model_dump(mode="json") for one in against}
        for row in rows:
            other = others[row["benchmark"], row["problem"]]
            row |= {f"against_{name}": other[name] for name in BESIDE}
            row["difference"] = row["solved"] / row["samples"] - other["solved"] / other["samples"]
    return rows


def write_table(rows: Sequence[ProblemRow], path: Path) -> None:
    """JSON lines, or Parquet when the file is called so; there whole or not at all."""
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
    """The problems that say most: where two models differ most, or those solved least often."""
    if rows and "difference" in rows[0]:
        differing = [row for row in rows if row["difference"]]
        return sorted(differing, key=lambda row: -abs(row["difference"]))[:SHOWN]
    return sorted(rows, key=lambda row: row["solved"] / row["samples"])[:SHOWN]


def counts(rows: Sequence[ProblemRow]) -> Mapping[str, int]:
    """How many problems were solved never, sometimes and always."""
    never = sum(row["solved"] == 0 for row in rows)
    always = sum(row["solved"] == row["samples"] for row in rows)
    return {"never": never, "sometimes": len(rows) - never - always, "always": always}
