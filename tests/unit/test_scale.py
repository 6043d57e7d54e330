"""The scaling benchmark measures what it claims, at a size that takes one second."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from benchmarks import _synthetic
from benchmarks._budget import Deadline, TimeUp
from benchmarks._curves import Batches, exponents, growing
from benchmarks._signal_path import measure
from benchmarks.scale import draw
from tasks.rollouts import load_batch
from tasks.rollouts.columns import stored_column
from tasks.store import Store


def test_a_made_up_batch_is_what_a_campaign_would_leave_and_every_token_of_it_is_read(
    tmp_path: Path,
):
    store = Store(tmp_path)
    of, columns = _synthetic.built(store, shards=3, length=40, columns=4)
    batch = load_batch(iter(_synthetic.files(store, of.id)))
    assert (
        (batch.sequences, batch.tokens)
        == (of.sequences, of.tokens)
        == (3 * _synthetic.SEQUENCES, 3 * _synthetic.SEQUENCES * 40)
    )
    assert len(batch.prompts) == 3 * _synthetic.PROMPTS and set(batch.length_S.tolist()) == {40}
    assert 0.3 < batch.reward_S.mean() < 0.7
    lp = [stored_column(_synthetic.files(store, column.id), "lp")[:] for column in columns]
    assert all(len(column_N) == batch.tokens for column_N in lp)
    assert 0 < (lp[1] - lp[0]).std() < (lp[3] - lp[0]).std(), (
        "policies must move further and further"
    )

    measured = measure(tmp_path, of.id, [column.id for column in columns])
    assert measured["tokens_read"] == measured["tokens"] == of.tokens
    assert measured["bytes"] >= 4 * 4 * of.tokens and measured["peak"] > 10_000_000
    assert all(seconds > 0 for seconds in measured["seconds"].values())


def test_a_larger_batch_has_the_shards_of_the_smaller_and_does_not_write_them_again(
    tmp_path: Path,
):
    store = Store(tmp_path)
    small = _synthetic.built(store, shards=2, length=10, columns=2)
    large = _synthetic.built(store, shards=3, length=10, columns=2, smaller=small)
    ids = [[of.id, *(column.id for column in columns)] for of, columns in (small, large)]
    for below, above in zip(*ids, strict=True):
        known, every = _synthetic.files(store, below), _synthetic.files(store, above)
        assert [path.stat().st_ino for path in known] == [path.stat().st_ino for path in every[:2]]
        assert store.has(above)
    alone = Store(tmp_path / "alone")
    at_once, _ = _synthetic.built(alone, shards=3, length=10, columns=0)
    batches = [
        load_batch(iter(_synthetic.files(*place)))
        for place in ((store, large[0].id), (alone, at_once.id))
    ]
    assert torch.equal(batches[0].token_N[:], batches[1].token_N[:])


def test_a_curve_ends_with_the_time_and_keeps_its_largest_points():
    def measure(size: int) -> dict:
        time.sleep(0.01 * size)
        return {"size": size}

    points = growing("x", (1, 2, 3, 4, 5, 6, 10_000), measure, Deadline(30))
    assert [point["size"] for point in points] == [3, 4, 5, 6]
    with pytest.raises(TimeUp):
        growing("x", (1,), measure, Deadline(0))


def test_a_measurement_that_the_deadline_ends_is_left_out(tmp_path: Path):
    with pytest.raises(TimeUp):
        Batches(tmp_path, length=10, columns=2, deadline=Deadline(0.01)).point(1)


def test_growth_is_the_slope_between_the_smallest_and_the_largest_point():
    def point(x: int, seconds: float) -> dict:
        return {
            "x": x,
            "peak": 1000 * x,
            "seconds": {"linear": seconds, "square": seconds**2, "short": 1e-3},
        }

    slopes = exponents([point(100, 1.0), point(400, 9.9), point(800, 8.0)])
    assert slopes == {
        "linear": pytest.approx(1.0),
        "square": pytest.approx(2.0),
        "short": None,
        "memory": pytest.approx(1.0),
    }
    assert exponents([point(100, 1.0)]) == {}


def test_curves_are_drawn(tmp_path: Path):
    points = [
        {
            "x": x,
            "peak": 5e8,
            "tokens": x,
            "disk_rate": 1e9,
            "build_rate": 8e8,
            "seconds": {"raw": 1.0, "load": x},
        }
        for x in (1, 2)
    ]
    rows = [{"x": x, "seconds": {"write": x, "lineage": x}} for x in (1, 2)]
    curves = {"trajectories": points, "registry rows": rows, "tokens": points, "columns": points}
    for number, kept in enumerate((curves, {"tokens": points[:1]})):
        draw(kept, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")
