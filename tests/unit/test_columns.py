"""Columns and batches on disk read the same as in memory, wherever shards end."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from erpd_core import columns as core
from erpd_core.advantages import group_normalized
from erpd_core.columns import PerSequence, stretches
from erpd_core.config import SignalSpec
from erpd_core.faults import Fault
from erpd_core.layout import plan
from erpd_core.signals import build_signal, moments, weighted_sum
from tasks.rollouts import columns, load_batch, shards
from tasks.rollouts.columns import FileColumn, gathered_column, stored_column
from tasks.rollouts.score import load_column, open_column


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every column is on disk, and a stretch is 7 tokens, so that shards end inside stretches."""
    monkeypatch.setattr(columns, "IN_MEMORY", 0)
    monkeypatch.setattr(core, "STRETCH", 7)


def write(folder: Path, *parts: torch.Tensor) -> list[Path]:
    paths = [folder / f"shard-{number:05d}.safetensors" for number in range(len(parts))]
    for path, part in zip(paths, parts):
        save_file({"entropy": torch.zeros(3), "lp": part}, path)
    return paths


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_stored_column_reads_as_the_tensor_it_is(
    tmp_path: Path, on_disk: None, data: st.DataObject
):
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    tensor = torch.randn(sum(lengths))
    column = stored_column(write(tmp_path, *tensor.split(lengths)), "lp")
    assert isinstance(column, FileColumn) and len(column) == len(tensor)
    index = torch.tensor(
        data.draw(st.lists(st.integers(0, len(tensor) - 1), max_size=12)), dtype=torch.int64
    )
    assert column[index].equal(tensor[index])
    start, stop = sorted(
        (data.draw(st.integers(0, len(tensor))), data.draw(st.integers(0, len(tensor))))
    )
    assert column[start:stop].equal(tensor[start:stop])
    assert column[::2].equal(tensor[::2]) and column[:].equal(tensor)


def test_a_small_column_is_a_tensor(tmp_path: Path):
    tensor = torch.randn(9)
    column = stored_column(write(tmp_path, tensor[:4], tensor[4:]), "lp")
    assert isinstance(column, torch.Tensor) and column.equal(tensor)


def test_a_place_beyond_the_end_is_refused(tmp_path: Path, on_disk: None):
    column = stored_column(write(tmp_path, torch.zeros(4)), "lp")
    for place in (4, -1):
        with pytest.raises(IndexError, match="a column of 4"):
            column[torch.tensor([place])]


def test_a_file_cut_short_is_told(tmp_path: Path, on_disk: None):
    (path,) = write(tmp_path, torch.ones(100))
    column = stored_column([path], "lp")
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(OSError, match="8 bytes too early"):
        column[:]


def test_what_is_no_column_is_refused(tmp_path: Path):
    save_file({"lp": torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="one axis"):
        stored_column([tmp_path / "a.safetensors"], "lp")


def test_gathered_parts_are_the_same_in_memory_and_on_disk(monkeypatch: pytest.MonkeyPatch):
    parts = [
        np.arange(5, dtype=np.int32),
        np.arange(3, dtype=np.int32),
        np.arange(9, dtype=np.int32),
    ]
    held = gathered_column(iter(parts))
    monkeypatch.setattr(columns, "IN_MEMORY", 6)  # the second part no longer fits
    spilled = gathered_column(iter(parts))
    assert isinstance(held, torch.Tensor) and isinstance(spilled, FileColumn)
    assert spilled[:].tolist() == held.tolist() == np.concatenate(parts).tolist()


def test_a_scratch_file_leaves_no_name_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_disk: None
):
    monkeypatch.setenv("ERPD_HOME", str(tmp_path))
    column = gathered_column(iter([np.arange(4, dtype=np.int32)]))
    assert list((tmp_path / "tmp").iterdir()) == [] and column[1:3].tolist() == [1, 2]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.data())
def test_per_sequence_reads_as_the_values_repeated(lengths: list[int], data: st.DataObject):
    offset_S = torch.tensor([0, *lengths]).cumsum(0)
    value_S = torch.randn(len(lengths))
    expected, column = (
        value_S.repeat_interleave(torch.tensor(lengths)),
        PerSequence(value_S, offset_S),
    )
    start, stop = sorted(
        (data.draw(st.integers(0, len(expected))), data.draw(st.integers(0, len(expected))))
    )
    index = torch.tensor(
        data.draw(st.lists(st.integers(0, len(expected) - 1), max_size=9)), dtype=torch.int64
    )
    assert len(column) == len(expected) and column[:].equal(expected)
    assert column[start:stop].equal(expected[start:stop]) and column[index].equal(expected[index])


# ------------------------------------------------------------------------------ batches and signals


def test_a_batch_on_disk_is_the_batch_in_memory(
    world: World, on_disk: None, monkeypatch: pytest.MonkeyPatch
):
    large = load_batch(shards(world.store, world.rollouts))
    monkeypatch.undo()
    small = load_batch(shards(world.store, world.rollouts))
    assert isinstance(large.token_N, FileColumn) and isinstance(small.token_N, torch.Tensor)
    assert large.token_N[:].long().equal(small.token_N)
    for name in ("offset_S", "group_S", "reward_S"):
        assert (
            getattr(large, name).equal(getattr(small, name))
            and getattr(large, name).dtype == getattr(small, name).dtype
        )
    assert all(a.equal(b) for a, b in zip(large.prompts, small.prompts, strict=True))
    some = torch.arange(0, small.sequences, 5)
    for from_disk, from_memory in zip(plan(large, some, 64), plan(small, some, 64), strict=True):
        assert (
            from_disk.input_T.equal(from_memory.input_T)
            and from_disk.token_N.equal(from_memory.token_N)
            and from_disk.token_N.dtype == torch.int64
        )


def test_groups_go_on_over_shards_and_count_as_the_rows_say(world: World):
    """A problem's rows are adjacent; their group must not depend on where a file ends."""
    paths = list(shards(world.store, world.rollouts))
    names = [
        name
        for path in paths
        for name in pq.read_table(path, columns=["problem"])["problem"].to_pylist()
    ]
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    assert len(paths) > 1 and load_batch(iter(paths)).group_S.tolist() == [
        order[name] for name in names
    ]


def both(world: World) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two columns of log-probs, and the mask of tokens in right responses."""
    old_N = load_column(world.store, world.old)
    other_N = old_N + 0.3 * torch.randn(len(old_N), generator=torch.Generator().manual_seed(1))
    batch = load_batch(shards(world.store, world.rollouts))
    return other_N, old_N, batch.reward_S[batch.seq_N] > 0.5


def direct(
    spec: SignalSpec, a: torch.Tensor, b: torch.Tensor, positive: torch.Tensor
) -> torch.Tensor:
    """The signal's formula on whole tensors, for comparison with one computed in stretches."""
    ratio = a - b
    if spec.positives != "all":
        ratio = torch.where(
            positive, ratio.clamp(min=0) if spec.positives == "max" else ratio.clamp(max=0), ratio
        )
    center = ratio.double().mean() if spec.whiten == "shift" else 0.0
    white = (
        ratio
        if spec.whiten == "off"
        else ((ratio.double() - center) / ratio.double().std(unbiased=False)).float()
    )
    return white if spec.clip is None else white.clamp(-spec.clip, spec.clip)


SPECS = [
    SignalSpec(),
    SignalSpec(positives="min"),
    SignalSpec(positives="max", whiten="scale"),
    SignalSpec(whiten="off"),
    SignalSpec(clip=0.5),
]


@pytest.mark.parametrize(
    "spec", SPECS, ids=lambda spec: f"{spec.positives}-{spec.whiten}-{spec.clip}"
)
def test_a_small_signal_is_the_formulas_to_the_last_bit(world: World, spec: SignalSpec):
    signal, expected = build_signal(spec, *both(world)), direct(spec, *both(world))
    index = torch.randperm(len(expected))[:200]
    assert signal[:].equal(expected) and signal[index].equal(expected[index])


@pytest.mark.parametrize(
    "spec", SPECS, ids=lambda spec: f"{spec.positives}-{spec.whiten}-{spec.clip}"
)
def test_a_signal_in_stretches_is_the_signal(
    world: World, on_disk: None, spec: SignalSpec, tmp_path: Path
):
    other_N, old_N, positive_N = both(world)
    assert len(list(stretches(len(old_N)))) > 100
    other = stored_column(write(tmp_path, *other_N.split(100)), "lp")
    batch = load_batch(shards(world.store, world.rollouts))
    signal = build_signal(
        spec, other, open_column(world.store, world.old), batch.per_token(batch.reward_S > 0.5)
    )
    torch.testing.assert_close(
        signal[:], direct(spec, other_N, old_N, positive_N), rtol=1e-6, atol=1e-7
    )


def test_a_weighted_sum_in_stretches_is_the_sum(world: World, monkeypatch: pytest.MonkeyPatch):
    a, b = (build_signal(spec, *both(world)) for spec in SPECS[:2])
    expected = weighted_sum([(0.5, a), (2.0, b)], "shift")[:]
    monkeypatch.setattr(core, "STRETCH", 7)
    torch.testing.assert_close(
        weighted_sum([(0.5, a), (2.0, b)], "shift")[:], expected, rtol=1e-6, atol=1e-7
    )


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=60), st.floats(-1e6, 1e6))
def test_moments_of_stretches_are_the_wholes(
    monkeypatch: pytest.MonkeyPatch, values: list[float], offset: float
):
    monkeypatch.setattr(core, "STRETCH", 7)
    column = torch.tensor(values, dtype=torch.float64) + offset
    mean, std = moments(column)
    assert mean == pytest.approx(column.mean().item(), rel=1e-12, abs=1e-9)
    assert std == pytest.approx(column.std(unbiased=False).item(), rel=1e-6, abs=1e-6)


def test_what_is_not_finite_is_found_in_any_stretch_even_where_the_mask_hides_it(on_disk: None):
    numerator = torch.zeros(40)
    numerator[30] = float("inf")
    numerator[3] = 1.0
    with pytest.raises(Fault, match="1 tokens of the signal are not finite"):
        build_signal(
            SignalSpec(positives="min"),
            numerator,
            torch.zeros(40),
            torch.ones(40, dtype=torch.bool),
        )


def test_advantages_of_a_large_batch_are_those_of_a_small_one(world: World):
    batch = load_batch(shards(world.store, world.rollouts))
    advantage_S = group_normalized(batch.reward_S, batch.group_S)
    assert batch.per_token(advantage_S)[:].equal(advantage_S[batch.seq_N])
    index = batch.token_index(torch.tensor([3, 1]))
    assert batch.per_token(advantage_S)[index].equal(advantage_S[batch.seq_N][index])


def test_a_column_is_read_over_all_shards_in_order(world: World, on_disk: None):
    stored = sorted(world.store.path(world.old.id).glob("shard-*.safetensors"))
    assert load_column(world.store, world.old).equal(
        torch.cat([load_file(path)["lp"] for path in stored])
    )
    assert dataclasses.is_dataclass(open_column(world.store, world.old, "entropy"))
