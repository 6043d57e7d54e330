"""A shard: what is sampled as one batch, and durable at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from erpd_core.refs import Problem
from tasks.engines import Sample
from tasks.rollouts.rows import SampleIndex


def shard_name(index: int) -> str:
    return f"shard-{index:05d}.parquet"


@dataclass(frozen=True)
class Shard:
    """Problems that are sampled as one batch and become durable as one file."""

    path: Path
    problems: tuple[Problem, ...]
    fewer: Path | None = None
    """The same problems, stored with fewer samples each of the same policy: the first samples
    are these.
    """

    def __str__(self) -> str:
        return self.path.stem

    @property
    def journal(self) -> Path:
        return self.path.with_suffix(".journal")

    @property
    def known(self) -> int:
        """How many responses `fewer` holds."""
        return int(pq.read_metadata(self.fewer).num_rows) if self.fewer else 0

    def stored(self) -> dict[SampleIndex, Sample]:
        """What `fewer` holds."""
        if self.fewer is None:
            return {}
        table = pq.read_table(
            self.fewer, columns=["problem", "sample", "response_tokens", "truncated"]
        )
        row = {problem.id: number for number, problem in enumerate(self.problems)}
        return {
            (row[one["problem"]], one["sample"]): Sample(one["response_tokens"], one["truncated"])
            for one in table.to_pylist()
        }
