"""Draw a graph: as text, for Graphviz (dot), for Mermaid, as SVG, or as JSON.

An arrow points from what requires to what is required, as a graph's edges do; what comes
first is on the left. Every function is pure: a graph and statuses in, text out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from converge.escaping import escape, quoted
from converge.graph import Graph

#: The fill of a node by its status; white for any other.
COLOURS: Mapping[str, str] = {
    "COMPLETE": "#c9f0cf",
    "FAILED": "#ffc9c9",
    "DRIFTED": "#ffd9a0",
    "SKIPPED": "#ffe8b3",
    "IN_PROGRESS": "#c5e3ff",
    "WAITING": "#e8e8e8",
}

#: The file endings that say which format is meant.
ENDINGS: Mapping[str, str] = {
    ".svg": "svg",
    ".dot": "dot",
    ".gv": "dot",
    ".mmd": "mermaid",
    ".mermaid": "mermaid",
    ".json": "json",
}


def draw(
    graph: Graph[str],
    how: str,
    *,
    title: str = "",
    statuses: Mapping[str, str] | None = None,
) -> str:
    """Draw a graph.

    :param how: ``text``, ``dot``, ``mermaid``, ``svg`` or ``json``.
    :param title: what it is the graph of.
    :param statuses: of the nodes, where known: they become colours, or words in a text.
    :returns: text that ends with a newline.
    """
    if how == "svg":
        from converge.drawing.svg import draw_svg

        return draw_svg(graph, title, statuses or {})
    functions = {"text": draw_text, "dot": draw_dot, "mermaid": draw_mermaid, "json": draw_json}
    return functions[how](graph, title, statuses or {})


def levels(graph: Graph[str]) -> dict[str, int]:
    """For each node the length of the longest path to one that requires nothing, from 0."""
    level: dict[str, int] = {}
    for node in graph:
        level[node] = max((level[required] + 1 for required in graph.requires(node)), default=0)
    return level


def draw_json(graph: Graph[str], title: str, statuses: Mapping[str, str]) -> str:
    """What is in it, for programs; each node comes after what it requires."""
    nodes = [
        {
            "name": node,
            "status": statuses.get(node),
            "requires": sorted(graph.requires(node)),
        }
        for node in graph
    ]
    return json.dumps({"title": title, "nodes": nodes}, indent=2) + "\n"


def draw_text(graph: Graph[str], title: str, statuses: Mapping[str, str]) -> str:
    """Each node once, by level: all that one level requires is in the levels above it.

    (Not a tree: a deep one would be as wide as it is deep, and nodes with several
    dependants would have to be repeated.)
    """
    by_level: dict[int, list[str]] = {}
    for node, level in levels(graph).items():
        by_level.setdefault(level, []).append(node)
    edges = sum(len(graph.requires(node)) for node in graph)
    size = ", ".join(
        (
            _count(len(graph), "resource"),
            _count(edges, "dependency", "dependencies"),
            _count(len(by_level), "level"),
        )
    )
    lines = [f"{escape(title)}: {size}" if title else size]
    for level, nodes in sorted(by_level.items()):
        lines += ["", f"level {level + 1}"]
        for node in nodes:
            line = f"  {quoted(node)}"
            if node in statuses:
                line += f" [{statuses[node]}]"
            if requires := graph.requires(node):
                line += "  requires " + ", ".join(map(quoted, requires))
            lines.append(line)
    return "\n".join(lines) + "\n"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def draw_dot(graph: Graph[str], title: str, statuses: Mapping[str, str]) -> str:
    """A digraph for Graphviz."""
    lines = [
        f"digraph {_dot(title)} {{",
        "  rankdir=RL;",
        '  node [shape=box, style="rounded,filled", fillcolor=white];',
    ]
    for node in graph:
        colour = COLOURS.get(statuses.get(node, ""))
        lines.append(f"  {_dot(node)}" + (f' [fillcolor="{colour}"];' if colour else ";"))
    for node in graph:
        lines += [f"  {_dot(node)} -> {_dot(required)};" for required in graph.requires(node)]
    return "\n".join([*lines, "}"]) + "\n"


def _dot(text: str) -> str:
    plain = escape(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain}"'


_MERMAID = {character: f"#{ord(character)};" for character in '"#&<>`\\;%{}[]()|*_~'}
_MERMAID_TABLE = str.maketrans(_MERMAID)
# what could begin a directive, or end the comment, the HTML or the Markdown that it is in
_MERMAID_COMMENT = str.maketrans({one: _MERMAID[one] for one in '"#&<>`\\;%{}'})


def draw_mermaid(graph: Graph[str], title: str, statuses: Mapping[str, str]) -> str:
    """A flowchart for Mermaid. Nodes are numbered, as not every name can be an id there."""
    number = {node: f"n{count}" for count, node in enumerate(graph, start=1)}
    lines = ["flowchart RL"]
    if title:
        lines.append(f"  %% {escape(title).translate(_MERMAID_COMMENT)}")
    for node in graph:
        label = escape(node).translate(_MERMAID_TABLE)
        status = statuses.get(node, "")
        lines.append(f'  {number[node]}["{label}"]' + (f":::{status}" if status in COLOURS else ""))
    for node in graph:
        lines += [f"  {number[node]} --> {number[required]}" for required in graph.requires(node)]
    used = set(statuses.values())
    lines += [f"  classDef {name} fill:{fill}" for name, fill in COLOURS.items() if name in used]
    return "\n".join(lines) + "\n"
