"""Hidden states to token log-probs and entropy, chunk by chunk: a [tokens, vocab] tensor never exists for a whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 512
"""Response tokens whose logits exist at once."""


class _ChunkedLogprobs(torch.autograd.Function):
    """Forward keeps hidden states and targets only; backward makes each chunk's logits again.

    With z the logits, p = softmax(z), H the entropy: d lp / dz = onehot - p, and dH / dz_j = -p_j (log p_j + H).
    """

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        lp_N = hidden_NH.new_empty(len(token_N), dtype=torch.float32)
        entropy_N = torch.empty_like(lp_N)
        for start in range(0, len(token_N), CHUNK):
            part = slice(start, start + CHUNK)
            logp = torch.log_softmax((hidden_NH[part] @ weight_VH.T).float(), dim=-1)
            lp_N[part] = logp.gather(1, token_N[part, None]).squeeze(1)
            entropy_N[part] = torch.special.entr(logp.exp()).sum(-1)
        ctx.save_for_backward(hidden_NH, weight_VH, token_N, entropy_N)
        return lp_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_lp_N, grad_entropy_N = grads
        hidden_NH, weight_VH, token_N, entropy_N = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden_NH)
        grad_weight = torch.zeros_like(weight_VH)
        with_entropy = bool(grad_entropy_N.any())
        for start in range(0, len(token_N), CHUNK):
            part = slice(start, start + CHUNK)
            logp = torch.log_softmax((hidden_NH[part] @ weight_VH.T).float(), dim=-1)
            p = logp.exp()
            grad_z = p * -grad_lp_N[part, None]
            grad_z.scatter_add_(1, token_N[part, None], grad_lp_N[part, None])
            if with_entropy:
                centred = torch.where(p > 0, logp + entropy_N[part, None], 0.0)
                grad_z -= grad_entropy_N[part, None] * p * centred
            grad_z = grad_z.to(hidden_NH.dtype)
            grad_hidden[part] = grad_z @ weight_VH
            grad_weight += grad_z.T @ hidden_NH[part]
        return grad_hidden, grad_weight, None


def token_logprobs(hidden_NH: Tensor, weight_VH: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each token and entropy of each next-token distribution.

    **Arguments:** `hidden_NH` hidden states that predict `token_N`; `weight_VH` the output head.
    **Returns:** (lp_N, entropy_N), float32, nats, both differentiable in the hidden states and the head.
    """
    return _ChunkedLogprobs.apply(hidden_NH, weight_VH, token_N)
