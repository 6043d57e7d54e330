"""The scaling benchmark measures what it claims, at a size that takes one second."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import _synthetic
from benchmarks._signal_path import measure
from benchmarks.scale import draw, exponents
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


def test_a_part_of_a_batch_is_its_first_shards(tmp_path: Path):
    store = Store(tmp_path)
    of, columns = _synthetic.built(store, shards=3, length=10, columns=2)
    (rollouts, some), (all_rollouts, _) = _synthetic.parts(store, of, columns, [2, 3])
    assert all_rollouts == of.id
    first, every = (
        load_batch(iter(_synthetic.files(store, artifact))) for artifact in (rollouts, all_rollouts)
    )
    assert first.sequences == 2 * _synthetic.SEQUENCES
    assert torch.equal(first.token_N[:], every.token_N[: first.tokens])
    assert all(store.has(artifact) for artifact in some)


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
    draw(
        {"tokens": points, "trajectories": points, "columns": points, "registry rows": rows},
        points[-1],
        tmp_path / "scale.png",
    )
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
