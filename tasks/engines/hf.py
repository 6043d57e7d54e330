"""The transformers engine: a plain decoding loop.

Each prompt is prefilled once and shared by its samples. Finished rows leave the batch. Every
response has its own random stream (its seed) with one uniform number per token, so that samples
depend on prompts, not on workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from erpd_core.config import RuntimeConfig, SamplingConfig
from tasks.engines.base import Finished, Sample
from tasks.engines.cache import spread
from tasks.engines.text import Tokenized
from tasks.engines.token_sampling import draw
from tasks.models.hf import DynamicCache
from tasks.models.policy import HFPolicy, load_model

BLOCK = 128
"""Uniform numbers drawn at a time for each response."""


class TransformersEngine(Tokenized):
    name = "transformers"

    def __init__(
        self, folder: Path, runtime: RuntimeConfig, trained: HFPolicy | None = None
    ) -> None:
        super().__init__(folder)
        self.model = trained.model if trained else load_model(folder, runtime)
        self._ready = trained.sampling if trained else nullcontext
        self.stops = torch.tensor(self.stop_ids, device=self.model.device)

    @torch.no_grad()
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        own = dict(self.model.named_parameters())
        for name, weight in weights:
            # a model shared with the trainer has the new weights already
            if weight is not own[name]:
                own[name].copy_(weight)

    def close(self) -> None:
        del self.model, self._ready  # a shared model stays with its trainer
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        finished: Finished,
    ) -> list[Sample]:
        self.check_prompts(prompts)
        with self._ready(), torch.inference_mode():
            return self._sample(prompts, seeds, sampling, finished)

    def _sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        finished: Finished,
    ) -> list[Sample]:
        device = self.model.device
        streams = [
            np.random.Generator(np.random.Philox(seed)) for of_prompt in seeds for seed in of_prompt
        ]
        logits, cache, mask, length = self._prefill(prompts)
        owner = torch.arange(len(prompts), device=device).repeat_interleave(
            torch.tensor([len(of_prompt) for of_prompt in seeds], device=device)
        )
        logits, mask, length = logits[owner], mask[owner], length[owner]
        spread(cache, owner)
        alive = torch.arange(len(streams), device=device)
        tokens: list[list[int]] = [[] for _ in streams]
        samples: dict[int, Sample] = {}
        uniform = torch.empty(0)
        # [B, V]: the tokens that each response contains already
        used = torch.zeros_like(logits, dtype=torch.bool) if sampling.presence_penalty else None
        for position in range(sampling.max_new_tokens):
            if position % BLOCK == 0:
                rows = [streams[row].random(BLOCK) for row in alive.tolist()]
                uniform = torch.from_numpy(np.stack(rows)).to(device)
            fresh = logits if used is None else logits - sampling.presence_penalty * used
            chosen = draw(fresh, uniform[:, position % BLOCK], sampling)
            if used is not None:
                used.scatter_(1, chosen[:, None], True)
            for row, token in zip(alive.tolist(), chosen.tolist(), strict=True):
                tokens[row].append(token)
            stopped = torch.isin(chosen, self.stops)
            # `length` does not count the token just chosen
            going = ~stopped & (length + 1 < self.context)
            if not bool(going.all()):
                for row, complete in zip(
                    alive[~going].tolist(), stopped[~going].tolist(), strict=True
                ):
                    samples[row] = Sample(tokens[row], truncated=not complete)
                    finished(row, samples[row])
                keep = going.nonzero().squeeze(1)
                alive, chosen, mask, length, uniform = (
                    x[keep] for x in (alive, chosen, mask, length, uniform)
                )
                used = None if used is None else used[keep]
                cache.batch_select_indices(keep)
            if len(alive) == 0 or position + 1 == sampling.max_new_tokens:
                break
            mask = torch.cat([mask, mask.new_ones(len(alive), 1)], 1)
            out = self.model(
                input_ids=chosen[:, None],
                attention_mask=mask,
                position_ids=length[:, None],
                past_key_values=cache,
                use_cache=True,
            )
            logits, length = out.logits[:, -1], length + 1
        for row in alive.tolist():
            samples[row] = Sample(tokens[row], truncated=True)
            finished(row, samples[row])
        return [samples[row] for row in range(len(streams))]

    def _prefill(
        self, prompts: Sequence[Sequence[int]]
    ) -> tuple[Tensor, DynamicCache, Tensor, Tensor]:
        device = self.model.device
        width = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        position = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        out = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=position.to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1], cache, mask.to(device), mask.sum(1).to(device)
