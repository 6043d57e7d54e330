"""Reads rows of local files: JSON Lines, JSON, CSV, Parquet.

Rows are read one at a time, because sets of code problems are larger than memory.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.datasets.readers import SourceRow
from tasks.host.file_digest import file_digest
from tasks.untrusted.input_files import expanded, parse_json, readable, short, text_lines

UNPACKED, UNPACKED_TIMES = 256 << 20, 64
"""What a Parquet file may unpack to: bytes, or that many times its own size if that is more.

A few hundred bytes can hold gigabytes.
"""


def local_files(path: str) -> dict[str, Path]:
    """Name as the user would write it -> file: one file, or those of a directory in name order.

    **Raises:** ValueError if there are none.
    """
    place = expanded(path, "problems file")
    if not place.is_dir():
        return {path: readable(place, "problems file")}
    files = {
        f"{path}/{file.name}": file
        for file in sorted(place.iterdir())
        if file.is_file() and file.suffix in FORMATS
    }
    if not files:
        raise ValueError(
            f"problems directory {path} holds no {', '.join(FORMATS)} file; check path"
        )
    return files


def digest_of(sums: Mapping[str, str]) -> str:
    """One sha256 for files with these sha256 sums, in order.

    For a single file it is the file's own sum, whatever its name.
    """
    if len(sums) == 1:
        return next(iter(sums.values()))
    return hashlib.sha256("\n".join(sums.values()).encode()).hexdigest()


def digest_files(files: Mapping[str, Path]) -> str:
    return digest_of({name: file_digest(path) for name, path in files.items()})


def rows_of(files: Mapping[str, Path]) -> Iterator[tuple[str, SourceRow]]:
    """("file, row 3", row) for every row of every file, in order.

    **Raises:** ValueError, with file and place, for what cannot be read.
    """
    for name, path in files.items():
        read = FORMATS.get(path.suffix, _json_lines)
        try:
            for number, row in enumerate(read(path, name), 1):
                yield f"{name}, row {number}", row
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: not UTF-8 text; save it as UTF-8") from error


def _parquet(path: Path, name: str) -> Iterator[SourceRow]:
    import pyarrow
    import pyarrow.parquet as pq

    left = max(UNPACKED, UNPACKED_TIMES * path.stat().st_size)
    too_much = (
        f"{name}: unpacked it is more than {UNPACKED_TIMES} times its size; write its rows as "
        f"JSON Lines"
    )
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=16):
                if batch.nbytes > left:
                    raise ValueError(too_much)
                for row in batch.to_pylist():
                    left -= _text_length(row)
                    if left < 0:
                        raise ValueError(too_much)
                    yield row
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{name} is not a readable Parquet file ({short(error, 160)}); write it again"
        ) from error


def _text_length(cell: Any) -> int:
    """Total length of all texts in a cell; a repeated text counts each time."""
    if isinstance(cell, str | bytes):
        return len(cell)
    cells = cell.values() if isinstance(cell, dict) else cell if isinstance(cell, list) else ()
    return sum(map(_text_length, cells))


def _csv(path: Path, name: str) -> Iterator[SourceRow]:
    number = 0
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            for number, row in enumerate(csv.DictReader(file), 1):
                if None in row:
                    raise ValueError(
                        f"{name}, row {number}: more fields than the header has; quote fields "
                        f"that hold commas"
                    )
                yield row
        except csv.Error as error:
            raise ValueError(
                f"{name}, row {number + 1}: not readable as CSV ({error}); fix that row"
            ) from error


def _json_lines(path: Path, name: str) -> Iterator[SourceRow]:
    for where, line in text_lines(path, name):
        yield _object(
            parse_json(line, where, "a problems file has one JSON object per line"), where
        )


def _json(path: Path, name: str) -> Iterator[SourceRow]:
    """Rows of a .json file: a list of objects, or JSON Lines."""
    with path.open(encoding="utf-8-sig") as file:
        if file.read(64).lstrip()[:1] != "[":
            yield from _json_lines(path, name)
            return
        file.seek(0)
        rows = parse_json(
            file.read().removeprefix("\ufeff"), name, "it begins as a list of objects, complete it"
        )
    for number, row in enumerate(rows, 1):
        yield _object(row, f"{name}, entry {number}")


def _object(row: Any, place: str) -> SourceRow:
    if not isinstance(row, dict):
        raise ValueError(
            f'{place}: a JSON object is needed, found {type(row).__name__}; write {{"problem": '
            f'"...", "answer": "..."}}'
        )
    return row


FORMATS: dict[str, Callable[[Path, str], Iterator[SourceRow]]] = {
    ".parquet": _parquet,
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
}
"""Suffix of a file -> its reader. If a data set has several formats, the earliest is used."""
