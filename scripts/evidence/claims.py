"""The findings of the paper that are looked at, each with what here would show it. Bounds and
sides were fixed before the final runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from scripts.evidence.judging import Claim, Part, Side
from scripts.evidence.record import ArmRecord, Policy, Record


def policy(record: Record, place: str) -> Policy:
    """`arm` is an arm's student of iteration 1, `arm@4` that of iteration 4, `arm:teacher` a
    teacher, `arm:base` the base.
    """
    arm, iteration, role = re.fullmatch(r"([^@:]+)(?:@(\d+))?(?::(\w+))?", place).groups()  # type: ignore[union-attr]
    return record.arms[arm].policy(role or "student", 0 if role == "base" else int(iteration or 1))


def points(what: str, ours: str, theirs: str, side: Side = "above", bound: float = 0.0) -> Part:
    """By how many points the first policy scores higher than the second."""
    return Part(
        what,
        "points",
        lambda one: 100 * (policy(one, ours).score - policy(one, theirs).score),
        side,
        bound,
    )


def kl(what: str, ours: str, theirs: str, side: Side = "above", bound: float = 0.0) -> Part:
    """The binary logarithm of the first policy's KL to base over the second's: -1 is half of it."""
    return Part(
        what,
        "doublings of KL",
        lambda one: math.log2(policy(one, ours).kl_base / policy(one, theirs).kl_base),
        side,
        bound,
    )


def entropy(what: str, ours: str, theirs: str, side: Side = "above", bound: float = 0.0) -> Part:
    """The first policy's entropy minus the second's."""
    return Part(
        what,
        "nats",
        lambda one: policy(one, ours).entropy - policy(one, theirs).entropy,
        side,
        bound,
    )


def time_to_score(what: str, arm: str) -> Part:
    """The binary logarithm of the seconds of work in which an online arm reaches the campaign's
    validation score, over the campaign's own.

    An arm that never reaches it counts with all its seconds, so the effect is too small then.
    """

    def effect(record: Record) -> float:
        offline = record.arms["offline"]
        return math.log2(online_seconds(record.arms[arm], offline.validated) / offline.work)

    return Part(what, "doublings of time", effect)


def online_seconds(arm: ArmRecord, score: float) -> float:
    """Seconds of sampling and updating until the first kept step whose validation score is at
    least `score`; all of them if none is.
    """
    curve = arm.curve("online")
    return curve.seconds_a_step * next(
        (step for step, reached in sorted(curve.validation.items()) if reached >= score),
        max(curve.validation),
    )


UNLEARNED, TEACHERS = (
    ("e60-gentle", "e60-milder", "e60-own3"),
    ("e60-gentle", "e40-gentle", "e20-gentle"),
)
"""Arms of one teacher over three unlearned policies, and of three teachers over one."""


def by_mse(record: Record, step: int) -> float:
    """Validation score, in %, of the policy after so many MSE steps."""
    return 100 * record.arms["recovery"].curve("teacher").validation[step]


def spread(record: Record, arms: Sequence[str]) -> float:
    """Points between the best and the worst student."""
    scores = [policy(record, arm).score for arm in arms]
    return 100 * (max(scores) - min(scores))


CLAIMS = (
    Claim(
        1,
        "Dozens of steps are needed to exhaust a batch",
        "a fixed batch takes dozens of optimizer steps before its signal is used up; four or "
        "fewer are too conservative (Observation 1, "
        "Fig. 4).",
        "steps",
        (
            points("SAPO, 60 steps over 4", "sapo-60", "sapo-4"),
            points("CE, 60 steps over 4", "ce-60", "ce-4"),
            points("SAPO, 60 steps over 16", "sapo-60", "sapo-16"),
        ),
        remark="After 160 steps SAPO's policies score 1 to 14 points less than after 60, on "
        "every seed: the batch is used up between. CE's "
        "first steps are large: after four its policies lie at a KL of 0.04 to 0.17, those below "
        "0.06 at 74 to 76 %, the others at 59 to "
        "66 %.",
    ),
    Claim(
        2,
        "Long optimisation drifts",
        "with more steps token log-probabilities and entropy move far from old's (Observation 2, "
        "Fig. 4c).",
        "steps",
        (
            kl("SAPO, 160 steps over 16", "sapo-160", "sapo-16"),
            kl("CE, 160 steps over 16", "ce-160", "ce-16"),
            entropy("SAPO, after 160 steps over the base", "sapo-160", "sapo-160:base", "below"),
            entropy("CE, after 160 steps over the base", "ce-160", "ce-160:base", "below"),
        ),
    ),
    Claim(
        3,
        "The student reaches its teacher's score at a smaller KL",
        "distilled students reach or pass their teachers at a fraction of the KL (Fig. 6); in "
        "Table 2 the students of the first three "
        "batches stay 0.8 to 2.7 points below theirs.",
        "front",
        (
            points("extreme CE, student over teacher", "extreme", "extreme:teacher", bound=-1),
            kl("extreme CE, student over teacher", "extreme", "extreme:teacher", "below", -1),
            points(
                "conservative CE, student over teacher",
                "conservative",
                "conservative:teacher",
                bound=-1,
            ),
            kl(
                "conservative CE, student over teacher",
                "conservative",
                "conservative:teacher",
                "below",
            ),
        ),
        remark="The recipe chooses a step whose validated KL is at most 0.4 of the teacher's, so "
        "that the students lie below it is in "
        "part given; what is found is the score at that KL. The extreme teacher's student has "
        "0.22 of its KL at about its score. The "
        "conservative teacher scores higher than the extreme one, and its student stays below it.",
    ),
    Claim(
        4,
        "Tightening KL in stage 1 lowers the ceiling instead",
        "the KL control of stage 1 only moves the teacher's ceiling; a KL weight of 2 leaves no "
        "significant gain (Fig. 6).",
        "front",
        (
            points("teacher with KL weight 2 over the free one", "kl2", "extreme:teacher", "below"),
            points("teacher with KL weight 2 over the student", "kl2", "extreme", "below"),
            points("teacher with KL weight 0.2 over the student", "kl0.2", "extreme", "below"),
            kl("teacher with KL weight 0.05 over the student", "kl0.05", "extreme"),
            points(
                "teacher with KL weight 0.05 over the free one (added afterwards)",
                "kl0.05",
                "extreme:teacher",
                "below",
            ),
        ),
        remark="A KL weight of 0.05 makes the policy that scores highest in this study, between "
        "the student and the free teacher in KL. "
        "So a mild KL term in stage 1 does not lower the ceiling here, it raises it, at more KL "
        "than the student has.",
    ),
    Claim(
        5,
        "Soft clipping uses a batch better than hard clipping",
        "SAPO and CE learn more from the same batch than GRPO and PPO; the paper credits their "
        "sigmoid (Sec. 4.3, Table 1).",
        "losses",
        (
            points("SAPO over GRPO", "sapo", "grpo"),
            points("CE over GRPO", "ce", "grpo"),
            points("SAPO over PPO", "sapo", "ppo"),
            points("CE over PPO", "ce", "ppo"),
        ),
    ),
    Claim(
        6,
        "A fixed denominator can pass a conservative teacher; the live one tracks it",
        "over fixed old the student passes its teacher (65.1 and 63.8 against 61.0); over the "
        "live student it stays with it (Fig. 7).",
        "denominator",
        (
            points("old, 160 steps, student over teacher", "old-160", "old-160:teacher"),
            points("160 steps, old over live", "old-160", "live-160"),
            kl("160 steps, old over live", "old-160", "live-160"),
            points(
                "live, 160 steps, student over teacher", "live-160", "live-160:teacher", "below", 2
            ),
        ),
    ),
    Claim(
        7,
        "Iterating with distillation keeps improving where iterating without it stalls",
        "with distillation every batch adds; without it the second batch adds little or nothing "
        "(Table 2).",
        "iterating",
        (
            points("with, batch 4 over batch 2", "with@4", "with@2"),
            points(
                "without, batch 4 over batch 2 (added afterwards)",
                "without@4",
                "without@2",
                "below",
                1,
            ),
            points("after four batches, with over without", "with@4", "without@4"),
            kl("after four batches, without over with", "without@4", "with@4"),
        ),
    ),
    Claim(
        8,
        "MSE unlearns and then recovers; strategy 2 turns a weak MSE teacher into a gain",
        "training by MSE unlearns first and then recovers (Fig. 5); over an unlearned policy a "
        "weak MSE teacher gives a strong student "
        "(Table 1); which unlearned policy it is matters more than which teacher (Table 7).",
        "unlearning",
        (
            points("weak teacher, its student over the base", "weak-gentle", "weak-gentle:base"),
            points(
                "weak teacher over the base", "weak-gentle:teacher", "weak-gentle:base", "below"
            ),
            Part(
                "validation after 3 steps over the base's score",
                "points",
                lambda one: by_mse(one, 3) - 100 * one.arms["recovery"].base.score,
                "below",
            ),
            Part(
                "validation after 60 steps over that after 3",
                "points",
                lambda one: by_mse(one, 60) - by_mse(one, 3),
            ),
            points("recovered teacher's student over the base", "e60-gentle", "e60-gentle:base"),
            Part(
                "spread over unlearned policies minus spread over teachers",
                "points",
                lambda one: spread(one, UNLEARNED) - spread(one, TEACHERS),
            ),
        ),
        remark="The explained variance of the paper (above 0.9) cannot be reached here: right "
        "and wrong responses to a problem share "
        "their beginnings, and no policy can tell the outcome of a token that ends such a "
        "beginning. `python -m scripts.evidence.ceiling` "
        "works out the share of these tokens and the most that is left to explain.",
    ),
    Claim(
        9,
        "Strategy 3 helps when the strong teacher stalls, and costs KL",
        "at batch 4 the teacher (77.5) is hardly above the third one (77.2) and distilling it "
        "gave no more; strategy 3 adds 2.9 points to "
        "the last student (76.4), and KL rises from 0.037 to 0.062 (Table 2).",
        "iterating",
        (
            points("batch 4, strategy 3 over strategy 1", "third@4", "with@4"),
            points("strategy 3, batch 4 over batch 3", "third@4", "third@3"),
            kl("batch 4, strategy 3 over strategy 1", "third@4", "with@4"),
        ),
        remark="The paper takes strategy 3 where distilling the teacher gives no more; every "
        "seed takes it at batch 4 here, stalled or "
        "not. Strategy 1 stalled there on seeds 1, 4, 5 and 7, where it lost 2 to 3 points or "
        "gained 0.2: strategy 3 ends 1.9 and 2.5 "
        "above it, 1.2 below and 0.8 above. On the others it ends between 3.3 below and 0.2 "
        "above. The three that lost had drifted: in "
        "this study and that of claim 13, 40 of the 43 students of batches 3 and 4 within a KL of "
        "0.11 score more than the student before, "
        "by 3.0 points on average, and 12 of the 13 beyond it less, by 2.3. In two studies of "
        "other schedules, where this was not read "
        "off, 17 of 17 within it gain, and one beyond it loses (`python -m "
        "scripts.evidence.drift`). On seven of the eight seeds the "
        "strategy whose student ends nearer scores higher.",
    ),
    Claim(
        10,
        "Two different teachers beat either alone",
        "an MSE and a CE teacher, one after the other, beat either alone, and one recovered by CE "
        "with a conservative CE teacher is the "
        "best pair; not every pair gains (Table 8).",
        "ensemble",
        (
            points("both over the strong one alone, as many steps", "both", "strong-32"),
            points("both over the recovered one alone, as many steps", "both", "unlearned-32"),
        ),
        remark="On seeds 0 to 4 both teachers in turn give what lies between the two alone. That "
        "was predicted for the seeds after them, "
        "too, and did not hold on seeds 5, 6 and 7, where it lies below both. Their signals "
        "overlap: on seeds 0 to 3 they correlate, "
        "whitened, by 0.48 to 0.74, and have one sign on 80 to 89 % of the tokens where either is "
        "beyond half a standard deviation "
        "(`python -m scripts.evidence.signals --seed 0`). With 32 problems in place of 256 (seeds "
        "100 and 101) and at the paper's "
        "temperature of 0.6 (seed 100) both in turn stay between the two as well.",
    ),
    Claim(
        11,
        "An entropy bonus keeps entropy without hurting",
        "with the entropy loss entropy holds or rises and scores rise too (Table 6).",
        "entropy",
        (
            entropy("after three batches, with over without", "bonus-0.05@3", "plain@3"),
            points("after three batches, with over without", "bonus-0.05@3", "plain@3", bound=-1),
        ),
    ),
    Claim(
        12,
        "Negative log-ratios of right responses carry the signal of an unlearned teacher",
        "they are a tenth of all tokens; dropping them lowers scores, dropping the others of "
        "right responses can beat keeping everything "
        "(Table 12); on Qwen3.5 dropping them makes no significant difference in some runs.",
        "masking",
        (
            points("without the positive ones over everything", "min", "all"),
            points("everything over without the negative ones", "all", "max"),
        ),
        remark="A third of all tokens are of right responses and have a negative log-ratio here, "
        "nearly all within 0.1 nats of 0. Those "
        "beyond are 3 to 4 % of all tokens and hold 10 to 13 % of the signal, two thirds of which "
        "lies on wrong responses, which no arm "
        "masks (seeds 0 to 3, `python -m scripts.evidence.signals --seed 0`). The distillation "
        "itself is unstable: with the whole signal "
        "students end between 52 and 77 %. The masks decide about a small part of that.",
    ),
    Claim(
        13,
        "Online after offline helps again",
        "after an online stage in between, offline stages gain again (Fig. 8).",
        "switching",
        (
            points("the online stage over the student before it", "switching@3", "switching@2"),
            points("the offline stage after it over it", "switching@4", "switching@3"),
            points("after four stages, switching over offline only", "switching@4", "offline@4"),
        ),
        remark="On seed 7 the online stage lost 5.4 points, and the offline one after it 5.9 "
        "more. On the other seven the online stage "
        "changed the score by −0.1 to +5.2, the offline one after it by −1.3 to +8.2. Which of "
        "both a stage is tells less than where its "
        "policy ends: within a KL of 0.11 nearly all gain, beyond it nearly all lose, online and "
        "offline alike (the figure's third panel; "
        "counts at claim 9).",
    ),
    Claim(
        14,
        "On wall clock the campaign is ahead of on-policy GRPO",
        "after some 20 hours distillation gives 73.3; on-policy training has 68.5 after 21 hours "
        "and 66.8 after 31 (Table 4).",
        "clock",
        (
            time_to_score("our on-policy GRPO over the campaign", "online"),
            time_to_score("TRL's on-policy GRPO over the campaign", "trl"),
        ),
        remark="To the campaign's validation score our on-policy runs take 16 steps of 256 "
        "responses each on every seed, and TRL's 12 to "
        "20, about the campaign's batch of 4,096. The campaign's 44 optimizer steps are two "
        "thirds of its seconds, and its student ends 2 "
        "to 6 points below its teacher on the test problems.",
    ),
)
"""In the order of their numbers."""
