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
"""Fields of a file or hub source that a spec omits; its digest and seed replace them."""
LATER = {"reader": "plain", "difficulty": None, "overlap": None}
"""Fields that were added to sources later -> their defaults.

A spec omits them at their default, so that earlier identities stay the same.
"""


class DrawProblems(Stage[ProblemsRef]):
    """Draws `count` problems by seed.

    The identity of files and of hub data is their bytes, not their name or commit.
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
    """`id@commit` of hub data; not part of the identity."""
    earlier: tuple[int, ...] = ()
    """Seeds of earlier draws, whose problems are drawn again only when no others are left."""
    against: dict[str, ProblemsRef] = Field(default_factory=dict)
    """Problems that the drawn ones must not overlap with, by name."""

    def spec(self) -> dict[str, Any]:
        pooled = self.digest is not None
        hidden = {"informative", *(PLACE if pooled else {"seed"})}
        source = self.source.model_dump(mode="json", exclude=hidden)
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
                    json.dumps(match.record(pool.ids), ensure_ascii=False) + "\n"
                    for match in shared
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
        """The overlapping prompts, their counts, and the places drawn.

        **Raises:** ValueError if there are overlapping prompts and the source refuses them.
        """
        config = pool.source.overlap
        if config is None or not self.against:
            return [], None, pool.drawn(self.seed, self.earlier)
        against = {name: _texts(store, ref) for name, ref in self.against.items()}
        if config.action == "drop":
            shared = find_shared(pool.texts, against, config)
            places = pool.drawn(self.seed, self.earlier, without={match.place for match in shared})
            return shared, summary(config, len(pool.texts), against, shared), places
        places = pool.drawn(self.seed, self.earlier)
        shared = [
            Shared(places[match.place], match.benchmark, match.problem, match.kind, match.share)
            for match in find_shared([pool.texts[place] for place in places], against, config)
        ]
        if shared and config.action == "refuse":
            first = ", ".join(
                f"{pool.ids[match.place]} with {match.problem} of {match.benchmark}"
                for match in shared[:3]
            )
            raise ValueError(
                f"{pool.where}: {len(shared)} drawn prompts overlap with evaluation "
                f"problems ({first}); set overlap.action to drop"
            )
        return shared, summary(config, len(places), against, shared), places


def draw_problems(
    name: str,
    source: ProblemsConfig,
    seed: int,
    earlier: Sequence[int] = (),
    against: Mapping[str, ProblemsRef] | None = None,
) -> DrawProblems:
    """The stage that draws problems from `source`. Fetches hub data that is not in the cache.

    **Arguments:**
        seed: Seed of the draw, unless `source.seed` is set.
        earlier: Seeds of earlier draws. Ignored if `source.seed` is set: that draw is always the
            same.
        against: Evaluation problems by name. Used only if the source requests the overlap check.
    **Raises:** ValueError for an unknown name, a missing file, or data that cannot be fetched.
    """
    resolved = concrete(source)
    pinned = resolved.seed is not None
    stage = DrawProblems(
        name=name, source=resolved, seed=seed if resolved.seed is None else resolved.seed
    )
    more: dict[str, Any] = {
        "earlier": ()
        if pinned or resolved.count is None or isinstance(resolved, TinyProblems)
        else tuple(earlier)
    }
    if not isinstance(resolved, TinyProblems | GymProblems):
        more |= {"against": dict(against or {}) if resolved.overlap else {}}
        if isinstance(resolved, FileProblems):
            more |= {"digest": digest_files(local_files(resolved.path))}
        else:
            fetched = snapshot(resolved)
            more |= {"digest": fetched.digest, "origin": f"{resolved.id}@{fetched.commit}"}
    return stage.model_copy(update=more)


def read_problems(source: ProblemsConfig, seed: int, earlier: Sequence[int] = ()) -> list[Problem]:
    """Draw and read the problems of a source, with the prompt's wording.

    **Raises:** ValueError, with file and row, for a source that is missing, malformed or too small.
    """
    resolved = concrete(source)
    if isinstance(resolved, TinyProblems):
        from tasks.datasets.tiny_world import problems

        return [
            _worded(resolved, problem)
            for problem in problems(resolved.split, resolved.count or 256, seed)
        ]
    if isinstance(resolved, GymProblems):
        return [_worded(resolved, problem) for problem in gym_problems(resolved, seed, earlier)]
    pool = open_pool(resolved)
    return list(pool.problems(pool.drawn(seed, earlier)))


def check_problems(source: ProblemsConfig, seed: int) -> None:
    """Check that problems can be read. Raises ValueError as `read_problems` does.

    Reads every row of a local file, the problems requested of the tiny world, and one question of a
    generated family.
    """
    if isinstance(resolved := concrete(source), GymProblems):
        read_problems(resolved.model_copy(update={"count": 1}), seed)
    elif isinstance(resolved, FileProblems | TinyProblems):
        read_problems(resolved, seed)


def open_pool(source: Concrete, digest: str | None = None) -> Pool:
    """The pool of files or of hub data. Raises ValueError if its bytes do not match `digest`."""
    if isinstance(source, FileProblems):
        where, files = source.path, local_files(source.path)
    else:
        assert not isinstance(source, TinyProblems | GymProblems), "generated problems have no pool"
        where, files = source.id, snapshot(source).files
    if digest is not None and digest_files(files) != digest:
        raise ValueError(
            f"{where}: its bytes changed since they were first read; run the same command again"
        )
    return read_pool(where, source, files)


def load_problems(store: Store, ref: ProblemsRef) -> list[Problem]:
    with (store.path(ref.id) / "problems.jsonl").open(encoding="utf-8") as file:
        return [Problem.model_validate_json(line) for line in file]


def _write(path: Path, problems: Iterable[Problem]) -> None:
    """Write problems one at a time: the unit tests of a code set may not fit into memory."""
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
