"""A library for graphs: a million edges over 200,000 nodes, built and put in topological order.

``python -m benchmarks.peers.graph_library NAME NODES EDGES`` prints a JSON object.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable

from benchmarks.graphs import Edges, random_edges

# each imports its own: the others need not be there


def use_converge(edges: Edges) -> object:
    from converge.graph import Graph

    graph = Graph(edges)
    return graph, list(graph)


def use_graphlib(edges: Edges) -> object:
    from graphlib import TopologicalSorter

    sorter: TopologicalSorter[str] = TopologicalSorter()
    for requirer, required in edges:
        sorter.add(requirer, required)
    return sorter, list(sorter.static_order())


def use_networkx(edges: Edges) -> object:
    import networkx

    graph = networkx.DiGraph()
    graph.add_edges_from((required, requirer) for requirer, required in edges)
    return graph, list(networkx.topological_sort(graph))


def use_rustworkx(edges: Edges) -> object:
    import rustworkx

    # it knows its nodes by numbers
    numbers = {name: i for i, name in enumerate({name for edge in edges for name in edge})}
    graph = rustworkx.PyDiGraph()
    graph.add_nodes_from(list(numbers))
    graph.add_edges_from_no_data(
        [(numbers[required], numbers[requirer]) for requirer, required in edges]
    )
    return graph, [graph[i] for i in rustworkx.topological_sort(graph)]


#: The best of which is told.
ROUNDS = 3

LIBRARIES: dict[str, Callable[[Edges], object]] = {
    "converge": use_converge,
    "graphlib": use_graphlib,
    "networkx": use_networkx,
    "rustworkx": use_rustworkx,
}


def memory() -> float:
    """The most memory that this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    name, nodes, count = sys.argv[1:]
    use = LIBRARIES[name]
    # what it imports is no part of its graphs
    use([("a", "b")])
    edges = random_edges(int(nodes), int(count))
    before, seconds = memory(), []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        kept = use(edges)
        seconds.append(time.perf_counter() - begin)
        del kept
    print(json.dumps({"seconds": min(seconds), "memory": memory() - before}))


if __name__ == "__main__":
    main()
