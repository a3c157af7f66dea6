"""How fast and how small graphs are: python -m benchmarks graph [--smaller]

Builds a random graph of 1,000,000 edges over 200,000 nodes and takes its topological order,
with converge.Graph and, in the same run, with graphlib.TopologicalSorter of the standard
library. Prints the times and their ratio, the extra memory of each (in a process of its own),
and the bytes that the serialization takes for an edge. It only prints: the status is always 0.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path

# It runs from a source tree too in which nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.graphs import Edges, random_edges
from converge.graph import Graph


def with_converge(edges: Edges) -> Iterable[str]:
    graph = Graph(edges)
    for _ in graph:
        pass
    return graph


def with_graphlib(edges: Edges) -> Iterable[str]:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for requirer, required in edges:
        sorter.add(requirer, required)
    for _ in sorter.static_order():
        pass
    return ()


SUBJECTS: dict[str, Callable[[Edges], Iterable[str]]] = {
    "converge": with_converge,
    "graphlib": with_graphlib,
}


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_memory(subject: str, nodes: int, edges: int) -> None:
    """In the process that is measured: print the growth of its peak memory in MB."""
    made = random_edges(nodes, edges)
    before = peak_mb()
    result = SUBJECTS[subject](made)
    print(peak_mb() - before)
    del result


def measure_memory(subject: str, nodes: int, edges: int) -> float:
    command = [sys.executable, __file__, "--memory", subject, str(nodes), str(edges)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smaller", action="store_true", help="a twentieth of the graph")
    parser.add_argument("--rounds", type=int, default=3, help="how often times are taken")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        subject, nodes, edges = arguments.memory
        print_memory(subject, int(nodes), int(edges))
        return
    nodes, edges = (10_000, 50_000) if arguments.smaller else (200_000, 1_000_000)
    print(f"{edges:,} edges over {nodes:,} nodes, Python {sys.version.split()[0]}")

    # First of all, as a process starts with the peak of the one that it was forked from.
    memory = {subject: measure_memory(subject, nodes, edges) for subject in SUBJECTS}

    made = random_edges(nodes, edges)
    times: dict[str, list[float]] = {subject: [] for subject in SUBJECTS}
    for _ in range(arguments.rounds):
        for subject, function in SUBJECTS.items():
            times[subject].append(seconds(partial(function, made)))
    best = {subject: min(taken) for subject, taken in times.items()}
    for subject in SUBJECTS:
        rounds = ", ".join(f"{taken:.2f}" for taken in times[subject])
        print(
            f"{subject}: build and topological order {best[subject]:.2f} s"
            f" (rounds: {rounds}), {memory[subject]:.0f} MB more memory"
        )
    ratios = [b / a for a, b in zip(times["converge"], times["graphlib"], strict=True)]
    print(
        f"ratio graphlib / converge: {best['graphlib'] / best['converge']:.2f} of the best times,"
        f" {min(ratios):.2f} to {max(ratios):.2f} by round (wanted: at least 2)"
    )

    graph = Graph(made)
    first = next(iter(graph))
    print(f"the first question about edges: {seconds(lambda: graph.required_by(first)):.2f} s")
    start = time.perf_counter()
    data = graph.to_bytes()
    middle = time.perf_counter()
    again = Graph.from_bytes(data)
    end = time.perf_counter()
    distinct = sum(required is not None for _, required in graph.edges())
    names = len(Graph((node, None) for node in graph).to_bytes())
    print(
        f"serialization: {(len(data) - names) / distinct:.2f} bytes an edge, names apart"
        f" (wanted: at most 8); {len(data):,} bytes, of which names {names:,};"
        f" written in {middle - start:.2f} s, read in {end - middle:.2f} s,"
        f" {'equal' if again == graph else 'NOT EQUAL'}"
    )


if __name__ == "__main__":
    main()
