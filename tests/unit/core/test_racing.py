"""Races: the best policy is rarely dropped, bad ones soon are, and looking often costs nothing."""

from __future__ import annotations

import random

import pytest

from erpd_core.racing import EProcess, Race, compare_in_sequence
from erpd_core.scoring import Outcomes

PROBLEMS = 64


def answers(rng: random.Random, chances: list[float], samples: int) -> Outcomes:
    """Outcomes of a policy that is right on problem i with probability `chances[i]`."""
    return {
        f"p{number}": [float(rng.random() < chance) for _ in range(samples)]
        for number, chance in enumerate(chances)
    }


def shifted(chances: list[float], by: float) -> list[float]:
    return [min(1.0, max(0.0, chance + by)) for chance in chances]


def some_chances(rng: random.Random) -> list[float]:
    """Problems from hopeless to certain."""
    return [rng.random() for _ in range(PROBLEMS)]


def run_race(seed: int, offsets: list[float], alpha: float, round_: int, rounds: int) -> Race:
    """A race of policies whose chances of a right answer differ by `offsets`."""
    rng = random.Random(seed)
    chances = some_chances(rng)
    race = Race([f"policy {number}" for number in range(len(offsets))], alpha)
    for _ in range(rounds):
        if len(race.alive) == 1:
            break
        drawn = {
            f"policy {number}": answers(rng, shifted(chances, by), round_)
            for number, by in enumerate(offsets)
        }
        race.add({name: drawn[name] for name in race.alive})
    return race


def test_equal_policies_are_called_different_less_often_than_the_level_allows():
    """One looks after every sample, which would ruin a test of fixed size."""
    alpha, wrong, runs = 0.1, 0, 400
    for seed in range(runs):
        rng = random.Random(seed)
        chances, process = some_chances(rng), EProcess(PROBLEMS)
        for _ in range(24):
            process.add([(rng.random() < p) - (rng.random() < p) for p in chances])
        wrong += process.largest >= 1 / alpha
    assert wrong / runs <= alpha


def test_the_best_policy_is_dropped_less_often_than_the_level_allows():
    lost = sum(
        "policy 0" in run_race(seed, [0.0, 0.0, -0.02, -0.05, -0.3], 0.2, 2, 8).dropped
        for seed in range(150)
    )
    assert lost / 150 <= 0.2


def test_a_difference_within_the_margin_is_not_proven():
    proven = 0
    for seed in range(200):
        rng = random.Random(seed)
        chances = [0.3] * PROBLEMS
        a, b = answers(rng, shifted(chances, 0.1), 16), answers(rng, chances, 16)
        proven += compare_in_sequence(a, b, alpha=0.1, margin=0.1).proven
    assert proven / 200 <= 0.1


def test_clear_differences_end_a_race_early():
    race = run_race(1, [0.0, -0.3, -0.4], 0.05, round_=4, rounds=8)
    assert race.leader == "policy 0" and race.dropped.keys() == {"policy 1", "policy 2"}
    assert max(race.samples.values()) <= 8, "32 samples were allowed"


def test_a_small_difference_is_found_with_enough_samples():
    found = sum(
        run_race(seed, [0.0, -0.1], 0.05, round_=4, rounds=16).leader == "policy 0"
        for seed in range(20)
    )
    assert found == 20


def test_ties_go_to_the_first_and_a_race_without_rounds_has_its_first_as_leader():
    race = Race(["a", "b"], 0.05)
    same = {"p1": [1.0, 0.0], "p2": [1.0, 1.0]}
    race.add({"a": same, "b": same})
    assert (race.leader, race.alive, race.average("b")) == ("a", ["a", "b"], 0.75)
    assert Race(["only"], 0.05).leader == "only"


def test_a_dropped_policy_gets_no_more_samples():
    race = run_race(3, [0.0, 0.0, -0.5], 0.05, round_=2, rounds=6)
    assert race.samples["policy 2"] < race.samples["policy 0"] == 12


def test_a_round_is_of_the_policies_that_are_left_on_the_same_problems():
    race = Race(["a", "b"], 0.05)
    with pytest.raises(ValueError, match="a, b"):
        race.add({"a": {"p": [1.0]}})
    race.add({"a": {"p": [1.0]}, "b": {"p": [0.0]}})
    with pytest.raises(ValueError, match="same problems"):
        race.add({"a": {"q": [1.0]}, "b": {"q": [0.0]}})


def test_a_comparison_uses_the_samples_that_both_have():
    a = {"p1": [1.0, 1.0], "p2": [1.0, 0.0]}
    b = {"p1": [0.0, 1.0, 1.0, 1.0], "p2": [0.0, 0.0, 1.0, 1.0]}
    comparison = compare_in_sequence(a, b, alpha=0.05)
    assert comparison.difference == 0.5 and not comparison.beyond_noise(0.0)
    with pytest.raises(ValueError, match="different problems"):
        compare_in_sequence(a, {"p1": [0.0, 1.0]}, alpha=0.05)
