"""A pool of problems from files or the hub, read in two passes.

The first pass reads what a draw needs to know, the second the answers of the drawn problems. The
unit tests of a code set are gigabytes, and a draw needs a thousand of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from erpd_core.refs import Problem
from tasks.datasets.files import rows_of
from tasks.datasets.readers import READERS, Pooled, SourceRow
from tasks.datasets.subset import draw, weight_of
from tasks.untrusted.input_files import short


@dataclass(frozen=True)
class Pool:
    """Every problem of a source, without its answer. The lists run parallel."""

    where: str
    source: Pooled
    files: Mapping[str, Path]
    ids: Sequence[str]
    texts: Sequence[str]
    """Problems as published, without the prompt's wording."""
    weights: Sequence[float]
    """Relative probability that each is drawn; 0 for never."""

    def drawn(
        self, seed: int, earlier: Sequence[int] = (), without: Collection[int] = ()
    ) -> list[int]:
        """Places (indices) of the problems drawn by `seed`, except those in `without`.

        **Arguments:**
            earlier: Seeds of earlier draws, whose problems are drawn last.
        **Raises:** ValueError if too few problems are left.
        """
        open_places = [
            place
            for place, weight in enumerate(self.weights)
            if weight > 0 and place not in without
        ]
        count = len(open_places) if self.source.count is None else self.source.count
        if count > len(open_places) or not open_places:
            left = (
                f", {len(open_places)} of them left by difficulty and overlap"
                if len(open_places) < len(self.ids)
                else ""
            )
            raise ValueError(
                f"{self.where}: {count or 'all'} problems asked for, it has "
                f"{len(self.ids)}{left}; lower count or widen difficulty"
            )
        if self.source.count is None:
            return open_places
        weights = (
            [self.weights[place] for place in open_places]
            if any(weight not in (0, 1) for weight in self.weights)
            else None
        )
        return sorted(
            open_places[place] for place in draw(len(open_places), count, seed, earlier, weights)
        )

    def problems(self, places: Sequence[int]) -> Iterator[Problem]:
        """The problems at these places, in pool order, with the prompt's wording.

        **Raises:** ValueError, with file and row, for an invalid gold answer.
        """
        wanted = set(places)
        reader = READERS[self.source.reader]
        for place, (where, row) in enumerate(rows_of(self.files)):
            if place not in wanted:
                continue
            try:
                answer = reader.answer(self.source, row)
            except ValueError as error:
                raise ValueError(f"{where}: {error}; fix that row or leave it out") from error
            yield Problem(
                id=self.ids[place],
                prompt=self.source.template.replace("{problem}", self.texts[place]),
                answer=answer,
            )


def read_pool(where: str, source: Pooled, files: Mapping[str, Path]) -> Pool:
    """Read every row of `files` into a pool.

    **Raises:** ValueError, with file and row, for a row that is malformed or lacks a column, and
        for an empty pool.
    """
    reader = READERS[source.reader]
    ids, texts, weights = [], [], []
    for number, (place, row) in enumerate(rows_of(files), 1):
        needed = (
            *reader.columns(source),
            *((source.difficulty.column,) if source.difficulty else ()),
        )
        if missing := [
            column for column in needed if row.get(column) is None or not str(row[column]).strip()
        ]:
            raise ValueError(
                f"{place}: no {' and no '.join(missing)}; columns are "
                f"{short(sorted(map(str, row)), 200)}"
            )
        ids.append(_id(reader.ids, row, number))
        try:
            texts.append(reader.text(source, row))
            weights.append(
                weight_of(row[source.difficulty.column], source.difficulty)
                if source.difficulty
                else 1.0
            )
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    if not ids:
        raise ValueError(f"{where}: no problems in it; give a file with at least one problem")
    if len(set(ids)) < len(ids):
        ids = [f"row-{number}" for number in range(1, len(ids) + 1)]
    return Pool(where, source, files, ids, texts, weights)


def _id(columns: Sequence[str], row: SourceRow, number: int) -> str:
    return next((str(row[column]) for column in columns if column in row), f"row-{number}")
