"""The stage that trains PPO's critic on a fixed batch, and stores its values as a column.

The critic is a separate model that starts from the weights of the start policy.
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
from erpd_core.config import PPO, CriticConfig
from erpd_core.critic import explained_variance, fit_values, predict_values, require_sound_values
from erpd_core.faults import placed
from erpd_core.finite import require_finite_weights
from erpd_core.optimize import make_optimizer
from erpd_core.refs import PolicyRef, RolloutRef, ValuesRef
from erpd_core.schedule import Phase
from tasks.execution.stage import Context, Stage, Verb
from tasks.models.policy import HFPolicy, load_policy
from tasks.rollouts import load_batch, shards
from tasks.store import Build
from tasks.training.batch_check import check_learning_signal
from tasks.training.checkpoint import RESUME, checkpoint, put_records, resume


class HFCritic:
    """A policy's transformer with a scalar value head in float32.

    The value of a response token is computed from the hidden state that predicts it. The head's
    weights start at 0 and its bias at `start`, so that all first values equal `start` and training
    only has to learn differences.
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
        """Parameters of the transformer and the value head.

        The policy's output head is left out, because a critic does not use it. It may be the same
        tensor as the embeddings.
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
    """Value pretraining (VC-PPO) on a batch, and the critic's values, for PPO's advantages.

    The artifact holds the values as one float32 column per rollout shard (`load_column(store, ref,
    "value")`), the critic at each kept step as `critic-<step>.safetensors`, and a record per step
    (`tasks.training.base.load_records`). Each file is durable as soon as it is finished.
    """

    KIND: ClassVar[str] = "critic"
    VERSION: ClassVar[int] = 1
    REF: ClassVar[type] = ValuesRef
    VERB: ClassVar[Verb] = "train"
    PHASE: ClassVar[Phase | None] = "teacher"

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
        """The critic after its last step: trained now, or read if a killed run had finished it."""
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


def _kept(step: int) -> str:
    return f"critic-{step:06d}.safetensors"
