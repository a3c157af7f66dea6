"""State diagrams, of machines and of converge's own life cycles."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from converge.errors import BadInput, did_you_mean
from converge.machine.definition import Definition

#: source, target, what the arrow says
Move = tuple[str, str, str]


def draw(definition: Definition, how: str = "mermaid") -> str:
    """A machine as a picture.

    :param how: ``mermaid`` or ``dot``.
    :raises BadInput: neither.
    """
    terminal = [name for name, state in definition.states.items() if state.terminal]
    moves = []
    for source, target, event in definition.moves():
        state = definition.states[source]
        if state.timeout is not None and event == state.on_timeout:
            event = f"{event} ({state.timeout:g} s)"
        moves.append((source, target, event))
    return draw_moves(definition.initial, terminal, moves, how, name=definition.name)


def draw_table(
    table: Mapping[str, Iterable[str]], initial: str, how: str = "mermaid", *, name: str = "moves"
) -> str:
    """A table of allowed moves as a picture.

    :param table: state → the states that may follow; those that none follows are terminal.
    """
    moves = [
        (str(source), str(target), "")
        for source, targets in table.items()
        for target in sorted(targets)
    ]
    return draw_moves(
        initial, [str(one) for one, to in table.items() if not to], moves, how, name=name
    )


def draw_moves(
    initial: str, terminal: Iterable[str], moves: Iterable[Move], how: str, *, name: str
) -> str:
    """Moves between states as a picture."""
    ways = {"mermaid": _mermaid, "dot": _dot}
    if how not in ways:
        raise BadInput(
            f"a machine is drawn as mermaid or dot, not as {how!r}{did_you_mean(how, ways)}"
        )
    return ways[how](initial, list(terminal), list(moves), name)


def _mermaid(initial: str, terminal: list[str], moves: list[Move], name: str) -> str:
    names = sorted({initial, *terminal, *(one for move in moves for one in move[:2])})
    # names may have spaces and signs of mermaid's own
    ids = {one: f"s{number}" for number, one in enumerate(names)}
    lines = ["stateDiagram-v2"]
    lines += [f"    state {json.dumps(one)} as {ids[one]}" for one in names]
    lines.append(f"    [*] --> {ids[initial]}")
    for source, target, words in moves:
        label = f" : {words.replace(':', ';')}" if words else ""
        lines.append(f"    {ids[source]} --> {ids[target]}{label}")
    lines += [f"    {ids[one]} --> [*]" for one in terminal]
    return "\n".join(lines) + "\n"


def _dot(initial: str, terminal: list[str], moves: list[Move], name: str) -> str:
    lines = [f"digraph {json.dumps(name)} {{", "    node [shape=box, style=rounded];"]
    lines += ["    begin [shape=point];", f"    begin -> {json.dumps(initial)};"]
    lines += [f"    {json.dumps(one)} [peripheries=2];" for one in terminal]
    for source, target, words in moves:
        label = f" [label={json.dumps(words)}]" if words else ""
        lines.append(f"    {json.dumps(source)} -> {json.dumps(target)}{label};")
    return "\n".join([*lines, "}"]) + "\n"
