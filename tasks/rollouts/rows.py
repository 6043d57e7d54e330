"""Samples responses to problems and verifies them: problems -> sampled rows -> verified rows."""

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
"""Sampled rows: one per response, ordered by problem and sample.

Gold answers are not repeated here: that of a program is its unit tests, which may be megabytes.
"""

SCHEMA = pa.schema(
    [
        *list(SAMPLED)[:-1],
        ("verdict", pa.string()),
        ("reward", pa.float32()),
        SAMPLED.field("truncated"),
    ]
)
"""Verified rows, as a shard holds them."""

SampleIndex = tuple[int, int]
"""Index of a response in a shard: (index of the problem, index of the sample)."""

OnSample = Callable[[SampleIndex, Sample], None]
"""Receives each response as soon as it is finished."""


def sample_and_grade(
    problems: Sequence[Problem],
    engine: Engine,
    grader: AnyGrader,
    sampling: SamplingConfig,
    seed: int,
    extractor: str,
    tick: Callable[[int], None],
) -> pa.Table:
    """`sampling.samples` verified responses to each problem: rows of `SCHEMA`.

    `tick` receives the number of finished responses.
    """
    ready = count(1)
    rows = sample_rows(
        problems, engine, sampling, seed, {}, lambda index, sample: tick(next(ready))
    )
    return grade_rows(rows, problems, grader, extractor)


def sample_rows(
    problems: Sequence[Problem],
    engine: Engine,
    sampling: SamplingConfig,
    seed: int,
    known: Mapping[SampleIndex, Sample],
    on_sample: OnSample,
) -> pa.Table:
    """`sampling.samples` responses to each problem: rows of `SAMPLED`.

    Responses in `known` are reused; only the others are sampled. `on_sample` receives each of them
    as soon as it is finished. The schema's metadata names the engine.
    """
    prompts = [engine.encode(problem.prompt) for problem in problems]
    indices = [(row, number) for row in range(len(problems)) for number in range(sampling.samples)]
    missing = [index for index in indices if index not in known]
    samples = dict(known)
    if missing:
        seeds: dict[int, list[int]] = {}
        for row, number in missing:
            seeds.setdefault(row, []).append(seed_of(seed, problems[row].id, number))
        sampled = engine.sample(
            [prompts[row] for row in seeds],
            list(seeds.values()),
            sampling,
            lambda number, sample: on_sample(missing[number], sample),
        )
        samples.update(zip(missing, sampled, strict=True))
    return pa.table(
        {
            "problem": [problems[row].id for row, _ in indices],
            "sample": [number for _, number in indices],
            "prompt_tokens": [prompts[row] for row, _ in indices],
            "response_tokens": [samples[index].tokens for index in indices],
            "text": [engine.decode(samples[index].tokens) for index in indices],
            "truncated": [samples[index].truncated for index in indices],
        },
        schema=SAMPLED.with_metadata({"engine": engine.name}),
    )


def grade_rows(
    rows: pa.Table, problems: Sequence[Problem], grader: AnyGrader, extractor: str
) -> pa.Table:
    """Add verdicts and rewards to rows of `SAMPLED` for `problems`; returns rows of `SCHEMA`."""
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
    """The 64-bit seed of one response to one problem, whichever process samples it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{problem}/{sample}".encode()).digest()[:8], "big")
