"""The stage that scores a rollout under a policy: a column of token log-probs.

They always come from the trainer's forward pass, never from the sampler.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import Any, ClassVar

from safetensors.torch import save_file
from torch import Tensor

from erpd_core.columns import Column
from erpd_core.config import RuntimeConfig
from erpd_core.faults import placed
from erpd_core.finite import require_finite_column
from erpd_core.refs import LogprobRef, PolicyRef, RolloutRef, ValuesRef
from erpd_core.schedule import Phase
from tasks.execution.stage import Context, Stage, Verb
from tasks.models.policy import load_tokenizer, vocabulary
from tasks.rollouts import shards
from tasks.rollouts.columns import stored_column
from tasks.rollouts.scorers import score_shards
from tasks.store import Build, Store


class ScoreRollouts(Stage[LogprobRef]):
    """Log-prob and entropy of every response token of a rollout under a policy, in nats.

    The artifact has one file per rollout shard with the columns `lp` and `entropy` ([N] float32).
    Each file is durable as soon as it is finished.
    """

    KIND: ClassVar[str] = "column"
    VERSION: ClassVar[int] = 2
    REF: ClassVar[type] = LogprobRef
    VERB: ClassVar[Verb] = "score"
    PHASE: ClassVar[Phase | None] = "score"

    policy: PolicyRef
    rollouts: RolloutRef

    def runs_on_actors(self, runtime: RuntimeConfig) -> bool:
        return runtime.scores_on_actors

    def spec(self) -> dict[str, Any]:
        return {}

    def inputs(self) -> dict[str, str]:
        return {"policy": self.policy.id, "rollouts": self.rollouts.id}

    def compute(self, context: Context, build: Build) -> LogprobRef:
        require_same_vocabulary(context.store, self.policy, self.rollouts.policy)
        names = {
            path: path.with_suffix(".safetensors").name
            for path in shards(context.store, self.rollouts)
        }
        todo = [path for path, name in names.items() if not build.done(name)]
        with closing(
            score_shards(
                todo, context.store.path(self.policy.id), context.runtime, context.progress
            )
        ) as columns:
            for count, (path, column) in enumerate(columns, len(names) - len(todo) + 1):
                with placed(f"{self.policy.id} on {path.name} of {self.rollouts.id}"):
                    require_finite_column(
                        column["lp"],
                        "log-probs",
                        "train that policy again with a lower learning rate, or take another",
                    )
                build.put(names[path], partial(save_file, column))
                context.progress(count, len(names))
        return LogprobRef(id=build.id, policy=self.policy, rollouts=self.rollouts.id)


def open_column(store: Store, ref: LogprobRef | ValuesRef, name: str = "lp") -> Column:
    """A column over the whole rollout: [N] float32, left on disk if it is large.

    `name` is `lp` or `entropy`, or `value` for the values of a critic.
    """
    return stored_column(sorted(store.path(ref.id).glob("shard-*.safetensors")), name)


def load_column(store: Store, ref: LogprobRef | ValuesRef, name: str = "lp") -> Tensor:
    """`open_column`, loaded into memory."""
    return open_column(store, ref, name)[:]


def require_same_vocabulary(store: Store, a: PolicyRef, b: PolicyRef) -> None:
    """Refuse to compare log-probs of two policies whose vocabularies differ.

    **Raises:** ValueError if the sizes or the tokens differ.
    """
    sizes = [vocabulary(store.path(policy.id)) for policy in (a, b)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{a.id} has {sizes[0]} tokens and {b.id} {sizes[1]}: a log-ratio needs one "
            f"vocabulary; use policies of one family"
        )
    files = [store.manifest(policy.id).files.get("tokenizer.json") for policy in (a, b)]
    if files[0] and files[0] == files[1]:
        return
    ours, theirs = (load_tokenizer(store.path(policy.id)).get_vocab() for policy in (a, b))
    if different := sorted(ours.items() ^ theirs.items(), key=lambda item: item[1]):
        raise ValueError(
            f"token {different[0][1]} is not the same in {a.id} and in {b.id}: a log-ratio needs "
            f"one vocabulary; use policies of one family"
        )
