"""Hidden states to token log-probs and entropy, chunk by chunk: a [tokens, vocab] tensor never
exists for a whole batch.

Two ways with the same numbers. `token_logprobs` gives columns that anything may be made of; its
backward makes each chunk's logits again. `fused_loss` is for a loss that is a sum over tokens: each
chunk's loss is known while its logits are there, so its gradient is made in the same pass, with
three products by the head instead of four.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK = 512
"""Response tokens whose logits exist at once while the head's gradient, which each chunk goes
over as a whole, is made.
"""

FORWARD_CHUNK = 128
"""And while none is."""

ChunkLoss = Callable[[slice, Tensor, Tensor], Tensor]
"""(which tokens, their lp_n, their entropy_n) -> what they add to the loss, a scalar."""


@dataclass
class _Chunk:
    """Next-token distributions of some tokens. With logits z, p = softmax(z): d lp / dz = onehot
    - p, dH / dz_j = -p_j (log p_j + H).
    """

    logit_nV: Tensor
    """float32 logits minus their row's largest."""
    exp_nV: Tensor
    """Their exponentials: p times `total_n`."""
    total_n: Tensor
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
        """[n, V] gradient of the logits. Takes over `exp_nV`: a chunk can be asked once."""
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
    """[n, V]. In float32 on a CPU by oneDNN, which torch.compile takes too: for few rows and many
    columns it is quicker than MKL, which torch takes (`python -m benchmarks.head`).
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
    """Gradients of hidden states and head, filled chunk by chunk."""

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
    """Forward keeps hidden states and targets only; backward makes each chunk's logits again."""

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
        found = _Gradients(hidden_NH, weight_VH)
        for part in _parts(len(token_N)):
            chunk = _Chunk.of(hidden_NH[part], weight_VH, token_N[part])
            found.add(part, chunk.grad_logits(grad_lp_N[part], grad_entropy_N[part]))
        return found.grad_hidden_NH, found.grad_weight_VH, None


def token_logprobs(hidden_NH: Tensor, weight_VH: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each token and entropy of each next-token distribution.

    **Arguments:** `hidden_NH` hidden states that predict `token_N`; `weight_VH` the output head.
    **Returns:** (lp_N, entropy_N), float32, nats, both differentiable in the hidden states and the
    head.
    """
    return _ChunkedLogprobs.apply(hidden_NH, weight_VH, token_N)


class _FusedLoss(torch.autograd.Function):
    """Forward makes the gradients already; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, token_N: Tensor, loss: ChunkLoss
    ) -> Tensor:
        found = _Gradients(hidden_NH, weight_VH)
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
            found.add(part, chunk.grad_logits(*grads))
        ctx.save_for_backward(found.grad_hidden_NH, found.grad_weight_VH)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden_NH, grad_weight_VH = ctx.saved_tensors
        return grad_hidden_NH.mul_(grads[0]), grad_weight_VH.mul_(grads[0]), None, None


def fused_loss(hidden_NH: Tensor, weight_VH: Tensor, token_N: Tensor, loss: ChunkLoss) -> Tensor:
    """The sum of `loss` over chunks of tokens: a scalar, differentiable once in the hidden states
    and the head.

    Equals `loss` of all of `token_logprobs` at once whenever the loss is a sum over tokens. It is
    called once for each chunk, in order.
    """
    return _FusedLoss.apply(hidden_NH, weight_VH, token_N, loss)
