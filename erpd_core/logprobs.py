"""Hidden states to token log-probs and entropy, chunk by chunk, without a whole [N, V] tensor.

There are two ways with equal results. `token_logprobs` returns columns for any use; its backward
recomputes the logits of each chunk. `fused_loss` is for a loss that is a sum over tokens. A chunk's
loss is then known while its logits exist, so the gradient is computed in the same pass: three
products by the head instead of four.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK = 512
"""Response tokens whose logits exist at once while the gradient of the head is computed. Every
chunk adds to the whole gradient, so larger chunks pass over it less often.
"""

FORWARD_CHUNK = 128
"""The same in the forward of `token_logprobs`, which computes no gradient."""

ChunkLoss = Callable[[slice, Tensor, Tensor], Tensor]
"""(slice of axis N, lp_n, entropy_n) -> what these tokens add to the loss, a scalar."""


@dataclass
class _Chunk:
    """Next-token distributions of n tokens.

    With logits z and p = softmax(z): d lp / dz = onehot - p, dH / dz_j = -p_j (log p_j + H).
    """

    logit_nV: Tensor
    """float32 logits minus the largest of their row."""
    exp_nV: Tensor
    """Exponentials of `logit_nV`: p times `total_n`."""
    total_n: Tensor
    """Sum of `exp_nV` over the vocabulary."""
    token_n: Tensor
    lp_n: Tensor
    entropy_n: Tensor

    @classmethod
    def of(cls, hidden_nH: Tensor, weight_VH: Tensor, token_n: Tensor) -> _Chunk:
        logit_nV = logits(hidden_nH, weight_VH).float()
        logit_nV -= logit_nV.amax(-1, keepdim=True)
        exp_nV = logit_nV.exp()
        total_n = exp_nV.sum(-1)
        mean_logit_n = torch.bmm(exp_nV[:, None, :], logit_nV[:, :, None]).flatten() / total_n
        lp_n = logit_nV.gather(1, token_n[:, None]).squeeze(1) - total_n.log()
        return cls(
            logit_nV, exp_nV, total_n, token_n, lp_n, (total_n.log() - mean_logit_n).clamp(min=0.0)
        )

    def grad_logits(self, grad_lp_n: Tensor, grad_entropy_n: Tensor) -> Tensor:
        """Gradient of the logits, [n, V]. It overwrites `exp_nV`, so it can be called only once."""
        if bool(grad_entropy_n.any()):
            centre_n = self.entropy_n - self.total_n.log()
            slope_nV = (
                self.logit_nV.add_(centre_n[:, None])
                .mul_(grad_entropy_n[:, None])
                .add_(grad_lp_n[:, None])
            )
            grad_nV = self.exp_nV.mul_(slope_nV).div_(-self.total_n[:, None])
        else:
            grad_nV = self.exp_nV.mul_((-grad_lp_n / self.total_n)[:, None])
        return grad_nV.scatter_add_(1, self.token_n[:, None], grad_lp_n[:, None])


_by_onednn = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkldnn.is_available()
    else None
)


def logits(hidden_nH: Tensor, weight_VH: Tensor) -> Tensor:
    """Logits of the head, [n, V].

    In float32 on a CPU the product is oneDNN's, which torch.compile uses too. For few rows and many
    columns it is faster than MKL, torch's default (`python -m benchmarks.head`).
    """
    if (
        _by_onednn
        and hidden_nH.device.type == "cpu"
        and hidden_nH.dtype == weight_VH.dtype == torch.float32
    ):
        product: Tensor = _by_onednn(hidden_nH, weight_VH, None, "none", [], "")
        return product
    return hidden_nH @ weight_VH.T


def _parts(count: int, size: int = CHUNK) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


class _Gradients:
    """Gradients of the hidden states and of the head, accumulated chunk by chunk."""

    def __init__(self, hidden_NH: Tensor, weight_VH: Tensor) -> None:
        self.hidden_NH, self.weight_VH = hidden_NH, weight_VH
        self.grad_hidden_NH, self.grad_weight_VH = (
            torch.empty_like(hidden_NH),
            torch.zeros_like(weight_VH),
        )

    def add(self, part: slice, grad_nV: Tensor) -> None:
        grad_nV = grad_nV.to(self.hidden_NH.dtype)
        torch.mm(grad_nV, self.weight_VH, out=self.grad_hidden_NH[part])
        self.grad_weight_VH.addmm_(grad_nV.T, self.hidden_NH[part])


class _ChunkedLogprobs(torch.autograd.Function):
    """Forward keeps hidden states and targets; backward recomputes the logits of each chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, token_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        lp_N = hidden_NH.new_empty(len(token_N), dtype=torch.float32)
        entropy_N = torch.empty_like(lp_N)
        for part in _parts(len(token_N), FORWARD_CHUNK):
            chunk = _Chunk.of(hidden_NH[part], weight_VH, token_N[part])
            lp_N[part], entropy_N[part] = chunk.lp_n, chunk.entropy_n
        ctx.save_for_backward(hidden_NH, weight_VH, token_N)
        return lp_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_lp_N, grad_entropy_N = grads
        hidden_NH, weight_VH, token_N = ctx.saved_tensors
        gradients = _Gradients(hidden_NH, weight_VH)
        for part in _parts(len(token_N)):
            chunk = _Chunk.of(hidden_NH[part], weight_VH, token_N[part])
            gradients.add(part, chunk.grad_logits(grad_lp_N[part], grad_entropy_N[part]))
        return gradients.grad_hidden_NH, gradients.grad_weight_VH, None


def token_logprobs(hidden_NH: Tensor, weight_VH: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each token and entropy of each next-token distribution.

    **Arguments:**
        hidden_NH: Hidden states that predict `token_N`.
        weight_VH: The output head.
    **Returns:** (lp_N, entropy_N), float32, nats, both differentiable in the hidden states and the
        head.
    """
    return _ChunkedLogprobs.apply(hidden_NH, weight_VH, token_N)


class _FusedLoss(torch.autograd.Function):
    """Forward computes the gradients already; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, token_N: Tensor, loss: ChunkLoss
    ) -> Tensor:
        gradients = _Gradients(hidden_NH, weight_VH)
        value = torch.zeros((), device=hidden_NH.device)
        for part in _parts(len(token_N)):
            chunk = _Chunk.of(hidden_NH[part], weight_VH, token_N[part])
            with torch.enable_grad():
                lp_n, entropy_n = (
                    chunk.lp_n.detach().requires_grad_(),
                    chunk.entropy_n.detach().requires_grad_(),
                )
                added = loss(part, lp_n, entropy_n)
                grads = torch.autograd.grad(
                    added, (lp_n, entropy_n), allow_unused=True, materialize_grads=True
                )
            value += added.detach()
            gradients.add(part, chunk.grad_logits(*grads))
        ctx.save_for_backward(gradients.grad_hidden_NH, gradients.grad_weight_VH)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden_NH, grad_weight_VH = ctx.saved_tensors
        return grad_hidden_NH.mul_(grads[0]), grad_weight_VH.mul_(grads[0]), None, None


def fused_loss(hidden_NH: Tensor, weight_VH: Tensor, token_N: Tensor, loss: ChunkLoss) -> Tensor:
    """Sum of `loss` over chunks of tokens.

    If the loss is a sum over tokens, this equals `loss` of the whole result of `token_logprobs`.
    `loss` is called once per chunk, in order.

    **Returns:** A scalar, differentiable once in the hidden states and the head.
    """
    return _FusedLoss.apply(hidden_NH, weight_VH, token_N, loss)
