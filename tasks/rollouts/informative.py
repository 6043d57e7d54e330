"""The stage that samples a batch until it has enough groups with both outcomes.

This is the dynamic sampling of DAPO (arXiv 2503.14476), for a fixed batch: where every response to
a prompt is right, or every one is wrong, group-normalized advantages are all 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from erpd_core.faults import Fault
from erpd_core.refs import Refill, RolloutRef
from tasks.execution.stage import Context
from tasks.rollouts.sample import SampleRollouts
from tasks.rollouts.shard import Shard
from tasks.store import Build

DRAWN = "drawn-"
"""Prefix of the files with everything that was sampled, as long as the stage runs."""


class SampleInformative(SampleRollouts):
    """Sample shards of prompts until `informative` groups have both right and wrong responses.

    The batch holds the first such groups in the order of the prompts, however many samplers there
    are. If all prompts together have fewer, it holds those.
    """

    PREFIX: ClassVar[str] = DRAWN

    informative: int

    def spec(self) -> dict[str, Any]:
        return super().spec() | {"informative": self.informative}

    def compute(self, context: Context, build: Build) -> RolloutRef:
        """Sample, and keep the informative groups.

        **Raises:** Fault if no group has both right and wrong responses.
        """
        kinds: Counter[str] = Counter()
        drawn, kept = self._shards(context, build), []
        for shard in self._sampled(context, build, drawn):
            table = pq.read_table(build.folder / shard.path.name)
            kind_of = _kinds(table)
            mixed = [problem for problem, kind in kind_of.items() if kind == "mixed"]
            if chosen := mixed[: self.informative - kinds["mixed"]]:
                name = shard.path.name.removeprefix(DRAWN)
                rows = table.filter(pc.is_in(table["problem"], pa.array(chosen)))
                build.put(name, partial(pq.write_table, rows, compression="zstd"))
                kept.append(name)
            kinds.update(kind_of.values())
            if kinds["mixed"] >= self.informative:
                break
        if not kept:
            raise Fault(
                f"none of {kinds.total()} groups has both right and wrong responses",
                "take other prompts, or sample at a higher temperature",
                build.id,
            )
        ref = self._ref(build, kept, self._refill(kinds))
        for shard in drawn:
            build.drop(shard.path.name)
            shard.journal.unlink(missing_ok=True)
        return ref

    def _sampled(self, context: Context, build: Build, shards: Sequence[Shard]) -> Iterator[Shard]:
        """The shards, sampled as they are asked for: one for each sampler at a time."""
        size = context.runtime.samplers if context.runtime.samples_on_actors else 1
        for start in range(0, len(shards), size):
            wave = shards[start : start + size]
            self._complete(context, build, wave)
            yield from wave

    def _fewer(self, context: Context) -> None:
        """A stored batch has too few groups to be a part of another one."""

    def _refill(self, kinds: Counter[str]) -> Refill:
        return Refill(
            wanted=self.informative,
            sampled=kinds.total(),
            all_right=kinds["right"],
            all_wrong=kinds["wrong"],
            surplus=max(0, kinds["mixed"] - self.informative),
        )


def _kinds(table: pa.Table) -> dict[str, str]:
    """Problem -> `right`, `wrong` or `mixed`, in the order of the rows.

    Responses without a token do not count: training leaves them out.
    """
    outcomes: dict[str, set[bool]] = {}
    for problem, reward, length in zip(
        table["problem"].to_pylist(),
        table["reward"].to_pylist(),
        pc.list_value_length(table["response_tokens"]).to_pylist(),
        strict=True,
    ):
        seen = outcomes.setdefault(problem, set())
        if length:
            seen.add(reward > 0.5)
    return {
        problem: "mixed" if len(seen) == 2 else "right" if True in seen else "wrong"
        for problem, seen in outcomes.items()
    }
