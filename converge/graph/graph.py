"""Graphs of what requires what, with nothing but the standard library.

A :class:`Graph` is immutable. The constructor finds the topological order. The first question
about edges makes two arrays of numbers of them, in which nodes are numbered in that order: every
node has a greater number than all that it requires. So neither the arrays nor the serialization
can express a cycle.
"""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Set
from itertools import accumulate, chain, filterfalse, islice, repeat
from operator import sub
from typing import Generic, NamedTuple, TypeVar, cast

from converge.errors import BadInput, CircularDependency
from converge.graph.encoding import LIMIT, decode, encode

H = TypeVar("H", bound=Hashable)
K = TypeVar("K", bound=Hashable)

_SHOWN_EDGES = 8
_SHOWN_CHARACTERS = 200


class _Rows(NamedTuple):
    """A list of lists of node numbers, as two flat arrays.

    Row *i* is ``flat[offsets[i]:offsets[i + 1]]``, in ascending order.
    """

    offsets: array[int]
    flat: array[int]

    @classmethod
    def pack(cls, rows: Iterable[list[int]]) -> _Rows:
        offsets = array("i", [0])
        flat = array("i")
        for row in rows:
            flat.extend(row)
            offsets.append(len(flat))
        return cls(offsets, flat)

    def row(self, number: int) -> array[int]:
        return self.flat[self.offsets[number] : self.offsets[number + 1]]

    def lengths(self) -> Iterator[int]:
        return map(sub, self.offsets[1:], self.offsets)

    def owners(self) -> Iterator[int]:
        """For each entry of the flat array the number of its row."""
        return chain.from_iterable(map(repeat, range(len(self.offsets) - 1), self.lengths()))

    def transposed(self) -> _Rows:
        # counted first: a list for each row would take many times the memory of the result
        free = [0] * len(self.offsets)
        for number in self.flat:
            free[number + 1] += 1
        free = list(accumulate(free))
        offsets = array("i", free)
        flat = self.flat[:]
        for owner, number in zip(self.owners(), self.flat, strict=True):
            flat[free[number]] = owner
            free[number] += 1
        return _Rows(offsets, flat)

    def empty(self) -> Iterator[int]:
        """The numbers of the rows that have nothing in them."""
        return (number for number, length in enumerate(self.lengths()) if not length)

    def unnamed(self) -> Iterator[int]:
        """The numbers that are in no row."""
        named = bytearray(len(self.offsets) - 1)
        _exhaust(map(named.__setitem__, self.flat, repeat(1)))
        return (number for number, is_named in enumerate(named) if not is_named)


class Graph(Generic[H]):
    """An immutable directed graph without cycles: which nodes require which.

    Any hashable object except None can be a node. Two graphs are equal if they have the same
    nodes and the same edges.

    :param edges: pairs of a node and one that it requires; ``(node, None)`` adds a node that
        need not have edges. Repeated edges count once.
    :raises CircularDependency: if nodes require each other, or one requires itself.
    :raises BadInput: if an edge is not a pair, or a node is None or not hashable.

    >>> graph = Graph([("roof", "walls"), ("walls", "floor"), ("garden", None)])
    >>> list(graph)
    ['floor', 'walls', 'roof', 'garden']
    >>> list(graph.requires("roof"))
    ['walls']
    """

    __slots__ = ("__weakref__", "_collected", "_dependants", "_index", "_nodes", "_requirements")

    _nodes: tuple[H, ...]
    _index: dict[H, int]
    # What the constructor was given, until the rows are first needed.
    _collected: dict[H, list[H | None]] | None
    # Either kind of rows is made when first needed.
    _requirements: _Rows | None
    _dependants: _Rows | None

    def __init__(self, edges: Iterable[tuple[H, H | None]] = ()) -> None:
        collected: defaultdict[H, list[H | None]] = defaultdict(list)
        for edge in edges:
            try:
                requirer, required = edge
                collected[requirer].append(required)
            except (TypeError, ValueError) as error:
                raise BadInput(
                    f"an edge must be a pair of hashable nodes (requirer, required), not {edge!r}"
                ) from error
        if None in collected:
            raise BadInput(
                "None cannot be a graph's node, it only marks one that requires nothing: "
                f"{(None, *collected[cast(H, None)][:1])!r}"
            )
        try:
            self._index = _topological_numbers(collected)
        except TypeError as error:
            raise BadInput(f"a graph's nodes must be hashable: {error}") from error
        self._nodes = tuple(self._index)
        self._collected = collected
        self._requirements = self._dependants = None

    @staticmethod
    def of(requirements: Mapping[K, Collection[K]]) -> Graph[K]:
        """The graph of what each node requires. It takes less time and memory than one of edges.

        :param requirements: each once, by node, in an order that the graph keeps where it can.
        :raises CircularDependency: if nodes require each other, or one requires itself.
        :raises BadInput: if a node is None or not hashable.
        """
        if None in requirements or any(None in required for required in requirements.values()):
            raise BadInput("None cannot be a graph's node")
        try:
            index = _topological_numbers(requirements)
        except TypeError as error:
            raise BadInput(f"a graph's nodes must be hashable: {error}") from error
        rows = _Rows.pack(
            sorted(map(index.__getitem__, requirements.get(node, ()))) for node in index
        )
        return Graph._of(index, requirements=rows)

    @staticmethod
    def _of(
        nodes: Iterable[K], *, requirements: _Rows | None = None, dependants: _Rows | None = None
    ) -> Graph[K]:
        """A graph of distinct nodes in topological order, and at least one kind of rows."""
        graph: Graph[K] = Graph.__new__(Graph)
        graph._nodes = tuple(nodes)
        graph._index = dict(zip(graph._nodes, range(len(graph._nodes)), strict=True))
        graph._collected = None
        graph._requirements = requirements
        graph._dependants = dependants
        return graph

    # Threads may be in these two at the same time: they come to the same result, and what it
    # is made from goes only when the result is there.

    def _get_requirements(self) -> _Rows:
        collected, dependants = self._collected, self._dependants
        if self._requirements is None:
            if collected is not None:
                self._requirements = self._pack(collected)
                self._collected = None
            elif dependants is not None:
                self._requirements = dependants.transposed()
        return cast(_Rows, self._requirements)

    def _get_dependants(self) -> _Rows:
        if self._dependants is None:
            self._dependants = self._get_requirements().transposed()
        return self._dependants

    def _pack(self, collected: dict[H, list[H | None]]) -> _Rows:
        number = cast("dict[H | None, int]", self._index).get  # None for None
        rows = (set(map(number, collected.get(node, ()))) for node in self._nodes)
        return _Rows.pack(sorted(cast("set[int]", row - {None})) for row in rows)

    def _edge_count(self) -> int:
        return len((self._dependants or self._get_requirements()).flat)

    def _select(self, numbers: Iterable[int]) -> Set[H]:
        return dict.fromkeys(map(self._nodes.__getitem__, numbers)).keys()

    def edges(self) -> Iterator[tuple[H, H | None]]:
        """The edges as the constructor takes them: they rebuild an equal graph.

        :returns: each ``(requirer, required)`` once, and ``(node, None)`` for the nodes that
            have no edges at all; sorted by requirer, then required, in the graph's order.
        """
        requirements = self._get_requirements()
        unnamed = set(requirements.unnamed())
        for number, node in enumerate(self._nodes):
            row = requirements.row(number)
            if row:
                for required in row:
                    yield node, self._nodes[required]
            elif number in unnamed:
                yield node, None

    def requires(self, node: H) -> Set[H]:
        """The nodes that a node directly requires, a set in the graph's order.

        :raises KeyError: if there is no such node.
        """
        return self._select(self._get_requirements().row(self._index[node]))

    def required_by(self, node: H) -> Set[H]:
        """The nodes that directly require a node, a set in the graph's order.

        :raises KeyError: if there is no such node.
        """
        return self._select(self._get_dependants().row(self._index[node]))

    def leaves(self) -> Set[H]:
        """The nodes that require nothing, a set in the graph's order."""
        return self._select(self._get_requirements().empty())

    def roots(self) -> Set[H]:
        """The nodes that nothing requires, a set in the graph's order."""
        return self._select(self._get_requirements().unnamed())

    def reversed(self) -> Graph[H]:
        """The graph with each edge turned round; its order is this one's from back to front."""
        return Graph._of(reversed(self._nodes), dependants=_mirrored(self._get_requirements()))

    def translate(self, function: Callable[[H], K]) -> Graph[K]:
        """The graph with each node replaced by what a function makes of it.

        Nodes of which the function makes the same become one node, with the edges of all of
        them. Where they require each other, directly or through others, that is a cycle.
        While all nodes stay distinct, the order stays too.

        :param function: called once per node, required ones first.
        :raises CircularDependency: if joining nodes makes a cycle.
        :raises BadInput: if the function returns None or something not hashable.
        """
        made = list(map(function, self._nodes))
        try:
            distinct = set(made)
        except TypeError as error:
            raise BadInput(f"a graph's nodes must be hashable: {error}") from error
        if None in distinct:
            node = self._nodes[made.index(cast(K, None))]
            raise BadInput(f"None cannot be a graph's node: the translation of {node!r} is None")
        if len(distinct) == len(made):
            return Graph._of(
                made, requirements=self._get_requirements(), dependants=self._dependants
            )
        lone: Iterable[tuple[K, K | None]] = zip(made, repeat(None))
        requirements = self._get_requirements()
        edges = zip(
            map(made.__getitem__, requirements.owners()),
            map(made.__getitem__, requirements.flat),
            strict=True,
        )
        return Graph(chain(lone, edges))

    def with_root(self, node: K) -> Graph[H | K]:
        """The graph with one more node, which requires all roots. It comes last.

        :raises BadInput: if there is such a node already.
        """
        if node in self._index:
            raise BadInput(f"the graph has a node {node!r} already")
        offsets, flat = self._get_requirements()
        roots = array("i", self._get_requirements().unnamed())
        rows = _Rows(offsets + array("i", [len(flat) + len(roots)]), flat + roots)
        return Graph._of(chain(self._nodes, (node,)), requirements=rows)

    # Nodes by their numbers, which are their places in topological order.

    def number(self, node: H) -> int:
        """The number of a node.

        :raises KeyError: if there is no such node.
        """
        return self._index[node]

    def numbers(self, nodes: Iterable[H]) -> list[int]:
        """The numbers of nodes in this order, without those that are not in the graph."""
        found = map(self._index.get, nodes)
        return [number for number in found if number is not None]

    def node(self, number: int) -> H:
        """The node of a number.

        :raises IndexError: if there is no such number.
        """
        return self._nodes[number]

    def count_required(self, number: int) -> int:
        """How many nodes one directly requires."""
        offsets = self._get_requirements().offsets
        return offsets[number + 1] - offsets[number]

    def required(self, number: int) -> array[int]:
        """The numbers of the nodes that one directly requires, in ascending order."""
        return self._get_requirements().row(number)

    def dependants(self, number: int) -> array[int]:
        """The numbers of the nodes that directly require one, in ascending order."""
        return self._get_dependants().row(number)

    def __getitem__(self, node: H) -> Graph[H]:
        """The graph of a node and all that directly or indirectly require it, in this order.

        :raises KeyError: if there is no such node.
        """
        dependants = self._get_dependants()
        start = self._index[node]
        found = {start}
        pending = [start]
        while pending:
            news = set(dependants.row(pending.pop())) - found
            found |= news
            pending += news
        members = sorted(found)
        renumbered = dict(zip(members, range(len(members)), strict=True))
        # Whatever requires a member is a member itself, so no entry is missing.
        rows = (list(map(renumbered.__getitem__, dependants.row(i))) for i in members)
        return Graph._of(map(self._nodes.__getitem__, members), dependants=_Rows.pack(rows))

    def around(self, nodes: Iterable[H], depth: int = 1) -> Graph[H]:
        """The part of the graph around some nodes: these, what they require and what requires
        them, directly or in that many steps, and all edges between those; in this order.

        What requires the same as they do is not in it, unless it is reached in one direction.

        :param depth: how many steps to go in each of the two directions.
        :raises KeyError: if one of the nodes is not there.
        """
        starts = {self._index[node] for node in nodes}
        requirements = self._get_requirements()
        members = set(starts)
        for rows in (requirements, self._get_dependants()) if depth > 0 else ():
            found, border = set(starts), starts
            for _ in range(depth):
                border = set(chain.from_iterable(map(rows.row, border))) - found
                if not border:
                    break
                found |= border
            members |= found
        listed = sorted(members)
        renumbered = dict(zip(listed, range(len(listed)), strict=True))
        rows_of = (
            [renumbered[other] for other in requirements.row(number) if other in renumbered]
            for number in listed
        )
        return Graph._of(map(self._nodes.__getitem__, listed), requirements=_Rows.pack(rows_of))

    def __iter__(self) -> Iterator[H]:
        """The nodes in topological order: each after all that it requires.

        The nodes come in the order in which the edges first named them as requirers, but where
        one requires nodes that did not come yet, these come just before it, in the order of its
        edges. So an order that already is topological is kept.
        """
        return iter(self._nodes)

    def __reversed__(self) -> Iterator[H]:
        return reversed(self._nodes)

    def __len__(self) -> int:
        """The number of nodes."""
        return len(self._nodes)

    def __contains__(self, node: object) -> bool:
        return node in self._index

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        if self is other:
            return True
        if len(self) != len(other) or self._edge_count() != other._edge_count():
            return False
        own, others = self._get_requirements(), other._get_requirements()
        if self._nodes == other._nodes:
            return own == others
        if self._index.keys() != other._index.keys():
            return False
        mine = [self._index[node] for node in other._nodes]
        return all(
            own.row(number) == array("i", sorted(map(mine.__getitem__, others.row(i))))
            for i, number in enumerate(mine)
        )

    def __hash__(self) -> int:
        return hash((frozenset(self._nodes), self._edge_count()))

    def __repr__(self) -> str:
        shown = list(islice(self.edges(), _SHOWN_EDGES + 1)) if len(self) < 100 else []
        if len(shown) <= _SHOWN_EDGES and (shown or not self):
            text = f"Graph({shown or ''})"
            if len(text) <= _SHOWN_CHARACTERS:
                return text
        return f"<Graph of {len(self)} nodes and {self._edge_count()} edges>"

    def to_bytes(self, name: Callable[[H], object] | None = None) -> bytes:
        """The graph in few bytes; see :mod:`converge.graph.encoding`.

        :param name: makes distinct strings of the nodes; None if they are strings.
        :raises BadInput: if a node is not a string.
        """
        names = self._nodes if name is None else tuple(map(name, self._nodes))
        for node in names:
            if not isinstance(node, str):
                raise BadInput(f"only a graph of strings can be serialized, not {node!r}")
        return encode(cast("tuple[str, ...]", names), *self._get_requirements())

    @staticmethod
    def from_bytes(data: bytes | bytearray | memoryview, *, limit: int = LIMIT) -> Graph[str]:
        """The graph that :meth:`to_bytes` wrote, with the same order.

        :param limit: the most bytes that the data may have uncompressed.
        :raises BadInput: if the data is not such a graph, damaged, of another version of the
            format, or larger than the limit.
        """
        names, offsets, flat = decode(bytes(memoryview(data)), limit)
        return Graph._of(names, requirements=_Rows(offsets, flat))


def _exhaust(iterator: Iterable[object]) -> None:
    """Run through an iterator for its side effects, without the cost of a loop."""
    deque(iterator, maxlen=0)


def _topological_numbers(collected: Mapping[H, Collection[H | None]]) -> dict[H, int]:
    """All nodes in topological order, each with its position.

    :param collected: what each node requires.
    :raises CircularDependency: if there is a cycle.
    """
    numbers: dict[H, int] = {}
    numbers[cast(H, None)] = -1  # keeps the loop below from taking it for a node
    # The nodes on the way down from a start, each with the requirements still to be looked at.
    # They are filtered in C, and that when they are looked at, so that each is looked at once.
    path: dict[H, Iterator[H]] = {}
    for start in collected:
        if start in numbers:
            continue
        if all(map(numbers.__contains__, collected[start])):
            numbers[start] = len(numbers) - 1
            continue
        node = start
        while True:
            remaining = path.get(node)
            if remaining is None:
                required_ones = cast("Collection[H]", collected[node])
                remaining = path[node] = filterfalse(numbers.__contains__, required_ones)
            for required in remaining:
                if required in collected:
                    if required in path:
                        walk = list(path)
                        raise CircularDependency(walk[walk.index(required) :])
                    node = required
                    break
                numbers[required] = len(numbers) - 1
            else:
                numbers[node] = len(numbers) - 1
                path.popitem()
                if not path:
                    break
                node = next(reversed(path))
    del numbers[cast(H, None)]
    return numbers


def _mirrored(rows: _Rows) -> _Rows:
    """The rows of the graph in which node *i* is called *n* - 1 - *i*."""
    last = len(rows.offsets) - 2
    size = len(rows.flat)
    return _Rows(
        array("i", map(sub, repeat(size), reversed(rows.offsets))),
        array("i", map(sub, repeat(last), reversed(rows.flat))),
    )
