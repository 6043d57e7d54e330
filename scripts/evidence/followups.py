"""Why claims do not show as the paper has them: explanations, and what they predict on seeds
that they were not made from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from scripts.evidence.claims import entropy, kl, points, policy
from scripts.evidence.judging import FollowUp, Part
from scripts.evidence.record import RESPONSES, Record


def score(what: str, place: str, bound: float) -> Part:
    """A policy's score, in %."""
    return Part(what, "%", lambda one: 100 * policy(one, place).score, "above", bound)


def nearer_over_further(record: Record, ours: str, theirs: str) -> float:
    """Points by which the one of two policies with the smaller KL from the base scores more."""
    near, far = sorted(
        (policy(record, place) for place in (ours, theirs)), key=lambda one: one.kl_base
    )
    return 100 * (near.score - far.score)


def steps_of_grpo(record: Record, arm: str) -> float:
    """On-policy steps to the validation score of an arm's student, between kept steps on a line;
    all of them when none has it.
    """
    reached = record.arms[arm].validated
    curve = sorted(record.arms["online"].curve("online").validation.items())
    for (before, low), (after, high) in pairwise([(0, record.arms["online"].base.score), *curve]):
        if high >= reached:
            return (
                after
                if low >= reached
                else before + (after - before) * (reached - low) / (high - low)
            )
    return curve[-1][0]


def responses_saved(record: Record, problems: int) -> float:
    """The binary logarithm of the responses that on-policy GRPO samples to the score of a
    campaign on so many problems, over its own.
    """
    return math.log2(steps_of_grpo(record, f"offline-{problems}") * RESPONSES / problems)


def even_share(record: Record, problems: int) -> float:
    """Sampling's share of an on-policy step from which on the campaign is the faster way to its
    score.

    Worked out from measured seconds: a response costs what makes both take equally long, everything
    else what it cost. 0 when the campaign is ahead anyway, 1 when it samples no fewer responses, so
    that no cost of theirs helps it.
    """
    steps, own = (
        steps_of_grpo(record, f"offline-{problems}"),
        record.arms[f"offline-{problems}"].seconds[0],
    )
    update = record.arms["online"].curve("online").mean("seconds_update")
    ahead = sum(own[phase] for phase in ("score", "teacher", "distill")) - steps * update
    saved = (steps * RESPONSES - problems) * RESPONSES
    if ahead <= 0:
        return 0.0
    if saved <= 0:
        return 1.0
    sampling = RESPONSES**2 * ahead / saved
    return sampling / (sampling + update)


FOLLOW_UPS: Mapping[int, tuple[FollowUp, ...]] = {
    3: (
        FollowUp(
            "the student of the conservative teacher is held to 0.4 of its teacher's KL and to a "
            "clip of 0.3. Without the budget, with "
            "three times the steps and a clip of 0.5 it passes its teacher, still at a smaller "
            "KL; with the steps alone it does not.",
            "looser",
            (
                points(
                    "clip 0.5, 360 steps, student over teacher", "wider", "wider:teacher", bound=-1
                ),
                kl("clip 0.5, 360 steps, student over teacher", "wider", "wider:teacher", "below"),
                points(
                    "clip 0.3, 360 steps, student over teacher", "longer", "longer:teacher", "below"
                ),
                points("360 steps, clip 0.5 over 0.3", "wider", "longer"),
            ),
        ),
        FollowUp(
            "a score at temperature 1 counts certainty, of which a trust region lets through "
            "less. Tested as the paper tests (temperature "
            "0.6, top-p 0.95) the same students are within a point of their teachers, or above.",
            "protocol",
            (
                points("extreme CE, student over teacher", "extreme", "extreme:teacher", bound=-1),
                points(
                    "conservative CE, student over teacher",
                    "conservative",
                    "conservative:teacher",
                    bound=-1,
                ),
            ),
        ),
    ),
    4: (
        FollowUp(
            "a teacher that drifts forgets, and this base has much to forget: it is right on "
            "nearly every problem with its likeliest "
            "tokens (claim 11). A mild KL term holds that back. So it gains where a teacher has "
            "drifted, with SAPO too, and not before. "
            "Made from all seeds of the studies `front` and `steps` and from runs like these on "
            "seed 100, where a first version, that only "
            "CE gains by it, had failed.",
            "mild",
            (
                points("SAPO, 60 steps, KL weight 0.05 over none", "kl-60", "free-60"),
                kl("SAPO, 60 steps, KL weight 0.05 over none", "kl-60", "free-60", "below"),
                points("SAPO, 16 steps, KL weight 0.05 over none", "kl-16", "free-16", "below", 1),
            ),
        ),
    ),
    9: (
        FollowUp(
            "strategy 1 gains more often here than it stalls, so there is often nothing to mend: "
            "even over teachers that train too long "
            "and end behind the last student it gains.",
            "stalled",
            (
                points(
                    "third teacher over the second student", "with@3:teacher", "with@2", "below"
                ),
                points("strategy 1, third student over the second", "with@3", "with@2"),
                points("third batch, strategy 3 over strategy 1", "third@3", "with@3", "below", 1),
            ),
        ),
    ),
    10: (
        FollowUp(
            "large steps let a second signal drift: on four of seeds 0 to 6 the student of both "
            "ends at a larger KL than either alone, and "
            "where it is furthest out, on seed 5, it loses most. With smaller steps, 48 with each "
            "or 96 with one, both beat either alone. "
            "Made from the above on seeds 0 to 6 and from runs like these on seeds 100 and 101.",
            "slower",
            (
                points("both over the strong one alone, as many small steps", "both", "strong-96"),
                points(
                    "both over the recovered one alone, as many small steps", "both", "unlearned-96"
                ),
            ),
        ),
    ),
    11: (
        FollowUp(
            "what a policy can gain here is certainty. The base is right on nearly every problem "
            "when it takes the likeliest token each "
            "time: it knows good ways and bad ones, and samples among them. An extreme teacher "
            "loses some of that, its student keeps it. "
            "Certainty is what a bonus on entropy takes away: after one batch it costs 1.7 to 3.5 "
            "points at temperature 1, and "
            "nothing at the likeliest tokens (a comparison that was added when seeds 3 to 5 had "
            "been looked at).",
            "greedy",
            (
                score("the base, likeliest tokens", "plain:base", 95),
                points(
                    "the first teacher over the base, likeliest tokens",
                    "plain:teacher",
                    "plain:base",
                    "below",
                ),
                points(
                    "the first student over the base, likeliest tokens",
                    "plain",
                    "plain:base",
                    bound=-1,
                ),
                points(
                    "after one batch, likeliest tokens, with over without",
                    "bonus-0.05",
                    "plain",
                    bound=-1,
                ),
            ),
        ),
        FollowUp(
            "so a bonus should cost little at the paper's temperature of 0.6 (and top-p 0.95), "
            "where an unlikely token is seldom taken. "
            "That is too simple, for by the third batch something else costs more: students "
            "drift, with a bonus or without. On seeds 0 to "
            "7 of the study `entropy` what the bonus costs then follows how much further out it "
            "ends (its figure; correlation −0.94, "
            "`python -m scripts.evidence.drift`), and on seed 100 it was the student without it "
            "that drifted, and lost 5.4 points to the "
            "one with it. The second comparison was added then, when seeds 3 and 4 had been "
            "looked at.",
            "cooler",
            (
                points(
                    "after three batches, at temperature 0.6, with over without",
                    "bonus-0.05@3",
                    "plain@3",
                    bound=-1,
                ),
                Part(
                    "of these two the one at the smaller KL over the other",
                    "points",
                    lambda one: nearer_over_further(one, "bonus-0.05@3", "plain@3"),
                ),
            ),
        ),
        FollowUp(
            "with each distillation ended at about one KL there is little room to drift, and a "
            "bonus keeps some entropy for 2 points at "
            "most. Made from the above, and from runs like these on seed 100, where it cost 0.9, "
            "and 1.9 when it was three times as large "
            "and ended somewhat later. On seeds 4 and 5 the student with it ended nearer and "
            "scored less all the same: drift is not all.",
            "bounded",
            (
                points(
                    "after three batches, at temperature 0.6, with over without",
                    "bonus-0.05@3",
                    "plain@3",
                    bound=-2,
                ),
                entropy(
                    "after three batches, at temperature 0.6, with over without",
                    "bonus-0.05@3",
                    "plain@3",
                ),
            ),
        ),
    ),
    12: (
        FollowUp(
            "the masks decide here how far an unstable distillation drifts, and that decides the "
            "score: students at a KL of 0.03 to 0.07 "
            "end at 72 to 78 %, those beyond 0.2 at 52 to 63 %. With smaller steps and an end at "
            "about one KL it matters little what is "
            "kept of right responses. Made from the above on seeds 0 to 4 and from runs held like "
            "these on seeds 100 and 101.",
            "held",
            (
                points("without the positive ones over everything", "min", "all", bound=-3),
                points("without the positive ones over everything", "min", "all", "below", 3),
                points("without the negative ones over everything", "max", "all", bound=-3),
                points("without the negative ones over everything", "max", "all", "below", 3),
                points("everything, student over the base", "all", "all:base", bound=10),
            ),
        ),
    ),
    13: (
        FollowUp(
            "its stages come when little is left to gain: two offline stages end at 85 to 89 %, "
            "and no policy of these studies passes 95. "
            "An online stage earlier on gains, and so does the offline stage after it; whether "
            "more than offline stages in their place is "
            "another matter.",
            "earlier",
            (
                points(
                    "the online stage, second, over the student before it",
                    "switching@2",
                    "switching@1",
                ),
                points("the offline stage after it over it", "switching@3", "switching@2"),
                points(
                    "after three stages, switching over offline only", "switching@3", "offline@3"
                ),
            ),
        ),
    ),
    14: (
        FollowUp(
            "sampling 24 tokens is cheap, and a batch goes further than this. A campaign on 16 or "
            "32 problems, 256 or 512 responses, "
            "reaches a lower score, for which on-policy GRPO samples several times as many. Where "
            "sampling takes most of an on-policy "
            "step (in the paper 800 of 1,100 s, a share of 0.73), that could turn the clock; no "
            "such run was made here.",
            "reuse",
            (
                Part(
                    "responses to equal score, on-policy over a campaign on 32 problems",
                    "doublings",
                    lambda one: responses_saved(one, 32),
                    bound=1,
                ),
                Part(
                    "the same, on 16 problems",
                    "doublings",
                    lambda one: responses_saved(one, 16),
                    bound=1,
                ),
                Part(
                    "share of sampling at which a campaign on 32 problems would draw level",
                    "of a step",
                    lambda one: even_share(one, 32),
                    "below",
                    0.73,
                ),
                points(
                    "on 16 problems, student over its teacher", "offline-16", "offline-16:teacher"
                ),
            ),
        ),
    ),
}
"""Number of a claim -> what was tried."""
STUDIES_AFTER = {one.study for tried in FOLLOW_UPS.values() for one in tried}
"""Studies of follow-ups."""
