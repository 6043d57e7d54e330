"""What the machine is like."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from erpd_core.config.common import Config, NonNegative


class RuntimeConfig(Config):
    """What the machine is like. Never part of an identity: the same campaign on another machine
    is the same campaign.
    """

    ray: Literal["on", "off"] = "on"
    """`on`: coarse stages run as Ray tasks; `off`: in threads of this process."""
    ray_address: str | None = None
    """Address of an existing cluster; a local one is started when absent."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """What samples. `auto`: vLLM where it is installed and samples on a GPU, else transformers."""
    tensor_parallel: PositiveInt = 1
    """vLLM: GPUs that one engine spreads the model over."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """vLLM on a GPU: the share of its memory for weights and KV cache; less where a trainer
    shares it (online stages).
    """
    kv_cache_gib: Annotated[float, Field(gt=0.0)] | None = None
    """vLLM: GiB of KV cache. When absent, what the weights leave of `gpu_memory_utilization` on
    a GPU, and 1 on a CPU.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    cpus: PositiveInt | None = None
    """CPU threads of one stage; all of the machine's when absent."""
    gpus: NonNegative = 0.0
    """GPUs one stage asks of Ray."""
    token_budget: PositiveInt = 4096
    """Input tokens per micro-batch: memory of a model call, not a hyperparameter."""
    checkpoint_every: PositiveInt = 20
    """Optimizer steps between resumable checkpoints."""

    answer_seconds: PositiveFloat = 86400.0
    """How long `decision.mode: ask` waits for a person before the automatic decision is taken."""
    pause_seconds: NonNegative = 600.0
    """A deployed run whose wait may be longer than this is suspended meanwhile: its process
    ends, and what it held is free for others.
    """

    samplers: PositiveInt = 1
    """Ray actors that sample the shards of one stage side by side; 1 (or Ray off): the stage's
    own process samples.
    """
    sampler_cpus: PositiveInt | None = None
    """CPU threads of each sampler; an equal share of `cpus` when absent."""
    sampler_gpus: NonNegative | None = None
    """GPUs each sampler asks of Ray, a fraction of one or whole ones; an equal share of `gpus`
    when absent.
    """
    sampler_deadline: PositiveFloat = 3600.0
    """Seconds without a finished response, of a scorer without a finished shard, after which it is
    killed and its shard given to another: more than the longest takes.
    """
    redo_seconds: NonNegative = 60.0
    """What was cut off after fewer seconds of sampling is sampled again, to the same bytes;
    after more, finished samples are kept.
    """

    scorers: PositiveInt = 1
    """Ray actors that score the shards of one rollout side by side, each with the whole model on an
    equal share of `cpus` and, where `gpus` asks for any, a GPU of its own; 1 (or Ray off): the
    stage's own process does. Evaluations use them if there are several `samplers`.
    """

    trainers: PositiveInt = 1
    """Ray actors that train one model together, each with its shard of weights, gradients and
    optimizer state; 1 (or Ray off): the stage's own process trains it whole. With several, weights
    stay float32 whatever `dtype` is, which is then that of arithmetic alone.
    """
    trainer_cpus: PositiveInt | None = None
    """CPU threads of each trainer; an equal share of `cpus` when absent."""
    trainer_gpus: Annotated[int, Field(ge=0, le=1)] | None = None
    """GPUs each trainer asks of Ray, one of its own or none; when absent, one where `gpus` asks
    for any.
    """
    recompute: bool = False
    """Activation checkpointing, stages 1 and 2: only what goes into each decoder block is kept,
    and a third more is computed.
    """
    offload: bool = False
    """Trainers on GPUs keep weights, gradients and optimizer state in the memory of their host."""

    @property
    def trains_apart(self) -> bool:
        """Do actors train, rather than the stage's own process?"""
        return self.ray == "on" and self.trainers > 1

    @property
    def samples_apart(self) -> bool:
        """Do actors sample, rather than the stage's own process?"""
        return self.ray == "on" and self.samplers > 1

    @property
    def scores_apart(self) -> bool:
        """Do actors score, rather than the stage's own process?"""
        return self.ray == "on" and self.scorers > 1

    @field_validator("sampler_gpus")
    @classmethod
    def _part_of_one_or_whole(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(
                f"sampler_gpus: Ray gives a part of one GPU or whole ones, not {gpus:g}; round it"
            )
        return gpus

    @field_validator("ray", mode="before")
    @classmethod
    def _yaml_reads_on_and_off_as_booleans(cls, ray: object) -> object:
        return {True: "on", False: "off"}[ray] if isinstance(ray, bool) else ray
