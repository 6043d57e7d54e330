"""The vLLM engine, inside this process: paged attention, continuous batching, one seeded request
per response over a shared prefix.

vLLM as it comes belongs to a server: it takes sampling defaults from the model's generation config,
logs to stdout, seeds the process, asks the network who it is and keeps its caches in the user's
home. All of that is switched off here, before it is imported.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from erpd_core.config import RuntimeConfig, SamplingConfig
from tasks.engines.base import Finished, Sample
from tasks.engines.text import Tokenized
from tasks.host.home import home
from tasks.models.model_files import trusts_code
from tasks.models.policy import device_of

SEED_BITS = 63
"""vLLM keeps a seed in a signed 64-bit integer."""
TEMPERATURES = (0.01, 2.0)
"""vLLM moves a lower one up to 0.01 and refuses a higher one."""
CPU_KV_CACHE_GIB = 1.0
CPU_BLOCK = 32
"""Tokens per block of the KV cache on a CPU: the smallest its kernels like. Whole blocks are
shared, so short prompts share as well.
"""


class VLLMEngine(Tokenized):
    """One at a time in a process: vLLM's parallel state is global, and closing one engine takes it
    away from all.

    Raises RuntimeError for a second one. Where torch.distributed already serves a trainer in
    several processes, sample in another process.
    """

    name = "vllm"
    _open: ClassVar[bool] = False

    def __init__(self, folder: Path, runtime: RuntimeConfig) -> None:
        super().__init__(folder)
        if VLLMEngine._open:
            raise RuntimeError("a vLLM engine is open in this process already; close it first")
        _settle(runtime)
        from vllm import EngineArgs, LLMEngine

        with _undisturbed():
            self._engine: Any = LLMEngine.from_engine_args(
                EngineArgs(**engine_arguments(folder, runtime))
            )
        VLLMEngine._open = True
        self._fits = int(self._engine.model_config.max_model_len)

    def close(self) -> None:
        if engine := self.__dict__.pop("_engine", None):
            VLLMEngine._open = False
            engine.engine_core.shutdown()

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        finished: Finished,
    ) -> list[Sample]:
        """Raises ValueError for a temperature vLLM does not sample at, and for prompts whose
        responses would not fit into its KV cache.
        """
        self._check(prompts, sampling)
        asked: list[str] = []
        samples: dict[int, Sample] = {}
        try:
            for prompt, of_prompt in zip(prompts, seeds, strict=True):
                rendered = self._render(prompt)
                for seed in of_prompt:
                    parameters = self._parameters(sampling, seed)
                    asked.append(
                        str(self._engine.add_request(str(len(asked)), dict(rendered), parameters))
                    )
            while self._engine.has_unfinished_requests():
                for output in self._engine.step():
                    if output.finished:
                        index, (answer,) = int(output.request_id), output.outputs
                        samples[index] = Sample(
                            list(answer.token_ids), truncated=answer.finish_reason == "length"
                        )
                        finished(index, samples[index])
        finally:
            # none is left, unless something was raised
            self._engine.abort_request(asked, internal=True)
        return [samples[index] for index in range(len(asked))]

    def _check(self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig) -> None:
        self.check_prompts(prompts)
        if not TEMPERATURES[0] <= sampling.temperature <= TEMPERATURES[1]:
            raise ValueError(
                f"vLLM samples at a temperature from {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g}, "
                f"not at {sampling.temperature:g};"
                " use runtime.engine=transformers"
            )
        longest = min(max(map(len, prompts)) + sampling.max_new_tokens, self.context)
        if longest > self._fits:
            raise ValueError(
                f"a response may come to {longest} tokens with its prompt, but vLLM's KV cache "
                f"holds {self._fits};"
                " raise runtime.gpu_memory_utilization or runtime.kv_cache_gib, or lower "
                "max_new_tokens"
            )

    def _render(self, prompt: Sequence[int]) -> Any:
        """A prompt as the scheduler takes it."""
        (rendered,) = self._engine.renderer.render_cmpl([{"prompt_token_ids": list(prompt)}])
        return rendered

    def _parameters(self, sampling: SamplingConfig, seed: int) -> Any:
        """What is sampled of one response. Several responses are several requests: `n` of one
        would tie them to each other's batch.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            seed=seed % 2**SEED_BITS,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,
            min_p=0.0,
            presence_penalty=sampling.presence_penalty,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=self.stop_ids,
            ignore_eos=True,  # the stop tokens are ours, the same as every engine's
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            # made for one request: vLLM need not copy it, which costs a millisecond
            skip_clone=True,
        )

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Raises ValueError when the model has weights that are not among these."""
        missing = self._engine.collective_rpc(
            _take_over, args=([(name, weight.detach()) for name, weight in weights],)
        )
        if names := sorted({name for of_worker in missing for name in of_worker}):
            raise ValueError(f"vLLM's model has weights it was not given: {', '.join(names[:5])}")
        self._engine.reset_prefix_cache()


def engine_arguments(folder: Path, runtime: RuntimeConfig) -> dict[str, Any]:
    """What vLLM is told of the model in `folder`, and of the machine."""
    cpu = device_of(runtime).type == "cpu"
    cache = runtime.kv_cache_gib or (CPU_KV_CACHE_GIB if cpu else None)
    on_cpu = {"enforce_eager": True, "block_size": CPU_BLOCK} if cpu else {}
    return {
        "model": str(folder),
        "load_format": "safetensors",  # left to itself it would also take pickled weights
        "trust_remote_code": trusts_code(folder),
        "skip_tokenizer_init": True,
        "dtype": runtime.dtype,
        # the model's own, or what fits into the cache: `sample` refuses what does not
        "max_model_len": -1,
        # nothing from the model's generation_config.json but what `stop_tokens` takes
        "generation_config": "vllm",
        "tensor_parallel_size": runtime.tensor_parallel,
        "distributed_executor_backend": "uni" if runtime.tensor_parallel == 1 else "mp",
        "gpu_memory_utilization": runtime.gpu_memory_utilization,
        "kv_cache_memory_bytes": int(cache * 2**30) if cache else None,
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
        **on_cpu,
    }


def _take_over(worker: Any, weights: list[tuple[str, Tensor]]) -> set[str]:
    """In a vLLM worker: overwrite the model's weights, whatever layout its kernels keep them in;
    the names of those left out.
    """
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.model_executor.model_loader.reload import (
        finalize_layerwise_reload,
        initialize_layerwise_reload,
    )

    model = worker.get_model()
    expected = {name for name, _ in model.named_parameters()}
    with set_current_vllm_config(worker.vllm_config), torch.no_grad():
        initialize_layerwise_reload(model)
        loaded = model.load_weights(iter(weights))
        finalize_layerwise_reload(model, worker.model_config)
        for module in model.modules():
            # tied to the embedding it is not loaded, and on a CPU keeps a packed copy of its own
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
    return expected - set(loaded)


def _settle(runtime: RuntimeConfig) -> None:
    """What vLLM reads from the environment when it is imported or starts. What the user has set
    stays, except where to write.
    """
    cache = home() / "cache" / "vllm"
    os.environ |= {
        "VLLM_CACHE_ROOT": str(cache),
        "VLLM_CONFIG_ROOT": str(cache),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
    }
    for name, value in {
        # the scheduler in this process: it may be a Ray actor's or a Prefect thread's
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
    }.items():
        os.environ.setdefault(name, value)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keeps what vLLM's start changes for the rest of the process: random states, the environment
    (LD_PRELOAD, thread counts, which every child would inherit), and the means to set torch's
    threads, which its CPU build takes away.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    environment, set_threads = dict(os.environ), torch.set_num_threads
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.set_num_threads = set_threads
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ |= environment
