"""The losses by name, each with the defaults of its source."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, PositiveFloat

from erpd_core.config.common import Config, Fraction, NonNegative
from erpd_core.config.critic import CriticConfig

RequiredOutcomes = Literal["mixed_groups", "both", "right"]
"""What a batch must hold for a loss to learn from it: groups with right and wrong responses
(elsewhere group-normalised advantages are 0), right and wrong responses, or right responses.
"""


class _Loss(Config):
    """Settings of every loss, and the facts about a loss that other code asks for.

    A new loss is a subclass here, listed in `_TeacherLoss`, and a function of the name of its
    `kind` in `erpd_core/losses/<kind>.py`.
    """

    SEQUENCE_LEVEL: ClassVar[bool] = False
    """It needs whole responses; other losses are sums over tokens and are computed in chunks."""
    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = None

    kl_weight: NonNegative = 0.0
    """Weight of the k2 penalty, whose on-policy gradient is that of KL(theta || old) (Sec. 4.2,
    Table 5).
    """
    entropy_weight: float = 0.0
    """Weight of the entropy bonus, token mean (Table 6b: 0.5)."""

    @property
    def required_outcomes(self) -> RequiredOutcomes | None:
        """What a batch must hold for this loss, with these settings, to learn from it."""
        return self.REQUIRED_OUTCOMES


class GRPO(_Loss):
    """Hard-clipped surrogate with group-normalised reward (Sec. 4.1)."""

    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "mixed_groups"
    kind: Literal["grpo"] = "grpo"
    clip_low: Fraction = 0.2
    clip_high: NonNegative = 0.28


class PPO(_Loss):
    """Hard-clipped surrogate on advantages of a value network (Sec. 4.1). The paper gives PPO no
    clip; 0.2 is PPO's own.
    """

    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "both"
    kind: Literal["ppo"] = "ppo"
    clip_low: Fraction = 0.2
    clip_high: NonNegative = 0.2
    alpha: PositiveFloat = 0.05
    """The policy's GAE lambda is 1 - 1 / (alpha * length), VAPO's (arXiv 2504.05118); the paper
    prints it without the "1 -".
    """
    critic: CriticConfig = Field(default_factory=CriticConfig)


class SAPO(_Loss):
    """Soft-clipped surrogate: a sigmoid of the ratio instead of a cut (Sec. 4.1; tau_neg 1.05)."""

    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "mixed_groups"
    kind: Literal["sapo"] = "sapo"
    tau_pos: PositiveFloat = 1.0
    tau_neg: PositiveFloat = 1.05


class CE(_Loss):
    """Cross-entropy of the implicit reward beta * log-ratio against the outcome (Eq. 1-3; beta
    0.001 to 0.05, sum or mean over tokens).
    """

    SEQUENCE_LEVEL: ClassVar[bool] = True
    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "both"
    kind: Literal["ce"] = "ce"
    beta: PositiveFloat = 0.01
    aggregate: Literal["sum", "mean"] = "sum"


class MSE(_Loss):
    """Squared error of the token's own probability against the outcome (Eq. 10); unconstrained,
    unlearns first.
    """

    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "both"
    kind: Literal["mse"] = "mse"
    negative_weight: NonNegative = 1.0
    """Weight of tokens of wrong responses relative to right ones (Table 9: w = 0.5 or 1)."""

    @property
    def required_outcomes(self) -> RequiredOutcomes | None:
        """Without weight on wrong responses, right ones are enough."""
        return self.REQUIRED_OUTCOMES if self.negative_weight else "right"


class SFT(_Loss):
    """Negative log-likelihood of right responses only; recovers a teacher from an unlearned
    policy (Table 9).
    """

    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "right"
    kind: Literal["sft"] = "sft"


class Reinforce(_Loss):
    """Policy gradient without a ratio (Williams 1992): `-A lp`. Nothing holds it near old;
    `kl_weight` may.
    """

    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "mixed_groups"
    kind: Literal["reinforce"] = "reinforce"


class CISPO(_Loss):
    """Importance weight cut from above, its gradient stopped: no token is dropped (MiniMax-M1,
    arXiv 2506.13585).
    """

    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "mixed_groups"
    kind: Literal["cispo"] = "cispo"
    max_weight: PositiveFloat = 5.0
    """Largest weight. MiniMax-M1 tunes it without giving a number; 5 is ScaleRL's (arXiv
    2510.13786), which TRL recommends.
    """


class VESPO(_Loss):
    """Gamma-shaped weight of the whole response's ratio, its gradient stopped (arXiv 2602.10693,
    whose values these are).
    """

    SEQUENCE_LEVEL: ClassVar[bool] = True
    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "mixed_groups"
    kind: Literal["vespo"] = "vespo"
    k_pos: PositiveFloat = 2.0
    lambda_pos: PositiveFloat = 3.0
    k_neg: PositiveFloat = 3.0
    lambda_neg: PositiveFloat = 2.0


class DISPO(_Loss):
    """Importance weight clipped apart for right and wrong responses, its gradient stopped (arXiv
    2602.00983).

    The numbers are ours: we could not read the paper's. They follow its abstract: weights of right
    responses do harm when excessive (so DAPO's narrow range), those of wrong responses when
    restricted too much (so no floor, and CISPO's ceiling of 5).
    """

    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "mixed_groups"
    kind: Literal["dispo"] = "dispo"
    right_low: Fraction = 0.2
    right_high: NonNegative = 0.28
    """Weights of tokens of right responses stay within 1 - right_low and 1 + right_high."""
    wrong_low: Fraction = 1.0
    wrong_high: NonNegative = 4.0
    """Weights of tokens of wrong responses stay within 1 - wrong_low and 1 + wrong_high."""


class Distill(_Loss):
    """Stage 2: clipped surrogate on a fixed, whitened token signal (Eq. 9). The paper leaves
    epsilon open; 0.2 is PPO's.
    """

    kind: Literal["distill"] = "distill"
    clip_low: Fraction = 0.2
    clip_high: NonNegative = 0.2


_TeacherLoss = GRPO | PPO | SAPO | CE | MSE | SFT | Reinforce | CISPO | VESPO | DISPO
TeacherLoss = Annotated[_TeacherLoss, Field(discriminator="kind")]
Loss = Annotated[_TeacherLoss | Distill, Field(discriminator="kind")]
LOSS_CONFIGS: tuple[type[_Loss], ...] = (*get_args(_TeacherLoss), Distill)
"""The config class of every loss."""
