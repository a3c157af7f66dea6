"""The order of what is left of a traversal that was halted, against the definition of it: paths."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from converge.model import Kind, NodeState
from converge.protocol.halt import Shortened
from converge.sql.sync_points import LockedNode

#: Of each node: how far behind it its successors are, and whether it runs, is to come, or goes.
graphs = st.lists(
    st.tuples(st.sets(st.integers(1, 4)), st.sampled_from(["runs", "comes", "goes", "goes"])),
    max_size=9,
)


def node(number: int, successors: Sequence[int], kind: Kind = Kind.UPDATE) -> LockedNode:
    text = f"[{','.join(map(str, successors))}]"
    return LockedNode(
        1, number, kind, None, NodeState.WAITING, 1, False, None, 0, 0, 0, True, False, text
    )


def paths(successors: Sequence[Sequence[int]], start: int, through: set[int]) -> set[int]:
    """What can be reached from a node by way of these."""
    found: set[int] = set()
    todo = list(successors[start])
    while todo:
        one = todo.pop()
        if one not in found:
            found.add(one)
            todo += successors[one] if one in through else ()
    return found


@given(graphs)
def test_each_comes_after_those_that_came_before_it(
    graph: list[tuple[set[int], str]],
) -> None:
    size = len(graph)
    successors = [
        # what runs waits for nothing
        sorted(n + step for step in steps if n + step < size and graph[n + step][1] != "runs")
        or [size]
        for n, (steps, _) in enumerate(graph)
    ]
    nodes = [*map(node, range(size), successors), node(size, [], Kind.STACK)]
    left = [nodes[n] for n, (_, what) in enumerate(graph) if what != "goes"]
    coming = [nodes[n] for n, (_, what) in enumerate(graph) if what == "comes"]
    gone = {n for n, (_, what) in enumerate(graph) if what == "goes"}
    order = Shortened(nodes, left, coming, nodes[size])

    found = {one.node: new for new, led in order.groups() for one in led}
    assert found.keys() == {one.node for one in left}
    come = {one.node for one in coming}
    for n, new in found.items():
        assert new == (sorted(paths([*successors, []], n, gone) & come) or [size])
        assert all(one < other for one, other in pairwise([n, *new]))
    for one in [*coming, nodes[size]]:
        assert order.pending(one) == sum(one.node in new for new in found.values())
