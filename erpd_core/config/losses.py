"""Configs of the losses, each with the defaults of its source."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, PositiveFloat

from erpd_core.config.common import Config, Fraction, NonNegative
from erpd_core.config.critic import CriticConfig

RequiredOutcomes = Literal["mixed_groups", "both", "right"]
"""What a batch must contain for a loss to learn from it.

`mixed_groups`: groups with right and wrong responses (in others the group-normalized advantage is
0). `both`: right and wrong responses. `right`: right responses.
"""


class _Loss(Config):
    """Settings that all losses share, and the facts about a loss that other code needs.

    A new loss is a subclass here, listed in `_TeacherLoss`, and a function named after its `kind`
    in `erpd_core/losses/<kind>.py`.
    """

    SEQUENCE_LEVEL: ClassVar[bool] = False
    """Whether it needs whole responses. Other losses are sums over tokens, computed in chunks."""
    IDLE_AT_ZERO: ClassVar[bool] = False
    """Whether a token whose signal is 0 adds nothing to its gradient."""
    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None]
    """What a batch must contain; None if any outcomes will do. Every loss states it."""

    kl_weight: NonNegative = 0.0
    """Weight of the KL penalty to old: k2, token mean, whose on-policy gradient is that of
    KL(theta || old) (Sec. 4.2, Table 5).
    """
    entropy_weight: float = 0.0
    """Weight of the entropy bonus, token mean (Table 6b: 0.5)."""

    @property
    def required_outcomes(self) -> RequiredOutcomes | None:
        """What a batch must contain for this loss, with these settings, to learn from it."""
        return self.REQUIRED_OUTCOMES

    @property
    def skips_zero_signal(self) -> bool:
        """Whether responses without a signal need no pass.

        That is so if the loss is idle there, and neither a KL penalty nor an entropy bonus acts on
        every token.
        """
        return self.IDLE_AT_ZERO and not self.kl_weight and not self.entropy_weight


class GRPO(_Loss):
    """Hard-clipped surrogate on group-normalized rewards (Sec. 4.1)."""

    IDLE_AT_ZERO: ClassVar[bool] = True
    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "mixed_groups"

    kind: Literal["grpo"] = "grpo"
    clip_low: Fraction = 0.2
    """The ratio theta / old is clipped below 1 - clip_low."""
    clip_high: NonNegative = 0.28
    """The ratio theta / old is clipped above 1 + clip_high."""


class PPO(_Loss):
    """Hard-clipped surrogate on advantages of a value network (Sec. 4.1).

    The paper gives PPO no clip; 0.2 is PPO's own.
    """

    IDLE_AT_ZERO: ClassVar[bool] = True
    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "both"

    kind: Literal["ppo"] = "ppo"
    clip_low: Fraction = 0.2
    """The ratio theta / old is clipped below 1 - clip_low."""
    clip_high: NonNegative = 0.2
    """The ratio theta / old is clipped above 1 + clip_high."""
    alpha: PositiveFloat = 0.05
    """GAE lambda of the policy is 1 - 1 / (alpha * length), as in VAPO (arXiv 2504.05118). The
    paper prints it without the "1 -".
    """
    critic: CriticConfig = Field(default_factory=CriticConfig)
    """Training of the value network."""


class SAPO(_Loss):
    """Soft-clipped surrogate: a sigmoid of the ratio instead of a cut (Sec. 4.1; tau_neg 1.05)."""

    IDLE_AT_ZERO: ClassVar[bool] = True
    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "mixed_groups"

    kind: Literal["sapo"] = "sapo"
    tau_pos: PositiveFloat = 1.0
    """Steepness of the sigmoid where the advantage is positive."""
    tau_neg: PositiveFloat = 1.05
    """Steepness of the sigmoid where the advantage is not positive."""


class CE(_Loss):
    """Cross-entropy of the implicit reward beta * log-ratio and the outcome (Eq. 1-3)."""

    SEQUENCE_LEVEL: ClassVar[bool] = True
    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "both"

    kind: Literal["ce"] = "ce"
    beta: PositiveFloat = 0.01
    """Factor of the log-ratio theta / old (paper: 0.001 to 0.05)."""
    aggregate: Literal["sum", "mean"] = "sum"
    """Whether the log-ratios of a response's tokens are summed or averaged (the paper has both)."""


class MSE(_Loss):
    """Squared error of a token's probability against the outcome (Eq. 10).

    It has no constraint, and unlearns first.
    """

    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "both"

    kind: Literal["mse"] = "mse"
    negative_weight: NonNegative = 1.0
    """Weight of tokens of wrong responses, relative to right ones (Table 9: w = 0.5 or 1)."""

    @property
    def required_outcomes(self) -> RequiredOutcomes | None:
        """Right responses alone if wrong ones have no weight, else both."""
        return self.REQUIRED_OUTCOMES if self.negative_weight else "right"


class SFT(_Loss):
    """Negative log-likelihood of right responses only.

    It recovers a teacher from an unlearned policy (Table 9).
    """

    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "right"

    kind: Literal["sft"] = "sft"


class Reinforce(_Loss):
    """Policy gradient without a ratio (Williams 1992): `-A lp`.

    Nothing keeps it near old, unless `kl_weight` is set.
    """

    IDLE_AT_ZERO: ClassVar[bool] = True
    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "mixed_groups"

    kind: Literal["reinforce"] = "reinforce"


class CISPO(_Loss):
    """REINFORCE with a truncated importance weight (MiniMax-M1, arXiv 2506.13585).

    The weight is bounded from above and has a stopped gradient, so every token keeps a gradient.
    """

    IDLE_AT_ZERO: ClassVar[bool] = True
    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "mixed_groups"

    kind: Literal["cispo"] = "cispo"
    max_weight: PositiveFloat = 5.0
    """Largest weight. MiniMax-M1 tunes it and gives no number; 5 is ScaleRL's (arXiv 2510.13786),
    which TRL recommends.
    """


class VESPO(_Loss):
    """REINFORCE with a smooth weight of the whole response's ratio (arXiv 2602.10693).

    The weight is w^k exp(lambda (1 - w)), with w the product of the response's token ratios. It has
    a stopped gradient. The default values are those of the source.
    """

    SEQUENCE_LEVEL: ClassVar[bool] = True
    IDLE_AT_ZERO: ClassVar[bool] = True
    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "mixed_groups"

    kind: Literal["vespo"] = "vespo"
    k_pos: PositiveFloat = 2.0
    """Exponent k where the advantage is at least 0."""
    lambda_pos: PositiveFloat = 3.0
    """Decay lambda where the advantage is at least 0."""
    k_neg: PositiveFloat = 3.0
    """Exponent k where the advantage is negative."""
    lambda_neg: PositiveFloat = 2.0
    """Decay lambda where the advantage is negative."""


class DISPO(_Loss):
    """REINFORCE with separate bounds of the importance weight by outcome (arXiv 2602.00983).

    Right and wrong responses have their own bounds; the weight has a stopped gradient. The numbers
    are ours, because we could not read the paper's. They follow its abstract. Weights of right
    responses do harm if they are excessive, so their range is DAPO's narrow one. Weights of wrong
    responses do harm if they are restricted too much, so they have no floor and CISPO's ceiling
    of 5.
    """

    IDLE_AT_ZERO: ClassVar[bool] = True
    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = "mixed_groups"

    kind: Literal["dispo"] = "dispo"
    right_low: Fraction = 0.2
    """The smallest weight of a right response's token is 1 - right_low."""
    right_high: NonNegative = 0.28
    """The largest weight of a right response's token is 1 + right_high."""
    wrong_low: Fraction = 1.0
    """The smallest weight of a wrong response's token is 1 - wrong_low."""
    wrong_high: NonNegative = 4.0
    """The largest weight of a wrong response's token is 1 + wrong_high."""


class Distill(_Loss):
    """Stage 2: clipped surrogate on a fixed, whitened token signal (Eq. 9).

    The paper gives no value of epsilon; 0.2 is PPO's.
    """

    REQUIRED_OUTCOMES: ClassVar[RequiredOutcomes | None] = None

    kind: Literal["distill"] = "distill"
    clip_low: Fraction = 0.2
    """The ratio theta / old is clipped below 1 - clip_low."""
    clip_high: NonNegative = 0.2
    """The ratio theta / old is clipped above 1 + clip_high."""


_TeacherLoss = GRPO | PPO | SAPO | CE | MSE | SFT | Reinforce | CISPO | VESPO | DISPO
TeacherLoss = Annotated[_TeacherLoss, Field(discriminator="kind")]
Loss = Annotated[_TeacherLoss | Distill, Field(discriminator="kind")]
LOSS_CONFIGS: tuple[type[_Loss], ...] = (*get_args(_TeacherLoss), Distill)
"""The config classes of all losses."""
