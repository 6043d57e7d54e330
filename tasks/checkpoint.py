"""The one file a killed training goes on from, and the records of its steps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from erpd_core.optimize import Record
from tasks.store import Build

RESUME = "resume.safetensors"
RECORDS = "records.jsonl"


class Resumable(Protocol):
    """What a checkpoint needs of a model."""

    def named_parameters(self) -> Iterable[tuple[str, torch.nn.Parameter]]: ...

    def copy_from(self, tensors: dict[str, Tensor]) -> None: ...


def checkpoint(build: Build, model: Resumable, optimizer: torch.optim.Optimizer, step: int, records: Sequence[Record]) -> None:
    """Weights, optimizer moments, step and records in ONE file, so that they can never disagree. Data order follows from the step."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight/{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value
    metadata = {"step": str(step), "records": _lines(records)}
    build.put(RESUME, partial(save_file, tensors, metadata=metadata))


def resume(build: Build, model: Resumable, optimizer: torch.optim.Optimizer) -> tuple[int, list[Record]]:
    """Steps done and their records; 0 and none without a whole checkpoint."""
    if not build.done(RESUME):
        return 0, []
    path = build.folder / RESUME
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    model.copy_from({name.removeprefix("weight/"): value for name, value in tensors.items() if name.startswith("weight/")})
    for name, parameter in model.named_parameters():
        keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}/{name}" in tensors]  # none before the first update
        if keys:
            optimizer.state[parameter] = {key: tensors[f"{key}/{name}"].to(parameter.device) for key in keys}
    return int(metadata["step"]), [json.loads(line) for line in metadata["records"].splitlines()]


def put_records(build: Build, records: Sequence[Record]) -> None:
    build.put(RECORDS, lambda path: path.write_text(_lines(records)))


def read_records(folder: Path) -> list[Record]:
    """The record of every optimizer step, in order."""
    return [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]


def _lines(records: Sequence[Record]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
