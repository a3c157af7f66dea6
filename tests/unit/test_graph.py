"""The graph: what it answers, its order, its errors and its serialization."""

from __future__ import annotations

import copy
import doctest
import pickle
import random
import struct
import zlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import pytest

import converge.graph
from converge.errors import BadInput, CircularDependency
from converge.graph import Graph

EDGES = [("c", "a"), ("c", "b"), ("d", "c"), ("e", "c"), ("lone", None)]
DEPTH = 20_000


def example() -> Graph[str]:
    return Graph(EDGES)


def chain_edges() -> list[tuple[int, int | None]]:
    """0 requires 1, 1 requires 2, and so on."""
    return [(i, i + 1) for i in range(DEPTH - 1)]


def sealed(nodes: int, edges: int, names: int, content: bytes, version: int = 1) -> bytes:
    """Serialized data whose checksum is right, whatever else is wrong."""
    body = struct.pack("<III", nodes, edges, names) + content
    return struct.pack("<3sBI", b"CvG", version, zlib.crc32(body)) + body


def columns(lengths: list[int], counts: list[int], gaps: list[int], names: bytes) -> bytes:
    """A serialized graph of at most 256 nodes; the numbers are below 256."""
    packed = b"".join(bytes(column) + bytes(3 * len(column)) for column in (lengths, counts, gaps))
    return sealed(len(lengths), len(gaps), len(names), zlib.compress(packed + names))


def test_answers() -> None:
    graph = example()
    assert list(graph) == ["a", "b", "c", "d", "e", "lone"]
    assert list(reversed(graph)) == ["lone", "e", "d", "c", "b", "a"]
    assert len(graph) == 6
    assert graph.requires("c") == {"a", "b"}
    assert list(graph.requires("c")) == ["a", "b"]
    assert graph.requires("a") == set()
    assert list(graph.required_by("c")) == ["d", "e"]
    assert graph.required_by("lone") == set()
    assert list(graph.leaves()) == ["a", "b", "lone"]
    assert list(graph.roots()) == ["d", "e", "lone"]
    assert "c" in graph
    assert "x" not in graph
    assert None not in graph


def test_edges_are_each_given_once_and_lone_nodes_with_none() -> None:
    assert list(Graph([*EDGES, *EDGES, ("c", None), ("lone", None)]).edges()) == EDGES
    assert list(Graph([("a", None), ("b", "a")]).edges()) == [("b", "a")]


def test_empty() -> None:
    graph: Graph[str] = Graph()
    assert len(graph) == 0
    assert list(graph) == []
    assert list(graph.edges()) == []
    assert graph.leaves() == graph.roots() == set()
    assert graph == Graph(iter(())) == graph.reversed()
    assert repr(graph) == "Graph()"
    assert Graph.from_bytes(graph.to_bytes()) == graph


def test_edges_can_come_from_an_iterator() -> None:
    assert Graph(iter(EDGES)) == example()
    assert Graph(zip("bc", "ab", strict=True)) == Graph([("b", "a"), ("c", "b")])


@pytest.mark.parametrize(
    "ask",
    [
        lambda graph: graph.requires("x"),
        lambda graph: graph.required_by("x"),
        lambda graph: graph["x"],
        lambda graph: graph.requires(None),
        lambda graph: graph[None],
        lambda graph: graph.around(["a", "x"]),
    ],
)
def test_unknown_node(ask: Callable[[Any], object]) -> None:
    with pytest.raises(KeyError):
        ask(example())


def test_an_order_that_is_topological_is_kept() -> None:
    names = ["z", "k", "b", "a", "y"]
    edges = [(name, None) for name in names] + [("y", "z"), ("a", "k"), ("y", "a")]
    assert list(Graph(edges)) == names


def test_order_does_not_depend_on_hashes() -> None:
    class Node:
        def __init__(self, name: str, hashed: int) -> None:
            self.name, self.hashed = name, hashed

        def __hash__(self) -> int:
            return self.hashed

        def __repr__(self) -> str:
            return self.name

    shapes = []
    for seed in range(5):
        hashes = random.Random(seed).sample(range(1000), 30)
        nodes = [Node(str(i), hashed) for i, hashed in enumerate(hashes)]
        graph = Graph((nodes[i], nodes[j]) for i in range(30) for j in range(i) if (i * j) % 3 == 1)
        last = nodes[1]
        shapes.append(
            repr([list(graph), list(graph.edges()), graph.roots(), list(graph[last].edges())])
        )
    assert len(set(shapes)) == 1


def test_any_hashable_nodes() -> None:
    nodes: list[Hashable] = [0, "", False, (1, "a"), frozenset({2}), 3.5, b"x", ...]
    graph = Graph([(node, "base") for node in nodes])
    assert graph.required_by("base") == set(nodes)  # False is 0
    assert len(graph) == len(nodes)


AROUND = Graph(
    [("b", "a"), ("c", "b"), ("d", "c"), ("e", "d"), ("side", "b"), ("d", "b"), ("lone", None)]
)


@pytest.mark.parametrize(
    ("nodes", "depth", "edges"),
    [
        ("c", 0, [("c", None)]),
        ("c", 1, [("c", "b"), ("d", "b"), ("d", "c")]),
        ("c", 2, [("b", "a"), ("c", "b"), ("d", "b"), ("d", "c"), ("e", "d")]),
        # what requires the same is beside it, not before or behind it
        ("c", 99, [("b", "a"), ("c", "b"), ("d", "b"), ("d", "c"), ("e", "d")]),
        ("lone", 5, [("lone", None)]),
        # with the edges between one part and the other
        ("a e", 1, [("b", "a"), ("d", "b"), ("e", "d")]),
        ("e a", 0, [("a", None), ("e", None)]),
        ("", 3, []),
    ],
)
def test_the_part_around_nodes_goes_both_ways(
    nodes: str, depth: int, edges: list[tuple[str, str | None]]
) -> None:
    part = AROUND.around(nodes.split(), depth)
    assert list(part.edges()) == edges
    assert part == Graph(edges)
    assert list(part) == [node for node in AROUND if node in part]
    for node in part:
        assert part.required_by(node) == {one for one, other in edges if other == node}


def test_the_part_around_a_node_of_a_long_chain_is_found() -> None:
    graph = Graph(chain_edges())
    assert list(graph.around([DEPTH // 2], DEPTH)) == list(graph)
    assert len(graph.around([DEPTH // 2], 3)) == 7


@pytest.mark.parametrize("edge", [("a",), ("a", "b", "c"), (), "abc", 3, None, object()])
def test_edge_that_is_no_pair(edge: Any) -> None:
    with pytest.raises(BadInput, match="must be a pair of hashable nodes") as caught:
        Graph([("a", "b"), edge])
    assert repr(edge) in str(caught.value)


@pytest.mark.parametrize("edge", [([], "a"), ("a", []), ([], None)])
def test_node_that_is_not_hashable(edge: Any) -> None:
    with pytest.raises(BadInput, match="hashable"):
        Graph([("a", "b"), edge])


@pytest.mark.parametrize("edge", [(None, "a"), (None, None)])
def test_none_requires_nothing(edge: Any) -> None:
    with pytest.raises(BadInput, match="None cannot be a graph's node"):
        Graph([("a", "b"), edge])


def test_errors_of_the_source_of_edges_pass() -> None:
    def edges() -> Iterator[tuple[str, str]]:
        yield "a", "b"
        raise ValueError("source")

    with pytest.raises(ValueError, match="source"):
        Graph(edges())


@pytest.mark.parametrize(
    ("edges", "cycle"),
    [
        ([("a", "a")], ["a"]),
        ([("a", None), ("b", "a"), ("b", "b")], ["b"]),
        ([("a", "b"), ("b", "a")], ["a", "b"]),
        ([("x", "a"), ("a", "b"), ("b", "c"), ("c", "a"), ("b", "z")], ["a", "b", "c"]),
        ([("s", "t"), ("a", "s"), ("a", "b"), ("b", "c"), ("c", "b"), ("c", "t")], ["b", "c"]),
    ],
)
def test_cycle(edges: list[tuple[str, str]], cycle: list[str]) -> None:
    with pytest.raises(CircularDependency) as caught:
        Graph(edges)
    found = [str(node) for node in caught.value.cycle]
    assert sorted(found) == sorted(cycle)
    assert set(zip(found, found[1:] + found[:1], strict=True)) <= set(edges)
    assert " -> ".join([*found, found[0]]) in str(caught.value)


def test_subgraph_is_a_node_and_all_that_require_it() -> None:
    graph = example()
    assert graph["c"] == Graph([("d", "c"), ("e", "c")])
    assert graph["a"] == Graph([("c", "a"), ("d", "c"), ("e", "c")])
    assert graph["lone"] == Graph([("lone", None)])
    assert graph["d"]["d"] == Graph([("d", None)])
    assert list(graph["a"]) == ["a", "c", "d", "e"]


def test_reversed() -> None:
    graph = example()
    turned = graph.reversed()
    assert list(turned) == list(reversed(graph))
    assert turned == Graph([("a", "c"), ("b", "c"), ("c", "d"), ("c", "e"), ("lone", None)])
    assert turned.reversed() == graph
    assert turned.requires("c") == {"d", "e"}
    assert list(turned.roots()) == ["lone", "b", "a"]


def test_translate() -> None:
    graph = example()
    upper = graph.translate(str.upper)
    assert upper == Graph((a.upper(), b and b.upper()) for a, b in EDGES)
    assert list(upper) == [name.upper() for name in graph]
    assert list(graph) == ["a", "b", "c", "d", "e", "lone"]


def test_translate_joins_nodes() -> None:
    joined = example().translate({"a": 1, "b": 1, "c": 3, "d": 4, "e": 4, "lone": 5}.__getitem__)
    assert joined == Graph([(3, 1), (4, 3), (5, None)])


@pytest.mark.parametrize("joined", ["ac", "ad"])
def test_translate_that_joins_a_node_with_what_it_requires(joined: str) -> None:
    with pytest.raises(CircularDependency):
        example().translate(lambda node: "x" if node in joined else node)


@pytest.mark.parametrize(("value", "message"), [(None, "translation of 'c' is None"), ([], "hash")])
def test_translate_to_no_node(value: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        example().translate(lambda node: value if node == "c" else node)


def test_equality() -> None:
    graph = example()
    assert graph == Graph(reversed(EDGES))
    assert hash(graph) == hash(Graph(reversed(EDGES)))
    assert graph != Graph(EDGES[:-1])
    assert graph != Graph([*EDGES[:-1], ("other", None)])
    assert graph != Graph([("c", "a"), ("c", "b"), ("d", "c"), ("e", "a"), ("lone", None)])
    assert Graph([("a", "b"), ("c", None)]) != Graph([("a", "c"), ("b", None)])
    assert graph != EDGES
    assert len({graph, Graph(reversed(EDGES)), Graph()}) == 2


def test_copies() -> None:
    graph = example()
    for again in (copy.copy(graph), copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert again == graph
        assert list(again) == list(graph)


def test_repr() -> None:
    assert repr(Graph([("a", "b"), ("c", None)])) == "Graph([('a', 'b'), ('c', None)])"
    assert eval(repr(example())) == example()
    assert repr(Graph((i, 0) for i in range(1, 21))) == "<Graph of 21 nodes and 20 edges>"
    assert repr(Graph([("x" * 300, "y")])) == "<Graph of 2 nodes and 1 edges>"


def test_docstring() -> None:
    assert doctest.testmod(converge.graph.graph).attempted > 0
    assert doctest.testmod(converge.graph.graph).failed == 0


def test_deep_chain() -> None:
    graph = Graph(chain_edges())
    assert list(graph) == list(reversed(range(DEPTH)))
    assert graph == Graph(reversed(chain_edges()))
    assert len(graph[DEPTH - 1]) == DEPTH
    assert repr(graph) == f"<Graph of {DEPTH} nodes and {DEPTH - 1} edges>"
    assert len(graph[1]) == 2
    assert graph.reversed().requires(5) == {4}
    names = graph.translate(str)
    data = names.to_bytes()
    assert Graph.from_bytes(data) == names


def test_deep_cycle() -> None:
    with pytest.raises(CircularDependency) as caught:
        Graph([*chain_edges(), (DEPTH - 1, 1)])
    assert caught.value.cycle == tuple(range(1, DEPTH))


def test_wide_star() -> None:
    graph = Graph([("root", i) for i in range(10_000)] + [(i, "base") for i in range(10_000)])
    assert list(graph) == ["base", *range(10_000), "root"]
    assert len(graph["base"]) == 10_002


@pytest.mark.parametrize(
    "name", ["", " ", 'a"b', "a\nb", "ä€😀", "\ud800", "\0", "x" * 300, "CvG"], ids=ascii
)
def test_serialization_of_names(name: str) -> None:
    graph = Graph([(name, "other"), ("más", name)])
    again = Graph.from_bytes(graph.to_bytes())
    assert again == graph
    assert list(again) == list(graph)


def test_serialization_keeps_the_order() -> None:
    edges = [(f"n{i}", f"n{j}") for i in range(0, 600, 3) for j in range(600, 900, 7) if i % 7 == 0]
    graph = Graph(edges)
    for data in (graph.to_bytes(), bytearray(graph.to_bytes()), memoryview(graph.to_bytes())):
        again = Graph.from_bytes(data)
        assert list(again) == list(graph)
        assert list(again.edges()) == list(graph.edges())
    assert again.to_bytes() == graph.to_bytes()


def test_serialization_is_compact() -> None:
    rng = random.Random(7)
    size = 4000
    edges = [(str(rng.randrange(i)), str(i)) for i in range(1, size) for _ in range(5)]
    graph = Graph(edges)
    names = len(Graph((node, None) for node in graph).to_bytes())
    assert (len(graph.to_bytes()) - names) / len(list(graph.edges())) < 3


def test_serialization_format_does_not_change() -> None:
    data = columns([1, 1, 2], [0, 1, 2], [0, 0, 0], "abçd".encode())
    graph = Graph.from_bytes(data)
    assert list(graph.edges()) == [("b", "a"), ("çd", "a"), ("çd", "b")]
    assert graph.to_bytes() == data


def test_only_strings_are_serialized() -> None:
    with pytest.raises(BadInput, match="graph of strings can be serialized, not 3"):
        Graph([("a", 3)]).to_bytes()


def test_damaged_data() -> None:
    data = example().to_bytes()
    for size in range(len(data)):
        with pytest.raises(BadInput):
            Graph.from_bytes(data[:size])
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x41
        with pytest.raises(BadInput):
            Graph.from_bytes(damaged)
    with pytest.raises(BadInput, match="checksum"):
        Graph.from_bytes(data + b"x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a serialized graph"),
        (b"x" * 100, "not a serialized graph"),
        (
            sealed(0, 0, 0, zlib.compress(b""), version=2),
            "of version 2; this converge reads 1 only",
        ),
        (sealed(0, 0, 0, b"nonsense"), "damaged"),
        (sealed(0, 0, 0, zlib.compress(b"") + b"more"), "sizes"),
        (sealed(0, 0, 3, zlib.compress(b"ab")), "sizes"),
        (sealed(0, 0, 3, zlib.compress(b"abcd")), "sizes"),
        (sealed(0, 0, 3, zlib.compress(bytes(10_000_000))), "sizes"),
        (sealed(2**32 - 1, 2**32 - 1, 2**32 - 1, zlib.compress(b"")), "bytes uncompressed"),
        (sealed(0, 0, 3, zlib.compress(b"abc")), "contradicts"),
        (sealed(1, 0, 0, zlib.compress(b"\xff" * 8)), "contradicts"),
        (sealed(1, 1, 1, zlib.compress(b"\1\0\0\0" + b"\1\0\0\0" + b"\xff" * 4 + b"a")), "contrad"),
        (columns([1, 1], [0, 1], [0], b"aa"), "contradicts"),  # one name twice
        (columns([1, 1], [0, 1], [0], b"a\xff"), "contradicts"),  # not UTF-8
        (columns([1, 2], [0, 1], [0], b"ab"), "contradicts"),  # names too short
        (columns([1, 1], [0, 2], [0], b"ab"), "contradicts"),  # an edge too few
        (columns([1, 1], [0, 0], [0], b"ab"), "contradicts"),  # an edge too many
        (columns([1, 1], [1, 0], [0], b"ab"), "contradicts"),  # the first requires something
        (columns([1, 1], [0, 1], [1], b"ab"), "contradicts"),  # requires node -1
        (columns([1, 1], [0, 1], [200], b"ab"), "contradicts"),
        (columns([1, 1], [0, 2], [0, 0], b"ab"), "contradicts"),  # requires more than there is
    ],
)
def test_hostile_data(data: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Graph.from_bytes(data)


def test_size_is_limited() -> None:
    data = Graph([("a" * 1000, None)]).to_bytes()
    assert len(Graph.from_bytes(data, limit=1008)) == 1
    with pytest.raises(BadInput, match="has 1008 bytes uncompressed, more than 1007"):
        Graph.from_bytes(data, limit=1007)
