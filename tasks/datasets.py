"""Problems: drawn from the embedded world, a file, the hub or a reasoning-gym family, as one ordered list in the store."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from pathlib import Path
from typing import Any, ClassVar

from erpd_core.config import FileProblems, GymProblems, HubProblems, ProblemsConfig, TinyProblems
from erpd_core.refs import Problem, ProblemsRef
from tasks.stage import Context, Stage
from tasks.store import Build, Store, sha256

GYM_SEED, GYM_POOL = 20_260_525, 20_000
"""Where a reasoning-gym family is read from, and how far: the same pool for every split."""


class DrawProblems(Stage[ProblemsRef]):
    """Draw `count` problems by seed. A file's identity is its bytes."""

    KIND: ClassVar[str] = "problems"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = ProblemsRef

    name: str
    source: ProblemsConfig
    seed: int
    digest: str | None = None
    """sha256 of the file, for file sources."""

    def question(self) -> dict[str, Any]:
        exclude = {"path", "seed"} if isinstance(self.source, FileProblems) else {"seed"}
        return {"source": self.source.model_dump(mode="json", exclude=exclude), "seed": self.seed, "digest": self.digest}

    def inputs(self) -> dict[str, str]:
        return {}

    def run(self, context: Context, build: Build) -> ProblemsRef:
        problems = read_problems(self.source, self.seed)
        lines = "".join(problem.model_dump_json() + "\n" for problem in problems)
        build.put("problems.jsonl", lambda path: path.write_text(lines))
        return ProblemsRef(id=build.id, name=self.name, count=len(problems), extractor=self.source.extractor)


def draw_problems(name: str, source: ProblemsConfig, seed: int) -> DrawProblems:
    """The stage that draws them; `source.seed` wins over `seed`. Raises ValueError for a file that is not there."""
    digest = sha256(_existing(source)) if isinstance(source, FileProblems) else None
    return DrawProblems(name=name, source=source, seed=seed if source.seed is None else source.seed, digest=digest)


def load_problems(store: Store, ref: ProblemsRef) -> list[Problem]:
    with (store.path(ref.id) / "problems.jsonl").open() as file:
        return [Problem.model_validate_json(line) for line in file]


def read_problems(source: ProblemsConfig, seed: int) -> list[Problem]:
    """The problems themselves, wording applied. Raises ValueError, naming file and row: a source missing, malformed or too small."""
    if isinstance(source, TinyProblems):
        from tasks.tiny_world import problems

        return [_worded(source, problem) for problem in problems(source.split, source.count or 256, seed)]
    if isinstance(source, GymProblems):
        return _gym(source, seed)
    rows = _file_rows(source) if isinstance(source, FileProblems) else _hub_rows(source)
    where = source.path if isinstance(source, FileProblems) else source.id
    found: list[Problem] = []
    for number, row in enumerate(rows, 1):
        missing = [column for column in (source.problem_column, source.answer_column) if row.get(column) in (None, "")]
        if missing:
            raise ValueError(f"{where}, row {number}: no {' and no '.join(missing)}; columns are {sorted(map(str, row))}")
        answer = str(row[source.answer_column])
        answer = answer.rpartition("####")[2].strip() if "####" in answer else answer.strip()  # GSM8K keeps its reasoning before ####
        found.append(Problem(id=str(row.get("id", f"row-{number}")), prompt=str(row[source.problem_column]), answer=answer))
    if len({problem.id for problem in found}) < len(found):
        found = [problem.model_copy(update={"id": f"row-{number}"}) for number, problem in enumerate(found, 1)]
    if source.count is not None:
        if source.count > len(found):
            raise ValueError(f"{where}: {source.count} problems asked for, it has {len(found)}; lower count")
        chosen = sorted(random.Random(seed).sample(range(len(found)), source.count))
        found = [found[index] for index in chosen]
    if not found:
        raise ValueError(f"{where}: no problems in it")
    return [_worded(source, problem) for problem in found]


def _worded(source: ProblemsConfig, problem: Problem) -> Problem:
    return problem.model_copy(update={"prompt": source.template.replace("{problem}", problem.prompt)})


def _gym(source: GymProblems, seed: int) -> list[Problem]:
    """Every question belongs to one split by a hash of its text, so splits are disjoint whatever is drawn from them."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise ValueError("problems of kind gym need reasoning-gym; install the extra: pip install -e '.[problems]'") from error
    count = source.count or 256
    found: dict[str, Problem] = {}
    try:
        pool = reasoning_gym.create_dataset(source.family, seed=GYM_SEED, size=GYM_POOL, **source.params)
        for row in pool:
            question, answer = str(row["question"]), str(row["answer"])
            if split_of(question) == source.split and question not in found:
                found[question] = Problem(id=f"{source.family}-{sha256_text(question)[:12]}", prompt=question, answer=answer)
            if len(found) >= 4 * count:
                break
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(f"gym family {source.family!r} with {source.params}: {error}") from error
    if len(found) < count:
        only = f"only {len(found)} different questions in {source.split} for {count} asked"
        raise ValueError(f"gym family {source.family!r}: {only}; widen params or lower count")
    return [_worded(source, problem) for problem in random.Random(seed).sample(list(found.values()), count)]


def split_of(question: str) -> str:
    """`train` (80 %), `validation` or `test` (10 % each), by a hash of the question."""
    place = int(sha256_text(question)[:8], 16) % 10
    return "validation" if place == 8 else "test" if place == 9 else "train"


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _existing(source: FileProblems) -> Path:
    path = Path(source.path).expanduser()
    if not path.is_file():
        raise ValueError(f"problems file {source.path} is not there; check path")
    return path


def _file_rows(source: FileProblems) -> list[dict[str, Any]]:
    path = _existing(source)
    try:
        if path.suffix == ".parquet":
            return _parquet_rows(path, source.path)
        return _csv_rows(path, source.path) if path.suffix == ".csv" else _json_rows(path, source.path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{source.path}: not UTF-8 text; save it as UTF-8") from error


def _parquet_rows(path: Path, name: str) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        return list(pq.read_table(path).to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{name} is not a readable Parquet file: {error}") from error


def _csv_rows(path: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with path.open(newline="", encoding="utf-8") as file:
        try:
            for number, row in enumerate(csv.DictReader(file), 1):
                if None in row:
                    raise ValueError(f"{name}, row {number}: more fields than the header has; quote fields that hold commas")
                rows.append(row)
        except csv.Error as error:
            raise ValueError(f"{name}, row {len(rows) + 1}: not readable as CSV ({error}); mend that row") from error
    return rows


def _json_rows(path: Path, name: str) -> list[dict[str, Any]]:
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{name}, line {number}: not JSON ({error}); a problems file has one JSON object per line") from error
            if not isinstance(row, dict):
                raise ValueError(f"{name}, line {number}: a JSON object is needed, found {type(row).__name__}")
            rows.append(row)
    return rows


def _hub_rows(source: HubProblems) -> list[dict[str, Any]]:
    import datasets

    try:
        loaded = datasets.load_dataset(source.id, revision=source.revision, split=source.split)
    except Exception as error:  # the library raises many kinds; all of them mean the same to the user
        raise ValueError(
            f"data set {source.id} could not be loaded ({type(error).__name__}: {error}); check the id, split and network"
        ) from error
    return [dict(row) for row in loaded]
