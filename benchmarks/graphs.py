"""The graphs that are measured: node → the nodes that it requires.

It imports nothing of converge, and no package: the programs that measure others use it, too.
"""

from __future__ import annotations

import random

Requires = dict[str, list[str]]
#: (requirer, required)
Edges = list[tuple[str, str]]


def layered(nodes: int, width: int) -> Requires:
    """Layers of ``width`` nodes, each of which requires 2 or 3 random ones (seeded) of the layer
    before."""
    rng = random.Random(20)
    names = [f"n{i}" for i in range(nodes)]
    requires: Requires = {}
    for i, name in enumerate(names):
        start = i // width * width
        before = names[max(0, start - width) : start]
        requires[name] = rng.sample(before, min(rng.choice((2, 3)), len(before)))
    return requires


def fan_in(leaves: int) -> Requires:
    """A root that requires all the others."""
    names = [f"n{i}" for i in range(leaves)]
    return {**{name: [] for name in names}, "root": names}


def fan_out(leaves: int) -> Requires:
    """A root that all the others require."""
    return {"root": [], **{f"n{i}": ["root"] for i in range(leaves)}}


def chain(nodes: int) -> Requires:
    """Each requires the one before."""
    return {f"n{i}": [f"n{i - 1}"] if i else [] for i in range(nodes)}


def bipartite(side: int) -> Requires:
    """Two layers of ``side`` nodes; each of the second requires all of the first."""
    first = [f"a{i}" for i in range(side)]
    return {**{name: [] for name in first}, **{f"b{i}": first for i in range(side)}}


def unconnected(nodes: int) -> Requires:
    """Nodes without a requirement."""
    return {f"n{i}": [] for i in range(nodes)}


def random_edges(nodes: int, edges: int) -> Edges:
    """Random edges between shuffled names; each node requires ones that are earlier by chance."""
    rng = random.Random(20)
    names = [f"resource-{i}" for i in range(nodes)]
    rng.shuffle(names)
    result = []
    for _ in range(edges):
        one, other = rng.randrange(nodes), rng.randrange(nodes - 1)
        other += other >= one
        result.append((names[max(one, other)], names[min(one, other)]))
    return result
