"""Graphs made of graphs, against sets of pairs.

Each operation alone is tested elsewhere. Here they follow one another: what one leaves unmade
in a graph until it is asked for, the next one must do without.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule

from converge.errors import CircularDependency
from converge.graph import Graph

Pairs = frozenset[tuple[str, str]]
#: A graph, and what it must be: its nodes and its edges.
Made = tuple[Graph[str], frozenset[str], Pairs]

NODES = [f"n{number}" for number in range(8)]
nodes = st.sampled_from(NODES)


def closure(start: str, pairs: Pairs) -> frozenset[str]:
    """A node and all that requires it."""
    found = {start}
    while more := {a for a, b in pairs if b in found} - found:
        found |= more
    return frozenset(found)


class Graphs(RuleBasedStateMachine):
    """What is made of a graph must be right whatever the graph was asked before."""

    made = Bundle("made")

    @rule(target=made, names=st.sets(nodes))
    def lone(self, names: set[str]) -> Made:
        return Graph((name, None) for name in sorted(names)), frozenset(names), frozenset()

    @rule(target=made, one=made, a=nodes, b=nodes)
    def add(self, one: Made, a: str, b: str) -> Made:
        """One more edge, unless it would close a cycle."""
        graph, names, pairs = one
        edges = [*graph.edges(), (a, b)]
        if b in closure(a, pairs):
            with pytest.raises(CircularDependency) as caught:
                Graph(edges)
            cycle = caught.value.cycle
            assert set(zip(cycle, cycle[1:] + cycle[:1], strict=True)) <= pairs | {(a, b)}
            assert (a, b) in zip(cycle, cycle[1:] + cycle[:1], strict=True)
            return one
        return Graph(edges), names | {a, b}, pairs | {(a, b)}

    @rule(target=made, one=made, other=made)
    def join(self, one: Made, other: Made) -> Made:
        """All edges of two graphs, unless they contradict each other."""
        names, pairs = one[1] | other[1], one[2] | other[2]
        edges = [*one[0].edges(), *other[0].edges()]
        if any(b in closure(a, pairs) for a, b in pairs):
            with pytest.raises(CircularDependency):
                Graph(edges)
            return one
        return Graph(edges), names, pairs

    @rule(target=made, one=made)
    def turn_round(self, one: Made) -> Made:
        return one[0].reversed(), one[1], frozenset((b, a) for a, b in one[2])

    @rule(target=made, one=made, node=nodes)
    def part(self, one: Made, node: str) -> Made:
        graph, names, pairs = one
        if node not in names:
            with pytest.raises(KeyError):
                graph[node]
            return one
        inside = closure(node, pairs)
        return graph[node], inside, frozenset((a, b) for a, b in pairs if {a, b} <= inside)

    @rule(target=made, one=made, shift=st.integers(1, 7))
    def rename(self, one: Made, shift: int) -> Made:
        table = {name: NODES[(place + shift) % 8] for place, name in enumerate(NODES)}
        renamed = frozenset((table[a], table[b]) for a, b in one[2])
        names = frozenset(table[name] for name in one[1])
        return one[0].translate(table.__getitem__), names, renamed

    @rule(target=made, one=made)
    def store(self, one: Made) -> Made:
        return Graph.from_bytes(one[0].to_bytes()), one[1], one[2]

    @rule(one=made, name=st.sampled_from(["order", "edges", "requires", "required_by", "hash"]))
    def ask(self, one: Made, name: str) -> None:
        """Any one question, so that the next operation finds the answer to it made."""
        graph, names, pairs = one
        questions: dict[str, Callable[[], None]] = {
            "order": lambda: check_order(graph, names, pairs),
            "edges": lambda: check_edges(graph, names, pairs),
            "requires": lambda: check_requires(graph, names, pairs),
            "required_by": lambda: check_required_by(graph, names, pairs),
            "hash": lambda: check_equal(graph, names, pairs),
        }
        questions[name]()


def check_order(graph: Graph[str], names: frozenset[str], pairs: Pairs) -> None:
    order = list(graph)
    assert sorted(order) == sorted(names)
    assert list(reversed(graph)) == order[::-1]
    place = {name: number for number, name in enumerate(order)}
    assert all(place[b] < place[a] for a, b in pairs)
    assert [name for name in NODES if name in graph] == sorted(names)


def check_edges(graph: Graph[str], names: frozenset[str], pairs: Pairs) -> None:
    lone = names - {name for pair in pairs for name in pair}
    edges = list(graph.edges())
    assert len(edges) == len(set(edges))
    assert set(edges) == pairs | {(name, None) for name in lone}


def check_requires(graph: Graph[str], names: frozenset[str], pairs: Pairs) -> None:
    assert all(graph.requires(name) == {b for a, b in pairs if a == name} for name in names)
    assert graph.leaves() == names - {a for a, _ in pairs}


def check_required_by(graph: Graph[str], names: frozenset[str], pairs: Pairs) -> None:
    assert all(graph.required_by(name) == {a for a, b in pairs if b == name} for name in names)
    assert graph.roots() == names - {b for _, b in pairs}


def check_equal(graph: Graph[str], names: frozenset[str], pairs: Pairs) -> None:
    again = Graph([*((name, None) for name in sorted(names)), *sorted(pairs)])
    assert graph == again
    assert hash(graph) == hash(again)


TestGraphs = Graphs.TestCase
TestGraphs.settings = settings(max_examples=60, stateful_step_count=30)
