"""Garbage collection of stores drawn at random: nothing that is kept loses what it was made
from.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from garbage_lab import Busy, Lab
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.store.gc import collect

pytestmark = pytest.mark.slow


@dataclass
class Drawn:
    """A random store with a registry that may lag behind it. Artifacts are numbers; parents are
    smaller ones.
    """

    parents: list[set[int]]
    trail: list[set[int]]
    """Later artifacts that its answer names."""
    edges: list[set[int]]
    """Of its parents, those the registry knows."""
    young: list[bool]
    campaigns: list[tuple[bool, set[int]]] = field(default_factory=list)
    """(forgotten, what it holds)."""


@st.composite
def stores(draw: st.DrawFn) -> Drawn:
    count = draw(st.integers(1, 7))
    some = [
        st.sets(st.integers(0, number - 1), max_size=3) if number else st.just(set())
        for number in range(count)
    ]
    parents = [draw(one) for one in some]
    names = [
        draw(st.sets(st.integers(number + 1, count - 1), max_size=1))
        if number < count - 1
        else set()
        for number in range(count)
    ]
    edges = [{one for one in mine if draw(st.booleans())} for mine in parents]
    young = [draw(st.sampled_from([False, False, True])) for _ in range(count)]
    campaigns = draw(
        st.lists(
            st.tuples(st.booleans(), st.sets(st.integers(0, count - 1), max_size=2)), max_size=3
        )
    )
    return Drawn(parents, names, edges, young, campaigns)


def kept_of(drawn: Drawn) -> set[int]:
    """What has to stay, by the simplest means: what is kept grows until it grows no more."""
    kept = {one for forgotten, held in drawn.campaigns if not forgotten for one in held}
    kept |= {number for number, young in enumerate(drawn.young) if young}
    while True:
        grown = kept.union(*(drawn.parents[one] | drawn.trail[one] for one in kept))
        if grown == kept:
            return kept
        kept = grown


def build_drawn(lab: Lab, drawn: Drawn) -> list[str]:
    """The artifacts' identities. What an answer names comes after it, so its identity is worked
    out before it is made.
    """
    from tasks.store import identity

    ids: list[str] = []
    for number, mine in enumerate(drawn.parents):
        ids.append(
            identity(
                "thing",
                {"name": str(number)},
                {str(n): ids[one] for n, one in enumerate(sorted(mine))},
                1,
            )
        )
    for number, mine in enumerate(drawn.parents):
        made = lab.make(
            str(number),
            *(ids[one] for one in sorted(mine)),
            days=1 if drawn.young[number] else 30,
            trail=tuple(ids[one] for one in drawn.trail[number]),
        )
        assert made == ids[number]
        lab.record(made, [ids[one] for one in drawn.edges[number]])
    for number, (forgotten, held) in enumerate(drawn.campaigns):
        name = lab.campaign(f"c-{number}", *(ids[one] for one in held))
        if forgotten:
            lab.registry.forget(name)
    return ids


@given(drawn=stores())
@settings(max_examples=40, deadline=None)
def test_what_is_kept_is_whole_afterwards_with_all_it_was_made_from_and_the_rest_is_gone(
    drawn: Drawn,
):
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        ids = build_drawn(lab, drawn)
        kept = {ids[one] for one in kept_of(drawn)}
        assert lab.collect() == set(ids) - kept
        assert lab.there() == kept and lab.whole(*kept)
        assert {one for one in ids if lab.registry.artifact(one).removed_at} == set(ids) - kept
        assert lab.collect() == set(), "there is nothing left to do"
        lab.registry.close()


@given(drawn=stores(), used=st.integers(0, 6), attached=st.integers(0, 6), moment=st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_what_comes_into_use_while_it_is_collected_loses_nothing(
    drawn: Drawn, used: int, attached: int, moment: int
):
    """At some moment of the collection one artifact is asked for, and another goes to a campaign
    that begins: each that is still there then stays, with everything it was made from.
    """
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        ids = build_drawn(lab, drawn)
        saved: set[str] = set()

        def meanwhile() -> None:
            if lab.store.has(ids[used % len(ids)]):
                saved.add(ids[used % len(ids)])
            if lab.store.path(held := ids[attached % len(ids)]).exists():
                lab.campaign("new", held)
                saved.add(held)

        collect(lab.store, Busy(lab.registry, moment, meanwhile), lab.plan())
        left = [*saved, *(ids[one] for one in kept_of(drawn))]
        while left:
            one = left.pop()
            assert lab.whole(one), f"{ids.index(one)} is gone"
            left += lab.store.manifest(one).inputs.values()
        lab.registry.close()
