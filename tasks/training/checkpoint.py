"""Checkpoints from which a killed training resumes, and the records of its steps.

A single process writes ONE file. Each of several workers writes its own file of the same step. Any
number of workers can resume from either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from erpd_core.parallel import SINGLE, WorkerGroup, local, rows_of
from erpd_core.step_statistics import Record
from tasks.store import Build
from tasks.training.sharded_tensors import Rows

RESUME = "resume.safetensors"
"""File of a checkpoint that a single process wrote."""
RECORDS = "records.jsonl"
"""File of a finished training with the record of every optimizer step."""
_SHARD = re.compile(r"resume-(\d+)-(\d+)-of-(\d+)\.safetensors")
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""Keys of AdamW's state of a parameter."""


class Resumable(Protocol):
    """What a checkpoint needs of a model: its parameters, or this worker's shard of each."""

    def named_parameters(self) -> Iterable[tuple[str, torch.nn.Parameter]]: ...


def checkpoint(
    build: Build,
    model: Resumable,
    optimizer: torch.optim.Optimizer,
    step: int,
    records: Sequence[Record],
    workers: WorkerGroup = SINGLE,
) -> None:
    """Write weights, optimizer moments, step and records.

    All of them are in one file, so that they can never disagree. The order of the data follows from
    the step. Every worker makes this call and writes a file of its shards. The previous checkpoint
    is removed once all files of this one are durable.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight/{name}"] = local(parameter.detach())
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = local(value)
    metadata = {"step": str(step), "records": _lines(records)}
    build.put(
        _name(step, workers.rank, workers.size), partial(save_file, tensors, metadata=metadata)
    )
    workers.gather(None)
    if workers.first:
        forget(build, keep={_name(step, rank, workers.size) for rank in range(workers.size)})


def resume(
    build: Build, model: Resumable, optimizer: torch.optim.Optimizer, workers: WorkerGroup = SINGLE
) -> tuple[int, list[Record]]:
    """Load the newest complete checkpoint into the model and the optimizer.

    Every worker makes this call.

    **Returns:** The number of steps done, and their records; 0 and no records without a complete
        checkpoint.
    """
    for paths in workers.gather(_checkpoints(build))[0]:
        sound = [build.done(path.name) for path in paths[workers.rank :: workers.size]]
        if all(all(checks) for checks in workers.gather(sound)):
            break
    else:
        return 0, []
    rows = Rows(paths)
    for name, parameter in model.named_parameters():
        _fill(parameter, rows, f"weight/{name}", workers)
        keys = [key for key in MOMENTS if f"{key}/{name}" in rows]  # empty before the first update
        if keys:
            state = {key: torch.zeros_like(parameter.detach()) for key in keys if key != "step"}
            for key, moment in state.items():
                _fill(moment, rows, f"{key}/{name}", workers)
            device = local(parameter).device
            optimizer.state[parameter] = {
                "step": rows.read(f"step/{name}", 0, 0).to(device),
                **state,
            }
    with safe_open(paths[0], "pt") as file:
        metadata = file.metadata()
    return int(metadata["step"]), [json.loads(line) for line in metadata["records"].splitlines()]


def written(build: Build) -> list[str]:
    """File names of the newest complete checkpoint; those of a sharded one contain the step."""
    return [path.name for path in _checkpoints(build)[0]]


def forget(build: Build, keep: Iterable[str] = ()) -> None:
    """Remove all checkpoint files except those in `keep`."""
    names = {path.name for paths in _sets(build).values() for path in paths} | {RESUME}
    for name in sorted(names - set(keep)):
        build.drop(name)


def _fill(tensor: Tensor, rows: Rows, name: str, workers: WorkerGroup) -> None:
    """Copy this worker's rows of the stored tensor `name` into `tensor`."""
    with torch.no_grad():
        shape = tensor.shape
        start, stop = rows_of(shape[0], workers.rank, workers.size) if shape else (0, 0)
        local(tensor).copy_(rows.read(name, start, stop))


def _name(step: int, rank: int, size: int) -> str:
    return RESUME if size == 1 else f"resume-{step:06d}-{rank:05d}-of-{size:05d}.safetensors"


def _sets(build: Build) -> dict[tuple[int, int], list[Path]]:
    """(step, workers) -> files of a sharded checkpoint, by rank; some may be missing."""
    sets: dict[tuple[int, int], list[Path]] = {}
    for path in sorted(build.folder.glob("resume-*.safetensors")):
        if match := _SHARD.fullmatch(path.name):
            sets.setdefault((int(match[1]), int(match[3])), []).append(path)
    return sets


def _checkpoints(build: Build) -> list[list[Path]]:
    """The files of each complete checkpoint, the newest first.

    There is more than one only after a kill while a checkpoint was replaced. The last entry is the
    file of a single process, which may be missing.
    """
    sharded = [
        paths
        for (_, size), paths in sorted(_sets(build).items(), reverse=True)
        if len(paths) == size
    ]
    return [*sharded, [build.folder / RESUME]]


def put_records(build: Build, records: Sequence[Record]) -> None:
    build.put(RECORDS, lambda path: path.write_text(_lines(records)))


def read_records(folder: Path) -> list[Record]:
    """The record of every optimizer step, in order."""
    return [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]


def _lines(records: Sequence[Record]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
