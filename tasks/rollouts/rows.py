"""Problems -> sampled rows -> verified rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import count

import pyarrow as pa

from erpd_core.config import SamplingConfig
from erpd_core.refs import Problem
from tasks.engines import Engine, Sample
from tasks.grading import AnyGrader

SAMPLED = pa.schema(
    [
        ("problem", pa.string()),
        ("sample", pa.int32()),
        ("prompt_tokens", pa.list_(pa.int32())),
        ("response_tokens", pa.list_(pa.int32())),
        ("text", pa.string()),
        ("truncated", pa.bool_()),
    ]
)
"""One row a response, problem after problem, sample after sample: what a sampler hands over.

Golds stay with the problems: those of a program are its unit tests, megabytes that no row should
repeat.
"""

SCHEMA = pa.schema(
    [
        *list(SAMPLED)[:-1],
        ("verdict", pa.string()),
        ("reward", pa.float32()),
        SAMPLED.field("truncated"),
    ]
)
"""Such rows with their verdicts: what a shard holds."""

SampleIndex = tuple[int, int]
"""Of a response in a shard: which problem, which of its samples."""

Tell = Callable[[SampleIndex, Sample], None]


def sample_and_grade(
    problems: Sequence[Problem],
    engine: Engine,
    grader: AnyGrader,
    sampling: SamplingConfig,
    seed: int,
    extractor: str,
    tick: Callable[[int], None],
) -> pa.Table:
    """`sampling.samples` verified responses to each problem: rows of `SCHEMA`. `tick(finished)`
    reports responses.
    """
    ready = count(1)
    rows = sample_rows(
        problems, engine, sampling, seed, {}, lambda place, sample: tick(next(ready))
    )
    return grade_rows(rows, problems, grader, extractor)


def sample_rows(
    problems: Sequence[Problem],
    engine: Engine,
    sampling: SamplingConfig,
    seed: int,
    known: Mapping[SampleIndex, Sample],
    tell: Tell,
) -> pa.Table:
    """`sampling.samples` responses to each problem: rows of `SAMPLED`.

    Those in `known` are taken over; only the rest is sampled, and each of these told as soon as it
    is whole. The schema's metadata says which engine it was.
    """
    prompts = [engine.encode(problem.prompt) for problem in problems]
    places = [(row, number) for row in range(len(problems)) for number in range(sampling.samples)]
    missing = [place for place in places if place not in known]
    samples = dict(known)
    if missing:
        seeds: dict[int, list[int]] = {}
        for row, number in missing:
            seeds.setdefault(row, []).append(seed_of(seed, problems[row].id, number))
        asked = [prompts[row] for row in seeds]
        found = engine.sample(
            asked,
            list(seeds.values()),
            sampling,
            lambda index, sample: tell(missing[index], sample),
        )
        samples.update(zip(missing, found, strict=True))
    return pa.table(
        {
            "problem": [problems[row].id for row, _ in places],
            "sample": [number for _, number in places],
            "prompt_tokens": [prompts[row] for row, _ in places],
            "response_tokens": [samples[place].tokens for place in places],
            "text": [engine.decode(samples[place].tokens) for place in places],
            "truncated": [samples[place].truncated for place in places],
        },
        schema=SAMPLED.with_metadata({"engine": engine.name}),
    )


def grade_rows(
    rows: pa.Table, problems: Sequence[Problem], grader: AnyGrader, extractor: str
) -> pa.Table:
    """Rows of `SAMPLED` about `problems`, with verdicts and rewards: rows of `SCHEMA`."""
    golds = {problem.id: problem.answer for problem in problems}
    pairs = [
        (golds[problem], text)
        for problem, text in zip(rows["problem"].to_pylist(), rows["text"].to_pylist(), strict=True)
    ]
    verdicts = grader.grade_many(pairs, extractor=extractor)
    columns = {name: rows[name] for name in rows.column_names}
    columns["verdict"] = pa.array(verdicts, pa.string())
    columns["reward"] = pa.array(
        [float(verdict == "correct") for verdict in verdicts], pa.float32()
    )
    return pa.table(
        {name: columns[name] for name in SCHEMA.names},
        schema=SCHEMA.with_metadata(rows.schema.metadata),
    )


def seed_of(seed: int, problem: str, sample: int) -> int:
    """A 64-bit seed that belongs to one response of one problem, whoever samples it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{problem}/{sample}".encode()).digest()[:8], "big")
