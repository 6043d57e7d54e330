"""Losses compared with TRL's `GRPOTrainer._compute_loss` and its defaults on the same tokens."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from erpd_core.config import CISPO, GRPO, PPO, SAPO, VESPO, Distill
from erpd_core.optimize import objective

from .helpers import random_inputs

pytestmark = pytest.mark.slow
LENGTHS = (3, 1, 5, 2)
CASES = [
    (GRPO(), {"loss_type": "grpo", "epsilon_high": 0.28}),
    (GRPO(clip_low=0.1, clip_high=0.5), {"loss_type": "grpo", "epsilon": 0.1, "epsilon_high": 0.5}),
    (GRPO(entropy_weight=0.5), {"loss_type": "grpo", "epsilon_high": 0.28, "entropy_coef": 0.5}),
    (Distill(), {"loss_type": "dapo"}),
    (PPO(), {"loss_type": "bnpo"}),
    (SAPO(), {"loss_type": "sapo"}),
    (
        SAPO(tau_pos=0.5, tau_neg=2.0),
        {"loss_type": "sapo", "sapo_temperature_pos": 0.5, "sapo_temperature_neg": 2.0},
    ),
    (CISPO(), {"loss_type": "cispo", "epsilon_high": 5.0}),
    (CISPO(max_weight=1.1), {"loss_type": "cispo", "epsilon_high": 1.1}),
    (CISPO(entropy_weight=0.5), {"loss_type": "cispo", "epsilon_high": 5.0, "entropy_coef": 0.5}),
    (VESPO(), {"loss_type": "vespo"}),
    (
        VESPO(k_pos=1.0, lambda_neg=0.5),
        {"loss_type": "vespo", "vespo_k_pos": 1.0, "vespo_lambda_neg": 0.5},
    ),
]


@pytest.fixture(scope="module")
def trl():
    """The module of TRL's GRPO.

    It is imported here and not at collection, because that takes longer than all these tests.
    """
    pytest.importorskip("trl", reason="compares with TRL: pip install -e '.[bench]'")
    from trl.trainer import grpo_trainer

    return grpo_trainer


def padded(column_N):
    """[N] -> [S, T], with zeros after each response."""
    return torch.nn.utils.rnn.pad_sequence(column_N.split(LENGTHS), batch_first=True)


def trl_loss(trl, args, lp_N, old_N, signal_N, entropy_N):
    """TRL's loss in training mode, with the given log-probs and entropies instead of a forward."""
    mask = padded(torch.ones_like(old_N)).long()
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (padded(lp_N), padded(entropy_N), None),
        _entropy_bonus_enabled=args.entropy_coef != 0,
        _metrics={"train": defaultdict(list)},
        accelerator=SimpleNamespace(
            num_processes=1, sync_gradients=True, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        args=args,
        aux_loss_enabled=False,
        beta=args.beta,
        current_gradient_accumulation_steps=1,
        entropy_coef=args.entropy_coef,
        epsilon_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
        epsilon_low=args.epsilon,
        get_gamma_weights=trl.GRPOTrainer.get_gamma_weights,
        importance_sampling_level=args.importance_sampling_level,
        loss_type=args.loss_type,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=args.off_policy_mask_threshold,
        top_entropy_quantile=args.top_entropy_quantile,
        use_adaptive_entropy=args.use_adaptive_entropy,
        use_vllm=args.use_vllm,
    )
    inputs = {
        "prompt_ids": torch.zeros(len(LENGTHS), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(LENGTHS), 1, dtype=torch.long),
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": padded(signal_N),
        "old_per_token_logps": padded(old_N),
        "num_items_in_batch": mask.sum(),
    }
    return trl.GRPOTrainer._compute_loss(trainer, trainer.model, inputs)


@pytest.mark.parametrize("one_signal_per_response", [True, False])
@pytest.mark.parametrize(
    ("config", "settings"),
    CASES,
    ids=lambda value: str(value) if isinstance(value, dict) else value.kind,
)
def test_value_and_gradients_are_trls(config, settings, one_signal_per_response, tmp_path, trl):
    args = trl.GRPOConfig(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, **settings
    )
    for seed in range(5):
        x = random_inputs(seed, LENGTHS)
        if one_signal_per_response:
            x.signal_N.copy_(x.signal_N[:4][x.seq_N])
        of = (x.lp_N.requires_grad_(), x.entropy_N.requires_grad_())
        ours = objective(config, x)[0]
        theirs = trl_loss(trl, args, x.lp_N, x.old_N, x.signal_N, x.entropy_N)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
        for mine, other in zip(
            *(
                torch.autograd.grad(loss, of, allow_unused=True, materialize_grads=True)
                for loss in (ours, theirs)
            )
        ):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-9)


def test_our_defaults_are_trls(tmp_path, trl):
    """TRL has defaults for SAPO's temperatures and VESPO's k and lambda. GRPO's upper clip and
    CISPO's weight it only recommends.
    """
    args = trl.GRPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False)
    assert (SAPO().tau_pos, SAPO().tau_neg) == (
        args.sapo_temperature_pos,
        args.sapo_temperature_neg,
    )
    assert (VESPO().k_pos, VESPO().lambda_pos) == (args.vespo_k_pos, args.vespo_lambda_pos)
    assert (VESPO().k_neg, VESPO().lambda_neg) == (args.vespo_k_neg, args.vespo_lambda_neg)
    assert GRPO().clip_low == args.epsilon
