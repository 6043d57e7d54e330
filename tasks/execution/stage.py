"""Stages: the units of work of a campaign, each with an identity and one stored result."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from erpd_core.config import RuntimeConfig
from erpd_core.refs import Frozen
from erpd_core.schedule import Phase
from tasks.execution.placement import placement
from tasks.execution.progress import Progress
from tasks.execution.resource_requests import ResourceRequest, actors_request, stage_request
from tasks.host.machine import give_back_memory, use_threads
from tasks.store import Build, Store, identity, open_store

_this_process = threading.Lock()
"""Held by the stage that runs in this process, if there is no Ray."""
before_waiting: ContextVar[Callable[[], None]] = ContextVar("before_waiting", default=lambda: None)
"""Called before this process waits for another one that builds the artifact it needs.

Whoever keeps resources between two artifacts lets go of them here: the other may wait for them.
"""
Ref = TypeVar("Ref", bound=Frozen)
Verb = Literal["import", "problems", "rollouts", "score", "train", "distill", "evaluate"]
"""Name of the Prefect task as which a campaign submits a stage."""


@dataclass(frozen=True)
class Context:
    """Where a stage runs. Nothing in here may change what the stage computes."""

    store: Store
    runtime: RuntimeConfig
    progress: Progress


class Stage(Frozen, Generic[Ref]):
    """A unit of work: frozen inputs, a content-based identity, and one result in the store.

    A stage is a pydantic value, so two processes that build the same stage agree on its identity.
    `Ref` is the type of the result: a small frozen value that is kept in the artifact's manifest.
    A subclass declares its fields, `spec`, `inputs` and `compute`:

    | member | meaning |
    |---|---|
    | `spec()` | the settings that affect values, as JSON; never paths, devices or worker counts |
    | `inputs()` | role -> identity of each artifact that `compute` reads |
    | `VERSION` | version of the code; raise it when a change makes `compute` return other values |
    | `compute(context, build)` | does the work and puts files into `build` |

    **Example:**

        class CountTokens(Stage[TokenCount]):
            KIND = "count"
            VERSION = 1
            REF = TokenCount
            VERB = "evaluate"

            rollouts: RolloutRef

            def spec(self):
                return {}

            def inputs(self):
                return {"rollouts": self.rollouts.id}

            def compute(self, context, build):
                return TokenCount(id=build.id, tokens=self.rollouts.tokens)

        count = get_or_compute(CountTokens(rollouts=ref), context)
    """

    KIND: ClassVar[str]
    """Kind of the artifact: the first part of its identity."""
    VERSION: ClassVar[int]
    """Version of the code, part of the identity."""
    REF: ClassVar[type[Any]]
    """The class behind `Ref`, which reads the result back from the manifest."""
    VERB: ClassVar[Verb]
    """The Prefect task that runs it."""
    PHASE: ClassVar[Phase | None] = None
    """The phase of an iteration that its seconds count towards; None if they are not counted."""
    CPU_ONLY: ClassVar[bool] = False
    """Whether it runs no model: it then requests one CPU and no GPU, whatever the runtime sets."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """The settings that affect values, as JSON."""

    @abstractmethod
    def inputs(self) -> dict[str, str]:
        """Role -> identity of each artifact that `compute` reads."""

    @abstractmethod
    def compute(self, context: Context, build: Build) -> Ref:
        """Do the work and put its files into `build`.

        A build that was interrupted is continued: it still holds the files put before.
        """

    def runs_on_actors(self, runtime: RuntimeConfig) -> bool:
        """Whether Ray actors do the work while the stage's own process only waits for them.

        Such a stage requests nothing of Ray: otherwise it would hold what its actors wait for.
        """
        return False

    def identity(self) -> str:
        """The identity of its artifact: a hash of KIND, spec, inputs and VERSION."""
        return identity(self.KIND, self.spec(), self.inputs(), self.VERSION)

    def stored(self, store: Store) -> Ref | None:
        """The result if the store holds it undamaged, else None."""
        artifact = self.identity()
        if not store.has(artifact):
            return None
        ref: Ref = self.REF.model_validate(store.manifest(artifact).meta["ref"])
        return ref


def get_or_compute(stage: Stage[Ref], context: Context) -> Ref:
    """The stage's result: read from the store, or computed now and stored.

    **Raises:** LookupError if an input is missing or damaged. The campaign that made it makes it
        again.
    """
    stored = stage.stored(context.store)
    if stored is not None:
        return stored
    for role, artifact in stage.inputs().items():
        if not context.store.has(artifact):
            raise LookupError(
                f"{type(stage).__name__}: its {role}, {artifact}, is missing or was damaged; "
                f"run the same command again"
            )
    with context.store.build(
        stage.KIND, stage.spec(), stage.inputs(), stage.VERSION, before_waiting.get()
    ) as build:
        if build is not None:
            use_threads(context.runtime.cpus)
            try:
                ref = stage.compute(context, build)
            finally:
                give_back_memory()
            where = {"engine": context.runtime.engine, "device": context.runtime.device}
            build.commit({"ref": ref.model_dump(mode="json"), **where})
            return ref
    stored = stage.stored(context.store)  # another process has built it meanwhile
    assert stored is not None, "the store says the artifact is there"
    return stored


def held_by(stage: Stage[Any], runtime: RuntimeConfig) -> ResourceRequest:
    """What a running stage holds: its own request, or those of its actors together."""
    if stage.runs_on_actors(runtime):
        return actors_request(stage.VERB, runtime)
    return ResourceRequest(1, 0.0) if stage.CPU_ONLY else stage_request(runtime)


def run_stage(stage: Stage[Ref], runtime: RuntimeConfig, label: str, events: Path | None) -> Ref:
    """Body of a Prefect task: `get_or_compute` in this process, with progress in `events`.

    Without Ray, stages of several flows share this process, and run one at a time.
    """
    with _this_process if runtime.ray == "off" else nullcontext():
        progress = Progress(events, label)
        where = placement(held_by(stage, runtime), runtime)
        progress.event(status="started", phase=stage.PHASE, resource=where)
        ref = get_or_compute(stage, Context(open_store(), runtime, progress))
        progress.event(status="finished")
        return ref
