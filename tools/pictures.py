"""The pictures in the documentation, made of the code: the life cycles, of the tables that the
store's updates go by, and a traversal, of its plan.

Sphinx has them drawn when it begins; ``python tools/pictures.py FOLDER`` does so as well.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from converge import model
from converge.drawing.svg import Link, draw
from converge.graph import Graph
from converge.protocol.plan import Existing, plan
from converge.template import Definitions


class Cycle(NamedTuple):
    """A life cycle.

    :ivar moves: state → the states that may follow.
    """

    title: str
    initial: Any
    moves: Mapping[Any, Any]


#: By the name of the file.
CYCLES: Mapping[str, Cycle] = {
    "stack": Cycle("a stack", model.Status.IN_PROGRESS, model.STACK_MOVES),
    "traversal": Cycle("a traversal", model.TraversalStatus.RUNNING, model.TRAVERSAL_MOVES),
    "sync_point": Cycle("a node", model.NodeState.WAITING, model.SYNC_POINT_MOVES),
    "engine": Cycle("an engine", model.EngineState.ALIVE, model.ENGINE_MOVES),
}


def picture(cycle: Cycle) -> str:
    """A life cycle as an SVG, from the left to the right; the last states are grey.

    A line is one move or two, there and back; its arrows say which. A state that may follow itself
    is marked.
    """
    moves = {(str(one), str(to)) for one, targets in cycle.moves.items() for to in targets}
    labels = {str(one): f"{one} ↻" if (one, one) in moves else str(one) for one in cycle.moves}
    forward = {(labels[one], labels[to]) for one, to in _onward(str(cycle.initial), moves)}
    known = {(labels[one], labels[to]) for one, to in moves if one != to}
    edges = forward | {(to, one) for one, to in known - forward}

    def link(later: str, earlier: str) -> Link:
        there, back = (earlier, later) in known, (later, earlier) in known
        ways = [f"{earlier} to {later}"] * there + [f"{later} to {earlier}"] * back
        return Link(", ".join(ways), to_required=back, to_requirer=there)

    graph = Graph(sorted((later, earlier) for earlier, later in edges))
    styles = {labels[one]: "fill:#eaeef2" for one, targets in cycle.moves.items() if not targets}
    return draw(graph, f"the states of {cycle.title}", styles, {}, link)


def _onward(initial: str, moves: Set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The moves without those back to a state on the way there, so that none goes in a circle."""
    onward = set()
    seen = set()

    def walk(state: str, way: tuple[str, ...]) -> None:
        seen.add(state)
        for _, target in sorted(move for move in moves if move[0] == state):
            if target in way:
                continue
            onward.add((state, target))
            if target not in seen:
                walk(target, (*way, target))

    walk(initial, (initial,))
    return onward


def traversal() -> str:
    """The nodes of an update of three resources, each of which requires the one before."""
    required = {"database": (), "app": ("database",), "proxy": ("app",)}
    definitions = {
        name: model.ResourceDefinition("server", {}, before) for name, before in required.items()
    }
    ids = {name: number for number, name in enumerate(required, start=1)}
    rows = [
        Existing(ids[name], name, "server", requires=tuple(ids[one] for one in before))
        for name, before in required.items()
    ]
    graph = plan(Definitions.of(definitions), rows).graph
    styles = {node: "fill:#ddf4ff" for node in graph if node.startswith("update")}
    styles |= {node: "fill:#fff1e5" for node in graph if node.startswith("cleanup")}

    def link(later: str, earlier: str) -> Link:
        return Link(f"{earlier}, then {later}", to_required=False, to_requirer=True)

    return draw(graph, "an update of three resources", styles, {}, link)


def write(folder: Path) -> None:
    """Write each as ``NAME.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {name: picture(cycle) for name, cycle in CYCLES.items()} | {"update": traversal()}
    for name, text in drawn.items():
        (folder / f"{name}.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
