"""PPO's critic: a model of its own, from the start policy's weights, fitted to a fixed batch.
What it leaves is a column of values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from erpd_core.batch import TokenBatch
from erpd_core.config import PPO, CriticConfig, RuntimeConfig
from erpd_core.critic import explained_variance, fit_values, predict_values, require_sound_values
from erpd_core.faults import placed
from erpd_core.finite import require_finite_weights
from erpd_core.optimize import make_optimizer
from erpd_core.refs import PolicyRef, RolloutRef, ValuesRef
from tasks.execution.stage import Context, Stage, Verb
from tasks.models.policy import HFPolicy, load_policy
from tasks.rollouts import load_batch, shards
from tasks.store import Build, Store
from tasks.training.batch_check import check_learning_signal
from tasks.training.checkpoint import RESUME, checkpoint, put_records, resume


class HFCritic:
    """A policy's transformer with a scalar head, in float32, on the hidden states that predict each
    response token.

    The head starts at 0 and its bias at `start`: the first values are that constant, and steps are
    spent on differences.
    """

    def __init__(self, policy: HFPolicy, start: float) -> None:
        self._policy = policy
        self.body: nn.Module = policy.model.base_model
        weight = policy.head()
        self.head = nn.Linear(weight.shape[1], 1, dtype=torch.float32, device=weight.device)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, start)

    def plan(self, batch: TokenBatch, sequences: Tensor, token_budget: int) -> Sequence[Any]:
        return self._policy.plan(batch, sequences, token_budget)

    def values(self, micro: Any) -> Tensor:
        values: Tensor = self.head(self._policy.hidden(micro).float()).squeeze(-1)
        return values

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Not the policy's output head, which a critic has no use for (its embeddings may be the
        same tensor).
        """
        yield from self.body.named_parameters(prefix="body")
        yield from self.head.named_parameters(prefix="head")

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for _, parameter in self.named_parameters()]

    def copy_from(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite parameters by name."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(tensors[name])

    def save(self, path: Path) -> None:
        save_file(
            {name: parameter.detach().contiguous() for name, parameter in self.named_parameters()},
            path,
        )


class TrainCritic(Stage[ValuesRef]):
    """Value pretraining (VC-PPO) on the batch, then the critic's values of it: what PPO's
    advantages are made of.

    The artifact holds the values as one float32 column per rollout shard (`load_column(store, ref,
    "value")`), the critic at each kept step as `critic-<step>.safetensors`, and a record per step
    (`tasks.training.stage.load_records`). Each file is durable as soon as it exists.
    """

    KIND: ClassVar[str] = "critic"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = ValuesRef
    VERB: ClassVar[Verb] = "train"
    PHASE: ClassVar[str | None] = "teacher"

    init: PolicyRef
    rollouts: RolloutRef
    config: CriticConfig
    seed: int

    def spec(self) -> dict[str, Any]:
        return {"config": self.config.model_dump(mode="json"), "seed": self.seed}

    def inputs(self) -> dict[str, str]:
        return {"init": self.init.id, "rollouts": self.rollouts.id}

    def compute(self, context: Context, build: Build) -> ValuesRef:
        with placed("critic training"):
            return self._train(context, build)

    def _train(self, context: Context, build: Build) -> ValuesRef:
        check_learning_signal(context.store, self.rollouts, PPO())
        paths = list(shards(context.store, self.rollouts))
        batch = load_batch(iter(paths))
        critic = self._critic(context, build, batch)
        build.drop(RESUME)
        parts = []
        for path in paths:
            name = path.with_suffix(".safetensors").name
            if not build.done(name):
                value_N = predict_values(
                    critic, load_batch(iter([path])), context.runtime.token_budget
                )
                build.put(name, partial(save_file, {"value": value_N}))
            parts.append(load_file(build.folder / name)["value"])
        return_N, value_N = batch.reward_S[batch.seq_N], torch.cat(parts)
        require_sound_values(value_N, return_N)
        explained = explained_variance(return_N, value_N)
        return ValuesRef(
            id=build.id, init=self.init, rollouts=self.rollouts.id, explained_variance=explained
        )

    def _critic(self, context: Context, build: Build, batch: TokenBatch) -> HFCritic:
        """The critic after its last step: fitted now, or read when a killed run had got that
        far.
        """
        config = self.config
        critic = HFCritic(
            load_policy(context.store.path(self.init.id), context.runtime),
            float(batch.reward_S.mean()),
        )
        last = _kept(config.steps)
        if build.done(last):
            critic.copy_from(load_file(build.folder / last))
            return critic
        optimizer = make_optimizer(critic, config.optimizer)
        done, records = resume(build, critic, optimizer)
        steps = fit_values(
            critic,
            optimizer,
            batch,
            steps=config.steps,
            start=done,
            minibatch=config.minibatch,
            seed=self.seed,
            max_grad_norm=config.optimizer.max_grad_norm,
            token_budget=context.runtime.token_budget,
        )
        for record in steps:
            records.append(record)
            step = int(record["step"])
            resumable = step % context.runtime.checkpoint_every == 0 and step < config.steps
            if resumable or step in config.trail:
                require_finite_weights(critic.named_parameters(), step)
            if step in config.keep and step < config.steps:
                build.put(_kept(step), critic.save)
            if resumable:
                checkpoint(build, critic, optimizer, step, records)
            context.progress(step, config.steps, value_loss=round(record["value_loss"], 4))
        put_records(build, records)
        build.put(last, critic.save)
        return critic


def load_critic(store: Store, ref: ValuesRef, step: int, runtime: RuntimeConfig) -> HFCritic:
    """The critic kept at `step`. Raises LookupError when it was not kept."""
    path = store.path(ref.id) / _kept(step)
    if not path.exists():
        raise LookupError(f"step {step} of {ref.id} was not kept; add it to keep of the critic")
    critic = HFCritic(load_policy(store.path(ref.init.id), runtime), 0.0)
    critic.copy_from(load_file(path))
    return critic


def _kept(step: int) -> str:
    return f"critic-{step:06d}.safetensors"
