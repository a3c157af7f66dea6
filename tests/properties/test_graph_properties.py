"""The graph against sets of pairs."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converge.errors import BadInput, CircularDependency
from converge.graph import Graph

Edges = list[tuple[str, str | None]]
Pairs = set[tuple[str, str]]

any_edges = st.lists(
    st.tuples(st.integers(0, 9), st.none() | st.integers(0, 9)).map(
        lambda edge: (f"n{edge[0]}", None if edge[1] is None else f"n{edge[1]}")
    ),
    max_size=20,
)


@st.composite
def acyclic_edges(draw: st.DrawFn) -> Edges:
    names = draw(st.lists(st.text(max_size=4), unique=True, max_size=12))
    places = st.integers(0, max(len(names) - 1, 0))
    pairs = draw(st.lists(st.tuples(places, places), max_size=40)) if names else []
    return [(names[max(i, j)], names[min(i, j)] if i != j else None) for i, j in pairs]


def oracle(edges: Edges) -> tuple[set[str], Pairs]:
    pairs = {(a, b) for a, b in edges if b is not None}
    return {node for edge in edges for node in edge if node is not None}, pairs


def closure(start: str, pairs: Pairs) -> set[str]:
    found = {start}
    while more := {a for a, b in pairs if b in found} - found:
        found |= more
    return found


def has_cycle(nodes: set[str], pairs: Pairs) -> bool:
    while free := {node for node in nodes if not any(a == node for a, _ in pairs)}:
        nodes = nodes - free
        pairs = {(a, b) for a, b in pairs if b not in free}
    return bool(nodes)


def check(graph: Graph[str], nodes: set[str], pairs: Pairs) -> None:
    """The graph has these nodes and edges, and all it says agrees with them."""
    order = list(graph)
    assert Counter(order) == Counter(nodes)
    assert len(graph) == len(nodes)
    place = {node: i for i, node in enumerate(order)}
    assert all(place[b] < place[a] for a, b in pairs)
    edges = list(graph.edges())
    assert len(edges) == len(set(edges))
    lone = nodes - {node for pair in pairs for node in pair}
    assert set(edges) == pairs | {(node, None) for node in lone}
    for node in nodes:
        assert node in graph
        assert list(graph.requires(node)) == sorted(
            {b for a, b in pairs if a == node}, key=place.__getitem__
        )
        assert list(graph.required_by(node)) == sorted(
            {a for a, b in pairs if b == node}, key=place.__getitem__
        )
    assert graph.leaves() == nodes - {a for a, _ in pairs}
    assert graph.roots() == nodes - {b for _, b in pairs}


@given(acyclic_edges())
def test_answers(edges: Edges) -> None:
    check(Graph(edges), *oracle(edges))


@given(any_edges)
def test_cycle_or_not(edges: Edges) -> None:
    nodes, pairs = oracle(edges)
    if not has_cycle(nodes, pairs):
        check(Graph(edges), nodes, pairs)
        return
    with pytest.raises(CircularDependency) as caught:
        Graph(edges)
    cycle = caught.value.cycle
    assert len(cycle) == len(set(cycle))
    assert set(zip(cycle, cycle[1:] + cycle[:1], strict=True)) <= pairs


@given(acyclic_edges(), st.randoms(use_true_random=False))
def test_edges_rebuild_an_equal_graph(edges: Edges, rng: object) -> None:
    graph = Graph(edges)
    assert Graph(graph.edges()) == graph
    shuffled = list(edges)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert Graph(shuffled) == graph
    assert hash(Graph(shuffled)) == hash(graph)


@given(acyclic_edges(), acyclic_edges())
def test_equality(edges: Edges, others: Edges) -> None:
    assert (Graph(edges) == Graph(others)) == (oracle(edges) == oracle(others))


@given(acyclic_edges())
def test_order_that_is_topological_is_kept(edges: Edges) -> None:
    order = list(Graph(edges))
    assert list(Graph([*((node, None) for node in order), *edges])) == order


@given(acyclic_edges())
def test_subgraphs(edges: Edges) -> None:
    graph = Graph(edges)
    nodes, pairs = oracle(edges)
    for node in nodes:
        inside = closure(node, pairs)
        check(graph[node], inside, {(a, b) for a, b in pairs if {a, b} <= inside})
        assert list(graph[node]) == [other for other in graph if other in inside]


@given(acyclic_edges())
def test_reversed(edges: Edges) -> None:
    nodes, pairs = oracle(edges)
    graph = Graph(edges)
    check(graph.reversed(), nodes, {(b, a) for a, b in pairs})
    assert graph.reversed().reversed() == graph


@given(any_edges, st.lists(st.integers(0, 9), min_size=10, max_size=10))
def test_translate(edges: Edges, targets: list[int]) -> None:
    if has_cycle(*oracle(edges)):
        edges = [(a, b) for a, b in edges if b is not None and a < b]
    table = {f"n{i}": f"m{target}" for i, target in enumerate(targets)}
    nodes, pairs = oracle([(table[a], None if b is None else table[b]) for a, b in edges])
    if has_cycle(nodes, pairs):
        with pytest.raises(CircularDependency):
            Graph(edges).translate(table.__getitem__)
    else:
        check(Graph(edges).translate(table.__getitem__), nodes, pairs)


@given(acyclic_edges())
def test_serialization(edges: Edges) -> None:
    graph = Graph(edges)
    again = Graph.from_bytes(graph.to_bytes())
    check(again, *oracle(edges))
    assert again == graph
    assert list(again) == list(graph)


@settings(max_examples=300)
@given(acyclic_edges(), st.data())
def test_damaged_data_is_refused(edges: Edges, data: st.DataObject) -> None:
    good = Graph(edges).to_bytes()
    bad = bytearray(good)
    bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadInput):
        Graph.from_bytes(bad)


@given(st.binary())
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput):
        Graph.from_bytes(data)
