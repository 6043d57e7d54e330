"""The stage that draws problems into the store, as one ordered list."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from erpd_core.config import FileProblems, GymProblems, ProblemsConfig, TinyProblems
from erpd_core.refs import Overlap, Problem, ProblemsRef
from tasks.datasets.catalogue import Concrete, concrete
from tasks.datasets.files import digest_files, local_files
from tasks.datasets.gym import gym_problems
from tasks.datasets.hub import snapshot
from tasks.datasets.overlap import Shared, find_shared, plain_problem, summary
from tasks.datasets.pool import Pool, read_pool
from tasks.execution.stage import Context, Stage, Verb
from tasks.store import Build, Store

PLACE = {"seed", "path", "id", "revision", "split", "files"}
"""Where a file or a data set of the hub lies, which is not what it says."""
LATER = {"reader": "plain", "difficulty": None, "overlap": None}
"""Fields that sources did not always have: a question that leaves them at their default is what
it was before.
"""


class DrawProblems(Stage[ProblemsRef]):
    """Draw `count` problems by seed. The identity of a file or of a hub's data is its bytes, not
    its name or commit.
    """

    KIND: ClassVar[str] = "problems"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = ProblemsRef
    VERB: ClassVar[Verb] = "problems"
    CPU_ONLY: ClassVar[bool] = True

    name: str
    source: Concrete = Field(discriminator="kind")
    seed: int
    digest: str | None = None
    """sha256 of the bytes, for files and the hub."""
    origin: str | None = None
    """`id@commit` of what comes from the hub; not part of the identity."""
    earlier: tuple[int, ...] = ()
    """Seeds of the draws before this one, whose problems are not drawn again while others are
    left.
    """
    against: dict[str, ProblemsRef] = Field(default_factory=dict)
    """What the drawn problems must not overlap with."""

    def spec(self) -> dict[str, Any]:
        pooled = self.digest is not None
        source = self.source.model_dump(mode="json", exclude=PLACE if pooled else {"seed"})
        source = {
            key: value for key, value in source.items() if key not in LATER or value != LATER[key]
        }
        earlier = {"earlier": list(self.earlier)} if self.earlier else {}
        return {"source": source, "seed": self.seed, "digest": self.digest, **earlier}

    def inputs(self) -> dict[str, str]:
        return {f"against-{name}": ref.id for name, ref in self.against.items()}

    def compute(self, context: Context, build: Build) -> ProblemsRef:
        overlap: Overlap | None = None
        if isinstance(self.source, TinyProblems | GymProblems):
            generated = read_problems(self.source, self.seed, self.earlier)
            problems, count = iter(generated), len(generated)
        else:
            pool = open_pool(self.source, self.digest)
            shared, overlap, places = self._places(context.store, pool)
            problems, count = pool.problems(places), len(places)
            if overlap is not None:
                lines = [
                    json.dumps(one.record(pool.ids), ensure_ascii=False) + "\n" for one in shared
                ]
                build.put(
                    "overlap.jsonl", lambda path: path.write_text("".join(lines), encoding="utf-8")
                )
        build.put("problems.jsonl", lambda path: _write(path, problems))
        return ProblemsRef(
            id=build.id,
            name=self.name,
            count=count,
            extractor=self.source.extractor,
            origin=self.origin,
            overlap=overlap,
        )

    def _places(self, store: Store, pool: Pool) -> tuple[list[Shared], Overlap | None, list[int]]:
        """What overlaps, how much that is, and the places drawn. Raises ValueError when
        overlapping prompts are to be refused.
        """
        config = pool.source.overlap
        if config is None or not self.against:
            return [], None, pool.drawn(self.seed, self.earlier)
        against = {name: _texts(store, ref) for name, ref in self.against.items()}
        if config.action == "drop":
            shared = find_shared(pool.texts, against, config)
            places = pool.drawn(self.seed, self.earlier, without={one.place for one in shared})
            return shared, summary(config, len(pool.texts), against, shared), places
        places = pool.drawn(self.seed, self.earlier)
        shared = [
            Shared(places[one.place], one.benchmark, one.problem, one.kind, one.share)
            for one in find_shared([pool.texts[place] for place in places], against, config)
        ]
        if shared and config.action == "refuse":
            first = ", ".join(
                f"{pool.ids[one.place]} with {one.problem} of {one.benchmark}" for one in shared[:3]
            )
            raise ValueError(
                f"{pool.where}: {len(shared)} drawn prompts overlap with what is measured on "
                f"({first}); set overlap.action to drop"
            )
        return shared, summary(config, len(places), against, shared), places


def draw_problems(
    name: str,
    source: ProblemsConfig,
    seed: int,
    earlier: Sequence[int] = (),
    against: Mapping[str, ProblemsRef] | None = None,
) -> DrawProblems:
    """The stage that draws them; `source.seed` wins over `seed`, and then draws the same whatever
    was drawn `earlier`.

    Of the hub's data this fetches what is not there yet. `against` matters to a source that asks
    for the check of overlap.

    **Raises:** ValueError for an unknown name, a file that is not there, data that cannot be had.
    """
    found = concrete(source)
    pinned = found.seed is not None
    stage = DrawProblems(name=name, source=found, seed=seed if found.seed is None else found.seed)
    more: dict[str, Any] = {
        "earlier": ()
        if pinned or found.count is None or isinstance(found, TinyProblems)
        else tuple(earlier)
    }
    if not isinstance(found, TinyProblems | GymProblems):
        more |= {"against": dict(against or {}) if found.overlap else {}}
        if isinstance(found, FileProblems):
            more |= {"digest": digest_files(local_files(found.path))}
        else:
            there = snapshot(found)
            more |= {"digest": there.digest, "origin": f"{found.id}@{there.commit}"}
    return stage.model_copy(update=more)


def read_problems(source: ProblemsConfig, seed: int, earlier: Sequence[int] = ()) -> list[Problem]:
    """The problems themselves, wording applied. Raises ValueError, naming file and row: a source
    missing, malformed or too small.
    """
    found = concrete(source)
    if isinstance(found, TinyProblems):
        from tasks.datasets.tiny_world import problems

        return [
            _worded(found, problem) for problem in problems(found.split, found.count or 256, seed)
        ]
    if isinstance(found, GymProblems):
        return [_worded(found, problem) for problem in gym_problems(found, seed, earlier)]
    pool = open_pool(found)
    return list(pool.problems(pool.drawn(seed, earlier)))


def check_problems(source: ProblemsConfig, seed: int) -> None:
    """Read every row of a local file, what the tiny world is asked for, and one question of a
    generated family.

    Raises ValueError as `read_problems` does.
    """
    if isinstance(found := concrete(source), GymProblems):
        read_problems(found.model_copy(update={"count": 1}), seed)
    elif isinstance(found, FileProblems | TinyProblems):
        read_problems(found, seed)


def open_pool(source: Concrete, digest: str | None = None) -> Pool:
    """The pool of a file or of the hub's data. Raises ValueError when its bytes are not those of
    `digest`.
    """
    if isinstance(source, FileProblems):
        where, files = source.path, local_files(source.path)
    else:
        assert not isinstance(source, TinyProblems | GymProblems), "generated problems have no pool"
        where, files = source.id, snapshot(source).files
    if digest is not None and digest_files(files) != digest:
        raise ValueError(
            f"{where}: its bytes changed since it was asked for; run the same command again"
        )
    return read_pool(where, source, files)


def load_problems(store: Store, ref: ProblemsRef) -> list[Problem]:
    with (store.path(ref.id) / "problems.jsonl").open(encoding="utf-8") as file:
        return [Problem.model_validate_json(line) for line in file]


def _write(path: Path, problems: Iterable[Problem]) -> None:
    """One by one: the unit tests of a code set are larger than memory likes."""
    with path.open("w", encoding="utf-8") as file:
        for problem in problems:
            file.write(problem.model_dump_json() + "\n")


def _worded(source: Concrete, problem: Problem) -> Problem:
    return problem.model_copy(
        update={"prompt": source.template.replace("{problem}", problem.prompt)}
    )


def _texts(store: Store, ref: ProblemsRef) -> dict[str, str]:
    template = store.manifest(ref.id).spec["source"]["template"]
    return {
        problem.id: plain_problem(problem.prompt, template) for problem in load_problems(store, ref)
    }
