"""Model families on flat rows with shared prompts: the numbers of padded rows, or a reason."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MambaConfig,
    PretrainedConfig,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5TextConfig,
    Qwen3Config,
)

from erpd_core.attention import FlatRow
from erpd_core.batch import TokenBatch
from erpd_core.config import SAPO, OptimizerConfig, RuntimeConfig
from erpd_core.logprobs import token_logprobs
from erpd_core.optimize import make_optimizer, optimize, score
from erpd_core.signals import FixedSignal
from tasks.models.layouts import PaddedRows
from tasks.models.policy import HFPolicy, load_policy, save_policy, vocabulary

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
SHARING = {
    "llama": LlamaConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL),
    "qwen3.5": Qwen3_5TextConfig(
        **SMALL, **LINEAR, layer_types=["linear_attention"] * 3 + ["full_attention"]
    ),
    "gemma3": Gemma3TextConfig(
        **SMALL, sliding_window=5, layer_types=["sliding_attention", "full_attention"] * 2
    ),
}
PADDED = {
    "gemma2": (
        Gemma2Config(**SMALL, attn_logit_softcapping=5.0, final_logit_softcapping=None),
        "soft-capped",
    ),
    "mamba": (MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=8), ""),
}


def random_model(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(config), dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                # at the initial 0.02 attention is nearly uniform, and mistakes would hardly show
                weight.mul_(6.0)
    return model


def batch() -> TokenBatch:
    generator = torch.Generator().manual_seed(1)

    def tokens(count: int) -> list[int]:
        return torch.randint(3, 50, (count,), generator=generator).tolist()

    lengths = [12, 1, 7, 3, 9, 20]
    return TokenBatch.build(
        [tokens(6), tokens(11)],
        [tokens(n) for n in lengths],
        [0, 0, 0, 1, 1, 1],
        [1, 0, 1, 0, 1, 0],
    )


def padded(config: PretrainedConfig) -> HFPolicy:
    """The same weights on padded rows."""
    policy = HFPolicy.__new__(HFPolicy)
    policy.model = random_model(config)
    vars(policy)["_chosen"] = (PaddedRows(), "asked")
    return policy


def gradients(policy: HFPolicy, some: TokenBatch, old_N: Tensor) -> tuple[float, dict[str, Tensor]]:
    """The loss and every parameter's gradient of one SAPO step."""
    optimizer = make_optimizer(policy, OptimizerConfig(lr=1e-12))
    signal = FixedSignal(torch.linspace(-1, 1, some.tokens))
    (record,) = optimize(
        policy,
        optimizer,
        some,
        old_N,
        signal,
        SAPO(),
        steps=1,
        minibatch=6,
        seed=0,
        max_grad_norm=1e9,
        token_budget=60,
    )
    return record["loss"], {
        name: weight.grad for name, weight in policy.named_parameters() if weight.grad is not None
    }


@pytest.mark.parametrize("family", SHARING)
def test_shared_rows_are_padded_rows(family: str):
    policy, reference, some = (
        HFPolicy(random_model(SHARING[family])),
        padded(SHARING[family]),
        batch(),
    )
    assert policy.fallback is None
    lp_N, entropy_N = score(policy, some, 60)
    wanted_lp_N, wanted_entropy_N = score(reference, some, 60)
    assert wanted_lp_N.std() > 0.5, "the log-probs must vary"
    torch.testing.assert_close(lp_N, wanted_lp_N, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(entropy_N, wanted_entropy_N, atol=1e-4, rtol=1e-4)
    loss, grads = gradients(policy, some, wanted_lp_N)
    wanted_loss, wanted = gradients(reference, some, wanted_lp_N)
    assert loss == pytest.approx(wanted_loss, abs=1e-5) and grads.keys() == wanted.keys()
    for name, grad in grads.items():
        assert float((grad - wanted[name]).norm()) <= 1e-3 * float(wanted[name].norm()) + 1e-6, name


@pytest.mark.parametrize("family", PADDED)
def test_a_model_that_cannot_share_says_why_and_runs_padded(family: str):
    config, why = PADDED[family]
    policy, some = HFPolicy(random_model(config)), batch()
    assert (
        policy.fallback is not None
        and "cannot share prompts" in policy.fallback
        and why in policy.fallback
    )
    lp_N, _ = score(policy, some, 60)
    torch.testing.assert_close(lp_N, one_by_one(random_model(config), some), atol=1e-4, rtol=1e-4)


def test_a_model_whose_logits_are_not_its_head_by_its_states_is_refused():
    with pytest.raises(ValueError, match=r"Gemma2ForCausalLM.*logits"):
        score(
            HFPolicy(random_model(Gemma2Config(**SMALL, final_logit_softcapping=3.0))), batch(), 60
        )


def test_a_run_is_told_of_the_slower_layout(tmp_path: Path):
    random_model(PADDED["gemma2"][0]).save_pretrained(tmp_path)
    notices: list[str] = []
    load_policy(tmp_path, RuntimeConfig(ray="off"), notices.append)
    assert len(notices) == 1 and "padded rows" in notices[0]


def one_by_one(model: Any, some: TokenBatch) -> Tensor:
    parts = []
    for sequence in range(some.sequences):
        prompt, response = some.prompts[int(some.group_S[sequence])], some.response(sequence)
        with torch.no_grad():
            hidden = model.base_model(
                torch.cat([prompt, response])[None], use_cache=False
            ).last_hidden_state[0]
            parts.append(
                token_logprobs(
                    hidden[len(prompt) - 1 : -1], model.get_output_embeddings().weight, response
                )[0]
            )
    return torch.cat(parts)


def test_an_image_text_checkpoint_is_taken_as_its_text_model(tmp_path: Path):
    """As Qwen3.5 is published. A trained model is saved as a text model and loads as one."""
    text = SHARING["qwen3.5"].to_dict()
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
    }
    full = Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision))
    full.save_pretrained(tmp_path / "whole")
    runtime = RuntimeConfig(ray="off")
    policy = load_policy(tmp_path / "whole", runtime)
    save_policy(policy, tmp_path / "text", tmp_path / "whole")
    again = load_policy(tmp_path / "text", runtime)
    assert (
        policy.fallback is None
        and vocabulary(tmp_path / "whole") == vocabulary(tmp_path / "text") == 50
    )
    assert torch.equal(score(policy, batch(), 60)[0], score(again, batch(), 60)[0])


@pytest.mark.parametrize("family", ["qwen3.5", "gemma3"])
def test_while_sampling_the_model_is_as_it_was_loaded(family: str):
    model, ids = random_model(SHARING[family]), batch().prompts[1][None]
    before = model(ids).logits
    policy = HFPolicy(model)
    with policy.sampling():
        torch.testing.assert_close(policy.model(ids).logits, before)
    assert score(policy, batch(), 60)[0].isfinite().all()


def test_the_trial_sees_a_model_that_ignores_the_branches():
    """Attention over the whole row gives finite but wrong numbers; only a comparison shows it."""
    model = random_model(SHARING["llama"])
    for layer in model.model.layers:
        layer.self_attn.forward = blind(layer.self_attn.forward)
    policy = HFPolicy(model)
    assert policy.fallback is not None and "away from those of padded rows" in policy.fallback


def blind(forward: Any) -> Any:
    def attend(*args: Any, row: FlatRow | None = None, **kwargs: Any) -> Any:
        if row is None:
            return forward(*args, **kwargs)
        for bucket in row.buckets:
            vars(bucket)["mask_BQK"] = torch.ones_like(bucket.mask_BQK)
        return forward(*args, row=row, **kwargs)

    return attend
