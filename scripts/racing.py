"""Simulates races of policies whose true scores are known: errors, samples, regret.

    python -m scripts.racing                # writes docs/results/racing.md; half a minute

A policy is right on problem i with its own probability, drawn once per simulation: unequal
difficulty, and policies that differ by an offset and by chance from problem to problem.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

from erpd_core.racing import Race
from erpd_core.scoring import Outcomes

ALPHA, ROUND, FULL = 0.05, 4, 16
BUDGETS = (8, 16)
"""Samples per problem that a candidate may have: the default, half of a full selection, and all."""
FIELDS = {
    "six equal policies": (0.0,) * 6,
    "one better by 2 points, of six": (0.0, *(-0.02,) * 5),
    "one better by 5 points, of six": (0.0, *(-0.05,) * 5),
    "steps of a training that rises by 20 points": (-0.2, -0.12, -0.06, -0.02, -0.01, 0.0),
    "two policies, 10 points apart": (0.0, -0.1),
    "two policies, 3 points apart": (0.0, -0.03),
}


@dataclass(frozen=True)
class Outcome:
    """One simulated race."""

    dropped_best: bool
    """Whether the policy with the best true score was dropped."""
    regret: float
    """True score of the best policy minus that of the winner."""
    full_regret: float
    """The same for the winner by all samples of all policies."""
    spent: float
    """Samples, as a share of all samples of all policies."""


def simulate(offsets: tuple[float, ...], problems: int, budget: int, seed: int) -> Outcome:
    """Race policies with these mean offsets once."""
    rng = random.Random(seed)
    difficulty = [rng.random() for _ in range(problems)]
    chances = {
        str(number): [min(1.0, max(0.0, base + offset + rng.gauss(0, 0.1))) for base in difficulty]
        for number, offset in enumerate(offsets)
    }
    answers = {
        name: {f"p{i}": [float(rng.random() < p) for _ in range(FULL)] for i, p in enumerate(row)}
        for name, row in chances.items()
    }
    truth = {name: sum(row) / problems for name, row in chances.items()}
    best = max(truth, key=lambda name: truth[name])
    race = Race(list(chances), ALPHA)
    for start in range(0, budget, ROUND):
        if len(race.alive) == 1:
            break
        race.add({name: _part(answers[name], start) for name in race.alive})
    full = max(answers, key=lambda name: sum(map(sum, answers[name].values())))
    return Outcome(
        dropped_best=best in race.dropped,
        regret=truth[best] - truth[race.leader],
        full_regret=truth[best] - truth[full],
        spent=sum(race.samples.values()) / (FULL * len(offsets)),
    )


def _part(answers: Outcomes, start: int) -> Outcomes:
    return {problem: row[start : start + ROUND] for problem, row in answers.items()}


def table(problems: int, races: int) -> str:
    """The results of all fields as a Markdown table."""
    lines = [
        "| field | samples allowed | best policy dropped, % | samples spent, % of all "
        "| regret, points | of a full selection |",
        "|---|---|---|---|---|---|",
    ]
    for name, offsets in FIELDS.items():
        for budget in BUDGETS:
            outcomes = [simulate(offsets, problems, budget, seed) for seed in range(races)]
            dropped, spent, regret, full = (
                100 * sum(values) / races
                for values in (
                    [each.dropped_best for each in outcomes],
                    [each.spent for each in outcomes],
                    [each.regret for each in outcomes],
                    [each.full_regret for each in outcomes],
                )
            )
            lines.append(
                f"| {name} | {budget} | {dropped:.1f} | {spent:.0f} | {regret:.2f} | {full:.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--races", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("docs/results/racing.md"))
    args = parser.parse_args()
    text = (
        f"# Races in simulation\n\nMade by `python -m scripts.racing`: {args.races} races each on "
        f"{args.problems} problems, rounds of {ROUND} samples, alpha {ALPHA}; a full selection has "
        f"{FULL} samples per problem. The regret is the true score of the best policy minus that "
        f"of the one chosen.\n\n{table(args.problems, args.races)}\n"
    )
    args.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
