"""Config of the machine and of how a campaign uses it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from erpd_core.config.common import Config, NonNegative


class RuntimeConfig(Config):
    """The machine and how it is used.

    It is never part of an identity: the same campaign on another machine is the same campaign.
    """

    ray: Literal["on", "off"] = "on"
    """`on` runs coarse stages as Ray tasks, `off` in threads of this process."""
    ray_address: str | None = None
    """Address of an existing Ray cluster; if not set, a local one is started."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """The sampling engine. `auto` is vLLM if it is installed and samples on a GPU, else
    transformers.
    """
    tensor_parallel: PositiveInt = 1
    """vLLM: number of GPUs over which one engine splits the model."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """vLLM on a GPU: share of its memory for weights and KV cache. Lower it if a trainer shares the
    GPU (online stages).
    """
    kv_cache_gib: Annotated[float, Field(gt=0.0)] | None = None
    """vLLM: size of the KV cache in GiB. If not set, what the weights leave of
    `gpu_memory_utilization` on a GPU, and 1 on a CPU.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device of model calls."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The number format of weights and arithmetic."""
    niceness: Annotated[int, Field(ge=0, le=19)] = 0
    """Niceness of the workers of a local Ray. 0 gives them the same share of a busy machine as
    other processes get; Ray's own default, 15, leaves them almost nothing there.
    """
    cpus: PositiveInt | None = None
    """CPU threads of one stage; if not set, all threads of the machine."""
    gpus: NonNegative = 0.0
    """GPUs that one stage requests from Ray."""
    token_budget: PositiveInt = 4096
    """Input tokens per micro-batch. It sets the memory of a model call and is not a
    hyperparameter.
    """
    checkpoint_every: PositiveInt = 20
    """Optimizer steps between resumable checkpoints."""

    answer_seconds: PositiveFloat = 86400.0
    """Seconds that `decision.mode: ask` waits for a user before the automatic decision is taken."""
    pause_seconds: NonNegative = 600.0
    """A deployed run that may wait longer than this many seconds is suspended: its process ends,
    and its resources are free for other runs.
    """

    samplers: PositiveInt = 1
    """Ray actors that sample the shards of one stage in parallel. With 1, or with Ray off, the
    process of the stage samples.
    """
    sampler_cpus: PositiveInt | None = None
    """CPU threads of each sampler; if not set, an equal share of `cpus`."""
    sampler_gpus: NonNegative | None = None
    """GPUs that each sampler requests from Ray: a fraction of one, or whole ones. If not set, an
    equal share of `gpus`.
    """
    sampler_deadline: PositiveFloat = 3600.0
    """Seconds without a finished response (for a scorer: without a finished shard) after which an
    actor is killed and its shard goes to another. It must exceed the time of the longest one.
    """
    redo_seconds: NonNegative = 60.0
    """An interrupted shard with fewer seconds of sampling is sampled again, to the same bytes. With
    more, its finished samples are kept.
    """

    scorers: PositiveInt = 1
    """Ray actors that score the shards of one rollout in parallel. Each has the whole model, an
    equal share of `cpus` and, if `gpus` is above 0, a GPU of its own. With 1, or with Ray off, the
    process of the stage scores. Evaluations use scorers only if there are several `samplers`.
    """

    trainers: PositiveInt = 1
    """Ray actors that train one model together, each with its shard of weights, gradients and
    optimizer state. With 1, or with Ray off, the process of the stage trains the whole model. With
    several, weights stay float32 and `dtype` applies to arithmetic only.
    """
    trainer_cpus: PositiveInt | None = None
    """CPU threads of each trainer; if not set, an equal share of `cpus`."""
    trainer_gpus: Annotated[int, Field(ge=0, le=1)] | None = None
    """GPUs that each trainer requests from Ray: one of its own or none. If not set, one if `gpus`
    is above 0.
    """
    recompute: bool = False
    """Activation checkpointing in stages 1 and 2: only the input of each decoder block is kept, and
    about a third more is computed.
    """
    offload: bool = False
    """Whether trainers on GPUs keep weights, gradients and optimizer state in the memory of their
    host.
    """

    @property
    def trains_on_actors(self) -> bool:
        """Whether actors train, rather than the process of the stage."""
        return self.ray == "on" and self.trainers > 1

    @property
    def samples_on_actors(self) -> bool:
        """Whether actors sample, rather than the process of the stage."""
        return self.ray == "on" and self.samplers > 1

    @property
    def scores_on_actors(self) -> bool:
        """Whether actors score, rather than the process of the stage."""
        return self.ray == "on" and self.scorers > 1

    @field_validator("sampler_gpus")
    @classmethod
    def _part_of_one_or_whole(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(
                f"sampler_gpus: Ray gives a part of one GPU or whole GPUs, not {gpus:g}; round it"
            )
        return gpus

    @field_validator("ray", mode="before")
    @classmethod
    def _yaml_reads_on_and_off_as_booleans(cls, ray: object) -> object:
        return {True: "on", False: "off"}[ray] if isinstance(ray, bool) else ray
