"""Why claims do not show as the paper has them: explanations, and what they predict on seeds that they were not made from."""

from __future__ import annotations

import math
from collections.abc import Mapping

from scripts.evidence.claims import kl, online_step, points, policy
from scripts.evidence.judging import FollowUp, Part
from scripts.evidence.record import RESPONSES, Record


def score(what: str, place: str, bound: float) -> Part:
    """A policy's score, in %."""
    return Part(what, "%", lambda one: 100 * policy(one, place).score, "above", bound)


def steps_of_grpo(record: Record, arm: str) -> int:
    """On-policy steps to the validation score of an arm's student; all that were run when none has it."""
    offline = record.arms[arm]
    return online_step(record.arms["online"].curve("online"), offline.curve("student").validation[offline.policy("student").step or 0])


def responses_saved(record: Record, problems: int) -> float:
    """The binary logarithm of the responses that on-policy GRPO samples to the score of a campaign on so many problems, over its own."""
    return math.log2(steps_of_grpo(record, f"offline-{problems}") * RESPONSES / problems)


def even_share(record: Record, problems: int) -> float:
    """Sampling's share of an on-policy step from which on the campaign is the faster way to its score.

    Worked out from measured seconds: a response costs what makes both take equally long, everything else what it cost. 0 when the campaign
    is ahead anyway, 1 when it samples no fewer responses, so that no cost of theirs helps it.
    """
    steps, own = steps_of_grpo(record, f"offline-{problems}"), record.arms[f"offline-{problems}"].seconds[0]
    update = record.arms["online"].curve("online").mean("seconds_update")
    ahead = sum(own[phase] for phase in ("score", "teacher", "distill")) - steps * update
    saved = (steps * RESPONSES - problems) * RESPONSES
    if ahead <= 0:
        return 0.0
    if saved <= 0:
        return 1.0
    sampling = RESPONSES**2 * ahead / saved
    return sampling / (sampling + update)


FOLLOW_UPS: Mapping[int, FollowUp] = {
    3: FollowUp(
        "the trust region of the distillation ends there. With three times the steps alone the student stays below its conservative "
        "teacher, with a wider clip besides (0.5 for 0.3) it passes it, still at a smaller KL.",
        "looser",
        (
            points("clip 0.5, 360 steps, student over teacher", "wider", "wider:teacher", bound=-1),
            kl("clip 0.5, 360 steps, student over teacher", "wider", "wider:teacher", "below"),
            points("360 steps, clip 0.5 over 0.3", "wider", "longer"),
        ),
    ),
    9: FollowUp(
        "strategy 1 does not stall when its teacher does, so there is nothing for strategy 3 to mend. Teachers that train for 120 steps "
        "end behind the last student by the third batch; strategy 1 gains from them all the same.",
        "stalled",
        (
            points("third teacher over the second student", "with@3:teacher", "with@2", "below"),
            points("strategy 1, third student over the second", "with@3", "with@2"),
            points("third batch, strategy 3 over strategy 1", "third@3", "with@3", "below", 1),
        ),
    ),
    11: FollowUp(
        "what a policy can gain here is certainty. The base is right on nearly every problem when it takes the likeliest token each "
        "time; it knows good ways and bad ones, and samples among them. So entropy is what keeps a score at temperature 1 down, whatever "
        "the policy knows; with the likeliest tokens, the bonus costs nothing.",
        "greedy",
        (
            score("the base, likeliest tokens", "plain:base", 95),
            points("after three batches, likeliest tokens, with over without", "bonus-0.05@3", "plain@3", bound=-1),
        ),
    ),
    13: FollowUp(
        "its stages come when little is left to gain: two offline stages end at 85 to 90 %, and no policy of these studies passes 95. With "
        "the online stage second, both it and the offline stage after it gain.",
        "earlier",
        (
            points("the online stage over the student before it", "switching@2", "switching@1"),
            points("the offline stage after it over it", "switching@3", "switching@2"),
        ),
    ),
    14: FollowUp(
        "the batch of 4,096 is far more than the campaign needs, and sampling costs little here. On 32 problems it reaches a score for "
        "which on-policy GRPO samples several times as many responses, and it is ahead on the clock where sampling takes as much of an "
        "on-policy step as in the paper (800 of 1,100 s: a share of 0.73).",
        "reuse",
        (
            Part(
                "responses to equal score, on-policy over a campaign on 32 problems",
                "doublings",
                lambda one: responses_saved(one, 32),
                bound=1,
            ),
            Part("the same, on 16 problems", "doublings", lambda one: responses_saved(one, 16), bound=1),
            Part(
                "share of sampling at which a campaign on 32 problems draws level",
                "of a step",
                lambda one: even_share(one, 32),
                "below",
                0.73,
            ),
            points("on 16 problems, student over its teacher", "offline-16", "offline-16:teacher"),
        ),
    ),
}
"""Number of a claim -> what was tried."""
