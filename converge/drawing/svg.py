"""A graph as SVG: columns by longest path, few crossings, curved edges.

This is the usual layered drawing, with cheap stages: edges that skip columns get a
way-point in each; sweeps sort each column by the mean position of the neighbours; other
sweeps pull nodes level with their neighbours. All of it is linear in nodes, edges and
way-points but for the sorting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape as escape_xml
from itertools import pairwise
from typing import NamedTuple

from converge.drawing.graphs import COLOURS, levels
from converge.escaping import escape
from converge.graph import Graph

#: Pixels.
CHARACTER = 7.3
HEIGHT = 28.0
ROW = 42.0
WAYPOINT = 14.0
GAP = 90.0
MARGIN = 24.0
#: From the middle of a box down to the line on which its text stands. Not every program that draws
#: SVG can centre it by itself.
BASELINE = 4.5

#: Longer labels are cut; the whole name is in the node's tooltip.
LABEL = 40
#: With more way-points than this the long edges go straight.
WAYPOINTS_MAX = 60_000
SWEEPS = 6

_STYLE = """\
svg { font: 13px ui-monospace, Menlo, Consolas, monospace; background: #ffffff }
.node rect { fill: #ffffff; stroke: #57606a; stroke-width: 1.2 }
.node text { fill: #1f2328; text-anchor: middle }
.edge { fill: none; stroke: #8c959f; stroke-width: 1.2 }
.edge:hover { stroke: #0969da; stroke-width: 2.5 }"""


class Link(NamedTuple):
    """How an edge is drawn.

    :ivar about: its tooltip.
    :ivar to_required: it has an arrow where it meets what is required, on the left.
    :ivar to_requirer: it has one at the other end.
    """

    about: str
    to_required: bool = True
    to_requirer: bool = False


class _Layout:
    """Points, nodes first and then way-points, in columns; their neighbours and positions."""

    def __init__(self, graph: Graph[str]) -> None:
        self.names = list(graph)
        index = {name: number for number, name in enumerate(self.names)}
        level = levels(graph)
        self.column = [level[name] for name in self.names]
        self.left: list[list[int]] = [[] for _ in self.names]
        self.right: list[list[int]] = [[] for _ in self.names]
        #: each edge as the points it goes through, from what requires to what is required
        self.routes: list[list[int]] = []
        edges = [(index[name], index[to]) for name in self.names for to in graph.requires(name)]
        skipped = sum(self.column[start] - self.column[end] - 1 for start, end in edges)
        for start, end in edges:
            self.routes.append(self._route(start, end, through=skipped <= WAYPOINTS_MAX))
        self.columns: list[list[int]] = [[] for _ in range(max(self.column, default=-1) + 1)]
        for point, column in enumerate(self.column):
            self.columns[column].append(point)
        self.y = [0.0] * len(self.column)

    def is_node(self, point: int) -> bool:
        return point < len(self.names)

    def _route(self, start: int, end: int, *, through: bool) -> list[int]:
        route = [start]
        for column in range(self.column[start] - 1, self.column[end], -1) if through else ():
            route.append(len(self.column))
            self.column.append(column)
            self.left.append([])
            self.right.append([])
        route.append(end)
        for after, before in pairwise(route):
            self.left[after].append(before)
            self.right[before].append(after)
        return route

    def arrange(self) -> None:
        """Sort each column and give each point its height."""
        for points in self.columns:
            self._stack(points)
        for sweep in range(SWEEPS):
            self._sweep(forward=sweep % 2 == 0, sort=True)
        for sweep in range(SWEEPS):
            self._sweep(forward=sweep % 2 == 1, sort=False)
        top = min(self.y, default=0.0)
        self.y = [y - top for y in self.y]

    def _room(self, point: int) -> float:
        return ROW if self.is_node(point) else WAYPOINT

    def _stack(self, points: Sequence[int]) -> None:
        """Put the points of a column one below the other, centred."""
        y = -sum(map(self._room, points)) / 2
        for point in points:
            room = self._room(point)
            self.y[point] = y + room / 2
            y += room

    def _sweep(self, *, forward: bool, sort: bool) -> None:
        neighbours = self.left if forward else self.right
        order = self.columns if forward else self.columns[::-1]
        for points in order:
            y = self.y
            wanted = {
                point: sum(y[other] for other in neighbours[point]) / len(neighbours[point])
                if neighbours[point]
                else y[point]
                for point in points
            }
            if sort:
                points.sort(key=wanted.__getitem__)
                self._stack(points)
            else:
                self._pull(points, wanted)

    def _pull(self, points: Sequence[int], wanted: Mapping[int, float]) -> None:
        """Move points as close to where they want to be as their order and room allow.

        Least squares under an order: blocks that would overlap are merged and put at the mean
        of what their members want.
        """
        offset = 0.0
        blocks: list[tuple[float, int]] = []  # sum of the wanted starts, number of points
        offsets = []
        for point in points:
            room = self._room(point)
            offsets.append(offset + room / 2)
            total, number = wanted[point] - offsets[-1], 1
            while blocks and blocks[-1][0] / blocks[-1][1] >= total / number:
                before = blocks.pop()
                total, number = total + before[0], number + before[1]
            blocks.append((total, number))
            offset += room
        starts = [total / number for total, number in blocks for _ in range(number)]
        for point, start, at in zip(points, starts, offsets, strict=True):
            self.y[point] = start + at


def draw_svg(graph: Graph[str], title: str, statuses: Mapping[str, str]) -> str:
    """The graph as a complete SVG document."""
    fills = {name: COLOURS[status] for name, status in statuses.items() if status in COLOURS}
    return draw(
        graph,
        title,
        {name: f"fill:{colour}" for name, colour in fills.items()},
        {name: f"{name} {status}" for name, status in statuses.items() if status},
        lambda requirer, required: Link(f"{requirer} requires {required}"),
    )


def draw(
    graph: Graph[str],
    title: str,
    styles: Mapping[str, str],
    about: Mapping[str, str],
    link: Callable[[str, str], Link],
) -> str:
    """Any graph as a complete SVG document.

    :param styles: CSS of the boxes of some nodes.
    :param about: tooltips of some nodes; of others it is their name.
    :param link: called with what requires and what is required.
    """
    layout = _Layout(graph)
    layout.arrange()
    labels = [_label(name) for name in layout.names]
    widths = [
        max((len(labels[p]) for p in points if layout.is_node(p)), default=0) * CHARACTER + 20
        for points in layout.columns
    ]
    lefts = [MARGIN]
    for width in widths:
        lefts.append(lefts[-1] + width + GAP)
    centres = [left + width / 2 for left, width in zip(lefts, widths, strict=False)]
    top = MARGIN + HEIGHT / 2
    ys = [y + top for y in layout.y]
    width = max(lefts[-1] - GAP, MARGIN) + MARGIN
    height = max(ys, default=top) + HEIGHT / 2 + MARGIN
    name = escape_xml(escape(title) or "graph")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">',
        f"<title>{name}</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="#8c959f"/>'
        "</marker></defs>",
    ]
    for route in layout.routes:
        spans = []
        for point in route:
            column = layout.column[point]
            reach = widths[column] / 2
            if layout.is_node(point):
                reach = _half(labels[point])
            spans.append((centres[column] - reach, centres[column] + reach, ys[point]))
        one = link(layout.names[route[0]], layout.names[route[-1]])
        ends = ' marker-start="url(#arrow)"' if one.to_requirer else ""
        ends += ' marker-end="url(#arrow)"' if one.to_required else ""
        lines.append(
            f'<path class="edge" d="{_curve(spans)}"{ends}><title>{_xml(one.about)}</title></path>'
        )
    for point, label in enumerate(labels):
        x, y, half = centres[layout.column[point]], ys[point], _half(label)
        node = layout.names[point]
        style = f' style="{styles[node]}"' if node in styles else ""
        lines.append(
            f'<g class="node"><title>{_xml(about.get(node, node))}</title>'
            f'<rect x="{x - half:.1f}" y="{y - HEIGHT / 2:.1f}" width="{2 * half:.1f}" '
            f'height="{HEIGHT:.0f}" rx="6"{style}/>'
            f'<text x="{x:.1f}" y="{y + BASELINE:.1f}">{escape_xml(label)}</text></g>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _curve(spans: Sequence[tuple[float, float, float]]) -> str:
    """The path through points, each given as (left, right, y), from the right to the left."""
    left, _, y = spans[0]
    path = f"M{left:.1f} {y:.1f}"
    for number, (next_left, next_right, next_y) in enumerate(spans[1:], start=2):
        bend = (left - next_right) / 2
        path += (
            f"C{left - bend:.1f} {y:.1f} {next_right + bend:.1f} {next_y:.1f} "
            f"{next_right:.1f} {next_y:.1f}"
        )
        if number < len(spans):  # straight through the column of a way-point
            path += f"H{next_left:.1f}"
        left, y = next_left, next_y
    return path


def _label(name: str) -> str:
    plain = escape(name)
    return plain if len(plain) <= LABEL else plain[: LABEL - 1] + "…"


def _half(label: str) -> float:
    return len(label) * CHARACTER / 2 + 10


def _xml(name: str) -> str:
    return escape_xml(escape(name))
