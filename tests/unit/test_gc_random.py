"""Garbage collection of random stores: kept artifacts never lose their inputs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from gc_lab import Busy, Lab
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.store.gc import collect

pytestmark = pytest.mark.slow


@dataclass
class Drawn:
    """A random store with a registry that may lag behind it.

    Artifacts are numbers; parents have smaller numbers.
    """

    parents: list[set[int]]
    trail: list[set[int]]
    """For each artifact, the later artifacts that its result names."""
    edges: list[set[int]]
    """For each artifact, the parents that the registry knows."""
    young: list[bool]
    campaigns: list[tuple[bool, set[int]]] = field(default_factory=list)
    """Per campaign: (forgotten, artifacts it holds)."""


@st.composite
def stores(draw: st.DrawFn) -> Drawn:
    count = draw(st.integers(1, 7))
    some = [
        st.sets(st.integers(0, number - 1), max_size=3) if number else st.just(set())
        for number in range(count)
    ]
    parents = [draw(strategy) for strategy in some]
    names = [
        draw(st.sets(st.integers(number + 1, count - 1), max_size=1))
        if number < count - 1
        else set()
        for number in range(count)
    ]
    edges = [{parent for parent in mine if draw(st.booleans())} for mine in parents]
    young = [draw(st.sampled_from([False, False, True])) for _ in range(count)]
    campaigns = draw(
        st.lists(
            st.tuples(st.booleans(), st.sets(st.integers(0, count - 1), max_size=2)), max_size=3
        )
    )
    return Drawn(parents, names, edges, young, campaigns)


def kept_of(drawn: Drawn) -> set[int]:
    """The artifacts that must stay, by the simplest means: their closure under what they need."""
    kept = {artifact for forgotten, held in drawn.campaigns if not forgotten for artifact in held}
    kept |= {number for number, young in enumerate(drawn.young) if young}
    while True:
        grown = kept.union(*(drawn.parents[artifact] | drawn.trail[artifact] for artifact in kept))
        if grown == kept:
            return kept
        kept = grown


def build_drawn(lab: Lab, drawn: Drawn) -> list[str]:
    """Make the drawn artifacts in the lab; returns their identities.

    A result names later artifacts, so all identities are computed before any artifact is made.
    """
    from tasks.store import identity

    ids: list[str] = []
    for number, mine in enumerate(drawn.parents):
        ids.append(
            identity(
                "thing",
                {"name": str(number)},
                {str(n): ids[parent] for n, parent in enumerate(sorted(mine))},
                1,
            )
        )
    for number, mine in enumerate(drawn.parents):
        made = lab.make(
            str(number),
            *(ids[parent] for parent in sorted(mine)),
            days=1 if drawn.young[number] else 30,
            trail=tuple(ids[later] for later in drawn.trail[number]),
        )
        assert made == ids[number]
        lab.record(made, [ids[parent] for parent in drawn.edges[number]])
    for number, (forgotten, held) in enumerate(drawn.campaigns):
        name = lab.campaign(f"c-{number}", *(ids[artifact] for artifact in held))
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
        kept = {ids[artifact] for artifact in kept_of(drawn)}
        assert lab.collect() == set(ids) - kept
        assert lab.there() == kept and lab.whole(*kept)
        assert {artifact for artifact in ids if lab.registry.artifact(artifact).removed_at} == set(
            ids
        ) - kept
        assert lab.collect() == set(), "nothing is left to collect"
        lab.registry.close()


@given(drawn=stores(), used=st.integers(0, 6), attached=st.integers(0, 6), moment=st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_what_comes_into_use_while_it_is_collected_loses_nothing(
    drawn: Drawn, used: int, attached: int, moment: int
):
    """During a collection one artifact is requested and another is attached to a new campaign.

    Each that is still there at that moment stays, with everything it was made from.
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
        left = [*saved, *(ids[artifact] for artifact in kept_of(drawn))]
        while left:
            artifact = left.pop()
            assert lab.whole(artifact), f"{ids.index(artifact)} is gone"
            left += lab.store.manifest(artifact).inputs.values()
        lab.registry.close()
