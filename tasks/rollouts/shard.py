"""A shard of a rollout: the unit that is sampled as one batch and stored as one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from erpd_core.config import SamplingConfig
from erpd_core.refs import Problem
from tasks.engines import Sample
from tasks.rollouts.rows import SampleIndex


def shard_name(index: int) -> str:
    return f"shard-{index:05d}.parquet"


@dataclass(frozen=True)
class Shard:
    """Problems that are sampled as one batch and stored as one file."""

    path: Path
    """Where the stage builds the file."""
    problems: tuple[Problem, ...]
    policy: Path
    """Folder of the policy that is sampled."""
    sampling: SamplingConfig
    seed: int
    fewer: Path | None = None
    """A stored shard of the same problems and policy with fewer samples. These are this shard's
    first samples.
    """

    def __str__(self) -> str:
        return self.path.stem

    @property
    def journal(self) -> Path:
        return self.path.with_suffix(".journal")

    @property
    def known(self) -> int:
        """Number of responses in `fewer`."""
        return int(pq.read_metadata(self.fewer).num_rows) if self.fewer else 0

    def stored(self) -> dict[SampleIndex, Sample]:
        """The responses in `fewer`."""
        if self.fewer is None:
            return {}
        table = pq.read_table(
            self.fewer, columns=["problem", "sample", "response_tokens", "truncated"]
        )
        row = {problem.id: number for number, problem in enumerate(self.problems)}
        return {
            (row[entry["problem"]], entry["sample"]): Sample(
                entry["response_tokens"], entry["truncated"]
            )
            for entry in table.to_pylist()
        }
