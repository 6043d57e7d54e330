"""The vLLM engine, inside this process.

It uses paged attention, continuous batching, and one seeded request per response over a shared
prefix. By default vLLM behaves as a server: it takes sampling defaults from the model's generation
config, logs to stdout, seeds the process, looks up its address on the network and keeps its caches
in the user's home. All of that is turned off here before vLLM is imported.
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
"""Range of temperatures. vLLM raises a lower one to 0.01 and refuses a higher one."""
CPU_KV_CACHE_GIB = 1.0
CPU_BLOCK = 32
"""Tokens per block of the KV cache on a CPU: the smallest size that its kernels handle well.

Only whole blocks are shared, so that with small ones short prompts are shared too.
"""


class VLLMEngine(Tokenized):
    """The vLLM engine; a process can have only one open at a time.

    vLLM's parallel state is global, and closing one engine removes it for all. If torch.distributed
    already serves a trainer in several processes, sample in another process.

    **Raises:** RuntimeError for a second open engine.
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
        """Sample as `Engine.sample` does.

        **Raises:** ValueError for a temperature that vLLM does not support, and for prompts whose
            responses would not fit into its KV cache.
        """
        self._check(prompts, sampling)
        requests: list[str] = []
        samples: dict[int, Sample] = {}
        try:
            for prompt, of_prompt in zip(prompts, seeds, strict=True):
                rendered = self._render(prompt)
                for seed in of_prompt:
                    parameters = self._parameters(sampling, seed)
                    requests.append(
                        str(
                            self._engine.add_request(str(len(requests)), dict(rendered), parameters)
                        )
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
            # requests are left only if something was raised
            self._engine.abort_request(requests, internal=True)
        return [samples[index] for index in range(len(requests))]

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
                f"a response may reach {longest} tokens with its prompt, but vLLM's KV cache "
                f"holds {self._fits};"
                " raise runtime.gpu_memory_utilization or runtime.kv_cache_gib, or lower "
                "max_new_tokens"
            )

    def _render(self, prompt: Sequence[int]) -> Any:
        """A prompt in the form that the scheduler takes."""
        (rendered,) = self._engine.renderer.render_cmpl([{"prompt_token_ids": list(prompt)}])
        return rendered

    def _parameters(self, sampling: SamplingConfig, seed: int) -> Any:
        """Sampling parameters of one response.

        Each response is its own request: with `n` responses in one, each would depend on the
        batch of the others.
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
            ignore_eos=True,  # every engine uses our stop tokens
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            # used by one request, so vLLM need not copy it, which costs a millisecond
            skip_clone=True,
        )

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace the weights. Raises ValueError if the model has weights that are not given."""
        missing = self._engine.collective_rpc(
            _take_over, args=([(name, weight.detach()) for name, weight in weights],)
        )
        if names := sorted({name for of_worker in missing for name in of_worker}):
            raise ValueError(f"vLLM's model has weights it was not given: {', '.join(names[:5])}")
        self._engine.reset_prefix_cache()


def engine_arguments(folder: Path, runtime: RuntimeConfig) -> dict[str, Any]:
    """vLLM's arguments for the model in `folder` on this machine."""
    cpu = device_of(runtime).type == "cpu"
    cache = runtime.kv_cache_gib or (CPU_KV_CACHE_GIB if cpu else None)
    on_cpu = {"enforce_eager": True, "block_size": CPU_BLOCK} if cpu else {}
    return {
        "model": str(folder),
        "load_format": "safetensors",  # by default it would also load pickled weights
        "trust_remote_code": trusts_code(folder),
        "skip_tokenizer_init": True,
        "dtype": runtime.dtype,
        # the model's own, or what fits into the cache; `sample` refuses longer responses
        "max_model_len": -1,
        # ignore the model's generation_config.json; `stop_tokens` reads its stop tokens
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
    """Overwrite the model's weights in a vLLM worker, whatever layout its kernels use.

    **Returns:** The names of parameters that are not among `weights`.
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
            # a head tied to the embedding is not loaded, but on a CPU it has its own packed copy
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
    return expected - set(loaded)


def _settle(runtime: RuntimeConfig) -> None:
    """Set the environment variables that vLLM reads when it is imported or starts.

    Variables set by the user stay, except for folders to write to and usage reports.
    """
    cache = home() / "cache" / "vllm"
    os.environ |= {
        "VLLM_CACHE_ROOT": str(cache),
        "VLLM_CONFIG_ROOT": str(cache),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
    }
    for name, value in {
        # no process for the scheduler: this one may be a Ray actor or run Prefect threads
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
    }.items():
        os.environ.setdefault(name, value)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Restore what starting vLLM changes in the process.

    This is the random states, the environment (LD_PRELOAD, thread counts, which every child would
    inherit), and `torch.set_num_threads`, which vLLM's CPU build disables.
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
