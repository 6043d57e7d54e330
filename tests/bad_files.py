"""Functions that create the malformed files of `bad_cases`: cut, flipped, foreign, unreadable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from tasks.models.import_policy import ASSETS


def changed_model(change: Callable[[Path], object], folder: Path) -> None:
    shutil.copytree(ASSETS / "tiny-base", folder)
    change(folder)


def loop(path: Path) -> None:
    path.symlink_to(path)


def table(rows: list[dict[str, Any]]) -> Callable[[Path], object]:
    return lambda path: pq.write_table(pa.Table.from_pylist(rows), path)


def cut_table(path: Path) -> None:
    pq.write_table(pa.table({"problem": ["1+1="] * 500, "answer": ["2"] * 500}), path)
    cut(path, 0.5)


def cut(path: Path, part: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def written(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(
        content.encode() if isinstance(content, str) else content
    )


def configured(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(
            json.dumps(
                {
                    key: value
                    for key, value in {**json.loads(path.read_text()), **changes}.items()
                    if value is not None
                }
            )
        )

    return change


def weighed(
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
) -> Callable[[Path], object]:
    def save(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})

    return save


def pickled_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def flipped_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[data.index(b"data_offsets") + 16] ^= 0x10
    path.write_bytes(data)


def long_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + path.read_bytes()[8:])


def stolen_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tree = json.loads(path.read_text())
    tree["added_tokens"].append({**tree["added_tokens"][0], "id": 5000, "content": "<far>"})
    tree["model"]["vocab"]["<far>"] = 5000
    path.write_text(json.dumps(tree))
