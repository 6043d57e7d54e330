"""A stage: one question with an identity, and the work that answers it. Everything a campaign does
is a stage.

A stage is a frozen pydantic value. `question()` is what was asked, `inputs()` the identities it
rests on, `VERSION` the code's: bump it when a change makes the step produce other values. The
answer is a small ref, kept in the artifact's manifest.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from erpd_core.config import RuntimeConfig
from erpd_core.refs import Frozen
from tasks.execution.progress import Progress
from tasks.host.machine import cores, give_back_memory, keep_freed_memory
from tasks.store import Build, Store, identity

Ref = TypeVar("Ref", bound=Frozen)


@dataclass(frozen=True)
class Context:
    """Where a stage runs: never part of what it answers."""

    store: Store
    runtime: RuntimeConfig
    progress: Progress


class Stage(Frozen, Generic[Ref]):
    KIND: ClassVar[str]
    VERSION: ClassVar[int]
    REF: ClassVar[type[Any]]
    LIGHT: ClassVar[bool] = False
    """It runs no model: one CPU and no GPU will do, however much the runtime gives to a stage."""

    @abstractmethod
    def question(self) -> dict[str, Any]: ...

    @abstractmethod
    def inputs(self) -> dict[str, str]: ...

    @abstractmethod
    def run(self, context: Context, build: Build) -> Ref:
        """Do the work, putting files into the build. A build continued after a kill already
        holds what was put before.
        """

    def waits(self, runtime: RuntimeConfig) -> bool:
        """Does its own process only wait for actors that do the work? Then it asks for no room:
        it would hold what they wait for.
        """
        return False

    def identity(self) -> str:
        return identity(self.KIND, self.question(), self.inputs(), self.VERSION)

    def stored(self, store: Store) -> Ref | None:
        """The answer when it is in the store, whole."""
        artifact = self.identity()
        if not store.has(artifact):
            return None
        ref: Ref = self.REF.model_validate(store.manifest(artifact).meta["ref"])
        return ref


def fulfil(stage: Stage[Ref], context: Context) -> Ref:
    """The stage's answer: found in the store, or worked out now and stored.

    Raises LookupError when an input is not in the store, or is damaged there: the campaign that
    makes it makes it again.
    """
    found = stage.stored(context.store)
    if found is not None:
        return found
    for role, artifact in stage.inputs().items():
        if not context.store.has(artifact):
            raise LookupError(
                f"{type(stage).__name__}: its {role}, {artifact}, is missing or was damaged; run "
                f"the same command again"
            )
    with context.store.build(stage.KIND, stage.question(), stage.inputs(), stage.VERSION) as build:
        if build is not None:
            compute_on(context.runtime.cpus)
            try:
                ref = stage.run(context, build)
            finally:
                give_back_memory()
            build.commit(
                {
                    "ref": ref.model_dump(mode="json"),
                    "engine": context.runtime.engine,
                    "device": context.runtime.device,
                }
            )
            return ref
    found = stage.stored(context.store)
    assert found is not None, "the store says the artifact is there"
    return found


def compute_on(count: int | None) -> None:
    """Compute in this process on so many CPU threads, on all of the machine when None; memory
    once taken is kept for the next tensors.
    """
    import torch  # here, so that asking the store costs no import of torch

    torch.set_num_threads(count or cores())
    keep_freed_memory()
