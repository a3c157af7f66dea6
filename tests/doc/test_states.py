"""The life cycles in the documentation are those that the store's updates go by."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pictures
import pytest
from sqlalchemy import update

import converge
from converge.errors import StaleLock
from converge.model import (
    ENGINE_MOVES,
    STACK_MOVES,
    SYNC_POINT_MOVES,
    EngineState,
    NodeState,
    Status,
    check_move,
    sources_of,
)
from converge.sql import engines, schema, stacks
from tests.templates import template

DOC = Path(__file__).resolve().parents[2] / "doc"


def arrows(picture: str) -> set[tuple[str, str]]:
    """From where to where the arrows of a picture lead, by the tooltips of its lines."""
    found = set()
    for ends, about in re.findall(
        r'<path class="edge"[^>]*?((?: marker-\w+="[^"]*")*)><title>(.*?)<', picture
    ):
        moves = [tuple(move.split(" to ")) for move in about.split(", ")]
        assert len(moves) == ends.count("marker-")
        found |= {(one, to) for one, to in moves}
    return found


def test_every_diagram_has_the_moves_of_its_table() -> None:
    for cycle in pictures.CYCLES.values():
        moves = {(str(one), str(to)) for one, targets in cycle.moves.items() for to in targets}
        text = pictures.picture(cycle)
        itself = {one for one, to in moves if one == to}
        assert {
            one.removesuffix(" ↻") for one in re.findall(r">([A-Z_]+ ↻)</text>", text)
        } == itself
        text = text.replace(" ↻", "")
        assert arrows(text) == {(one, to) for one, to in moves if one != to}
        final = {str(one) for one, targets in cycle.moves.items() if not targets}
        grey = re.findall(r"<title>(\w+)</title><rect [^>]*fill:#eaeef2", text)
        assert set(grey) == final


def test_an_update_points_all_at_the_new_before_it_deletes_the_old() -> None:
    text = pictures.traversal()
    order = [
        "update database",
        "update app",
        "update proxy",
        "cleanup proxy #3",
        "cleanup app #2",
        "cleanup database #1",
        "stack",
    ]
    moves = set(re.findall(r"<title>([^<]*), then ([^<]*)</title>", text))
    assert moves >= set(pairwise(order))
    assert all(order.index(one) < order.index(to) for one, to in moves)


def test_every_picture_is_shown(tmp_path: Path) -> None:
    pictures.write(tmp_path)
    pages = " ".join(path.read_text(encoding="utf-8") for path in DOC.glob("*.rst"))
    shown = re.findall(r"^\.\. image:: /_generated/(\w+)\.svg$", pages, re.MULTILINE)
    assert sorted(shown) == sorted(path.stem for path in tmp_path.glob("*.svg"))


def test_the_concepts_say_when_each_move_of_a_node_is_made() -> None:
    text = (DOC / "concepts.rst").read_text(encoding="utf-8")
    text = text.partition("States of a node\n")[2].partition("\nDONE, FAILED")[0]
    source = ""
    told = set()
    for one, target in re.findall(r"^   \* - ?(\w*)\n     - (\w+)\n", text, re.MULTILINE):
        source = one or source
        told.add((source, target))
    moves = {(str(one), str(to)) for one, targets in SYNC_POINT_MOVES.items() for to in targets}
    assert told - {("from", "to")} == moves


def test_a_stack_has_a_status_only_after_those_that_it_may_follow(
    fresh_store: Callable[..., converge.Store],
) -> None:
    store = fresh_store()
    store.create_stack("s", template())
    with store.transaction() as tx:
        row = stacks.find_stack(tx, "s")
        assert row is not None
        for source in STACK_MOVES:
            for target in STACK_MOVES:
                tx.execute(
                    update(schema.stack).where(schema.stack.c.id == row.id).values(status=source)
                )
                if target in STACK_MOVES[source]:
                    stacks.update_stack(tx, row.id, status=target)
                    continue
                with pytest.raises(StaleLock, match=f"'s' is {source}; {target} may not follow"):
                    stacks.update_stack(tx, row.id, status=target)
        tx.connection.rollback()


def test_an_engine_ends_once(fresh_store: Callable[..., converge.Store]) -> None:
    store = fresh_store()
    with store.transaction() as tx:
        for target in (EngineState.STOPPED, EngineState.DEAD):
            engine_id = engines.insert_engine(tx, "host", 1, "process", 60.0)
            assert engines.end_engine(tx, engine_id, target)
            for further in ENGINE_MOVES[EngineState.ALIVE]:
                assert not engines.end_engine(tx, engine_id, further)
            assert engines.get_engines(tx, [engine_id])[engine_id].state == target


def test_a_move_that_no_table_has_is_an_error_of_the_program() -> None:
    with pytest.raises(ValueError, match="nothing may become INIT"):
        sources_of(STACK_MOVES, Status.INIT)
    with pytest.raises(ValueError, match="what is DONE may not become READY"):
        check_move(SYNC_POINT_MOVES, NodeState.READY, NodeState.RUNNING, NodeState.DONE)
    assert set(sources_of(SYNC_POINT_MOVES, NodeState.READY)) == {
        NodeState.WAITING,
        NodeState.RUNNING,
        NodeState.BLOCKED,
    }
