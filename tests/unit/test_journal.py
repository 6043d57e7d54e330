"""Interrupted sampling resumes at the next sample, and more samples reuse the stored fewer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers import World, context, flip_a_bit
from pydantic import ValidationError

from erpd_core.config import RuntimeConfig, SamplingConfig
from erpd_core.refs import RolloutRef
from tasks.engines import Sample
from tasks.execution.resource_requests import ResourceRequest, sampler_request, scorer_request
from tasks.execution.stage import get_or_compute
from tasks.execution.submit import request_for
from tasks.rollouts import SampleRollouts
from tasks.rollouts.journal import Journal, Tail
from tasks.rollouts.rows import SampleIndex
from tasks.rollouts.score import ScoreRollouts
from tasks.store import Store

SAMPLES: dict[SampleIndex, Sample] = {
    (row, number): Sample([row, number, 7] * (row + 1), row == 2)
    for row in range(3)
    for number in range(2)
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Journal(tmp_path / "a.journal", redo=0) as journal:
        for place, sample in SAMPLES.items():
            journal.write(place, sample)
    return tmp_path / "a.journal"


def read_journal(path: Path, redo: float = 0) -> dict[SampleIndex, Sample]:
    with Journal(path, redo) as journal:
        return journal.found


def first(count: int) -> dict[SampleIndex, Sample]:
    return dict(list(SAMPLES.items())[:count])


# -------------------------------------------------------------------------------------- the journal


def test_what_was_written_is_found(path: Path):
    assert read_journal(path) == SAMPLES
    assert read_journal(path.with_name("none.journal")) == {}


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_not_believed_and_what_is_written_next_is(path: Path, cut: int):
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path, redo=0) as journal:
        assert journal.found == first(5)
        journal.write((2, 1), SAMPLES[2, 1])
    assert read_journal(path) == SAMPLES


def test_a_damaged_line_ends_what_is_believed(path: Path):
    lines = path.read_bytes().splitlines(keepends=True)
    flip_a_bit(path, (len(b"".join(lines[:3])) + 12) / path.stat().st_size)
    assert read_journal(path) == first(3)


def test_a_cheap_attempt_is_forgotten(path: Path):
    assert read_journal(path, redo=60) == {}
    assert path.stat().st_size == 0


def test_time_adds_up_over_attempts(tmp_path: Path):
    """Three attempts of 0.05 s; each alone would count as cheap."""
    import time

    for place, sample in list(SAMPLES.items())[:3]:
        with Journal(tmp_path / "a", redo=0) as journal:
            time.sleep(0.05)
            journal.write(place, sample)
    assert read_journal(tmp_path / "a", redo=0.15) == first(3)


def test_a_tail_counts_what_another_writes(tmp_path: Path):
    tail = Tail(tmp_path / "a")
    assert tail.read().responses == 0
    with Journal(tmp_path / "a", redo=0) as journal:
        journal.write((2, 0), SAMPLES[2, 0])
        assert (tail.read().responses, tail.tokens) == (1, 9)
        journal.write((0, 0), SAMPLES[0, 0])
        assert (tail.read().responses, tail.tokens) == (2, 12)
    with Journal(tmp_path / "a", redo=60) as journal:
        assert (tail.read().responses, tail.tokens) == (0, 0), "the journal was restarted"


# ----------------------------------------------------------------------------------------- resuming


def stage(world: World, samples: int = 8) -> SampleRollouts:
    sampling = SamplingConfig(samples=samples, temperature=1.0, max_new_tokens=24, shard=24)
    return SampleRollouts(policy=world.base, problems=world.problems, sampling=sampling, seed=7)


@pytest.fixture
def store(world: World, tmp_path: Path) -> Store:
    shutil.copytree(world.store.root, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[SampleIndex]:
    """The places of all sampled responses, in order.

    A first entry `(-1, n)` interrupts the work after the n-th response, as Ctrl-C would.
    """
    places: list[SampleIndex] = []
    write = Journal.write

    def count(self: Journal, place: SampleIndex, sample: Sample) -> None:
        write(self, place, sample)
        places.append(place)
        if places[0] == (-1, len(places) - 1):
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "write", count)
    return places


def rows(store: Store, ref: RolloutRef) -> list[dict]:
    return [
        row
        for path in sorted(store.path(ref.id).glob("shard-*"))
        for row in pq.read_table(path).to_pylist()
    ]


def cut_off(store: Store, stage: SampleRollouts, written: list[SampleIndex], after: int) -> None:
    store.discard(stage.identity())
    written.append((-1, after))
    with pytest.raises(KeyboardInterrupt):
        get_or_compute(stage, context(store))
    assert len(written) == 1 + after
    written.clear()


def test_a_shard_that_was_cut_off_goes_on_with_its_unfinished_samples(
    world: World, store: Store, written: list[SampleIndex]
):
    """Interrupted in the second shard of three.

    The rest has another batch shape, so up to one draw in a hundred may differ.
    """
    cut_off(store, stage(world), written, after=24 * 8 + 100)
    ref = get_or_compute(stage(world), context(store, redo_seconds=0))
    assert len(written) == 64 * 8 - 24 * 8 - 100, "no response is sampled twice"
    ours, theirs = rows(store, ref), rows(world.store, world.rollouts)
    differing = [a["problem"] for a, b in zip(ours, theirs, strict=True) if a != b]
    assert len(differing) <= len(theirs) // 100
    assert list(store.path(ref.id).glob("*.journal")) == []


def test_a_shard_that_was_cheap_is_sampled_again_to_the_same_bytes(
    world: World, store: Store, written: list[SampleIndex]
):
    cut_off(store, stage(world), written, after=24 * 8 + 100)
    ref = get_or_compute(stage(world), context(store))
    assert len(written) == 40 * 8, "the interrupted shard and the next one"
    assert store.manifest(ref.id).files == world.store.manifest(world.rollouts.id).files


def test_progress_goes_on_from_where_it_was(
    world: World, store: Store, written: list[SampleIndex], tmp_path: Path
):
    from tasks.execution.progress import follow

    cut_off(store, stage(world), written, after=24 * 8 + 100)
    get_or_compute(stage(world), context(store, tmp_path / "events.jsonl", redo_seconds=0))
    updates = [event for event in follow(tmp_path / "events.jsonl", 0)[0] if "done" in event]
    assert updates[0]["done"] == 24 * 8 + 100
    assert [event["done"] for event in updates] == sorted(event["done"] for event in updates)
    assert (updates[-1]["done"], updates[-1]["total"]) == (512, 512)
    assert any(event["info"].get("tokens/s", 0) > 0 for event in updates)


# ------------------------------------------------------------------------- fewer samples, then more


def test_more_samples_rest_on_the_fewer_that_are_stored(
    world: World, store: Store, written: list[SampleIndex]
):
    more = get_or_compute(stage(world, 12), context(store, redo_seconds=0))
    assert len(written) == 64 * 4 and {number for _, number in written} == {8, 9, 10, 11}
    ours = rows(store, more)
    stored = {(row["problem"], row["sample"]): row for row in rows(store, world.rollouts)}
    assert [row for row in ours if row["sample"] < 8] == list(stored.values())
    store.discard(more.id)
    store.discard(world.rollouts.id)
    written.clear()
    fresh = get_or_compute(stage(world, 12), context(store, redo_seconds=0))
    assert len(written) == 64 * 12 and fresh.id == more.id
    differing = [a["problem"] for a, b in zip(ours, rows(store, fresh), strict=True) if a != b]
    assert len(differing) <= 64 * 12 // 100


def test_what_was_cheap_is_not_rested_on(world: World, store: Store, written: list[SampleIndex]):
    get_or_compute(stage(world, 12), context(store))
    assert len(written) == 64 * 12


# ---------------------------------------------------------------------------------- requests to Ray


def test_a_stage_that_waits_for_samplers_asks_nothing_they_need(world: World):
    score = ScoreRollouts(policy=world.base, rollouts=world.rollouts)
    alone, with_samplers = RuntimeConfig(cpus=8, gpus=2), RuntimeConfig(cpus=8, gpus=2, samplers=4)
    assert (
        request_for(stage(world), alone)
        == request_for(score, alone)
        == request_for(score, with_samplers)
        == ResourceRequest(8, 2)
    )
    assert request_for(stage(world), with_samplers) == ResourceRequest(0, 0)
    assert request_for(
        stage(world), RuntimeConfig(cpus=8, ray="off", samplers=4)
    ) == ResourceRequest(8, 0)
    with_scorers = RuntimeConfig(cpus=8, gpus=2, scorers=4)
    assert (
        request_for(score, with_scorers),
        scorer_request(with_scorers),
        request_for(stage(world), with_scorers),
    ) == (
        ResourceRequest(0, 0),
        ResourceRequest(2, 1),
        ResourceRequest(8, 2),
    )


@pytest.mark.parametrize(
    ("runtime", "share"),
    [
        ({"cpus": 8, "gpus": 2, "samplers": 4}, ResourceRequest(2, 0.5)),
        ({"cpus": 2, "samplers": 4}, ResourceRequest(1, 0)),
        ({"cpus": 8, "gpus": 1, "samplers": 3}, ResourceRequest(2, 0.3333)),
        ({"cpus": 8, "gpus": 7, "samplers": 2}, ResourceRequest(4, 3)),
        (
            {"cpus": 8, "gpus": 1, "samplers": 8, "sampler_cpus": 4, "sampler_gpus": 1},
            ResourceRequest(4, 1),
        ),
    ],
)
def test_a_samplers_share(runtime: dict, share: ResourceRequest):
    assert sampler_request(RuntimeConfig(**runtime)) == share


def test_one_gpu_and_a_half_cannot_be_asked():
    with pytest.raises(ValidationError, match="sampler_gpus"):
        RuntimeConfig(sampler_gpus=1.5)
