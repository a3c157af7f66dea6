"""State diagrams of machines, and of converge's own states."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from converge.errors import BadInput, did_you_mean
from converge.machine.definition import Definition

S = TypeVar("S", bound=str)

#: source, target, label of the arrow
Move = tuple[str, str, str]


def draw(definition: Definition, how: str = "mermaid") -> str:
    """A machine as the text of a diagram.

    :param how: ``mermaid`` or ``dot``.
    :raises BadInput: it is neither.
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
    table: Mapping[S, Iterable[S]], initial: str, how: str = "mermaid", *, name: str = "moves"
) -> str:
    """A table of allowed moves as the text of a diagram.

    :param table: state → the states that may follow; a state that none follows is terminal.
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
    """Moves between states as the text of a diagram."""
    ways = {"mermaid": _mermaid, "dot": _dot}
    if how not in ways:
        raise BadInput(
            f"a machine is drawn as mermaid or dot, not as {how!r}{did_you_mean(how, ways)}"
        )
    return ways[how](initial, list(terminal), list(moves), name)


# characters that have a meaning in mermaid, as entities
_MERMAID = str.maketrans({sign: f"#{ord(sign)};" for sign in '"#;:<>`\\'})
_PLAIN = re.compile(r"[A-Za-z]\w*", re.ASCII)
_WORDS = {"as", "choice", "class", "classdef", "click", "default", "direction", "end", "fork"}
_WORDS |= {"hide", "href", "join", "note", "scale", "state", "style"}


def _mermaid(initial: str, terminal: list[str], moves: list[Move], name: str) -> str:
    ids: dict[str, str] = {}
    lines = ["stateDiagram-v2"]
    for number, one in enumerate(_states(initial, terminal, moves)):
        ids[one] = one
        if not _PLAIN.fullmatch(one) or one.lower() in _WORDS:
            # not a valid name in mermaid; a number can be no other state's name there
            ids[one] = f"{number}_"
            lines.append(f'    state "{one.translate(_MERMAID)}" as {ids[one]}')
    lines.append(f"    [*] --> {ids[initial]}")
    for source, target, words in moves:
        label = f" : {words.translate(_MERMAID)}" if words else ""
        lines.append(f"    {ids[source]} --> {ids[target]}{label}")
    lines += [f"    {ids[one]} --> [*]" for one in terminal]
    return "\n".join(lines) + "\n"


def _dot(initial: str, terminal: list[str], moves: list[Move], name: str) -> str:
    # no state's name starts with a space
    begin = _quoted(" begin")
    lines = [f"digraph {_quoted(name)} {{", "    node [shape=box, style=rounded];"]
    lines += [f'    {begin} [shape=point, label=""];']
    for one in _states(initial, terminal, moves):
        lines.append(f"    {_quoted(one)}" + (" [peripheries=2];" if one in terminal else ";"))
    lines.append(f"    {begin} -> {_quoted(initial)};")
    for source, target, words in moves:
        label = f" [label={_quoted(words)}]" if words else ""
        lines.append(f"    {_quoted(source)} -> {_quoted(target)}{label};")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain}"'


def _states(initial: str, terminal: list[str], moves: list[Move]) -> list[str]:
    """All states, in the order in which they are first named."""
    return list(dict.fromkeys([initial, *(one for move in moves for one in move[:2]), *terminal]))
