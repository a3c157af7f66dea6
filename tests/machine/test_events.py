"""Instances move, one atomic move at a time, whoever fires, and however many at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pymysql
import pytest
from sqlalchemy import create_engine, event, func, select
from sqlalchemy.orm import Session

from converge import Transition
from converge.errors import BadInput, Conflict, IllegalEvent, NotFound
from converge.machine import Instance, Move
from converge.machine.definition import Definition
from converge.sql import schema
from tests.doc.test_documentation import ROOT, blocks
from tests.machine.orders import ORDER, SMALL, lose, state
from tests.machine.place import Place


def rows(place: Place, *tables: Any) -> list[int]:
    """How many rows tables have."""
    return place.store.database.read(
        lambda tx: [
            tx.execute(select(func.count()).select_from(one)).scalar_one() for one in tables
        ]
    )


# -- events ------------------------------------------------------------------


def test_an_event_moves_an_instance_and_the_move_is_its_history(place: Place) -> None:
    machine = place.machine(ORDER)
    machine.create("k")
    assert machine.get("k") == Instance("k", "new", 1, 0, {}, None, place.clock())
    place.clock.advance(3)
    move = machine.fire("k", "pay", SMALL)
    assert move == Move("k", 1, "pay", "new", "paid", SMALL, "NONE")
    assert machine.get("k") == Instance("k", "paid", 1, 1, {"pay": SMALL}, 60.0, place.clock())
    machine.fire("k", "ship")
    assert machine.history("k") == [
        Move("k", 1, "pay", "new", "paid", SMALL, "NONE", at=1_000_003.0),
        Move("k", 2, "ship", "paid", "shipped", None, "NONE", at=1_000_003.0),
    ]
    assert machine.history("k", after=1)[0].event == "ship"
    assert machine.get("k").timeout is None


def test_an_illegal_event_changes_nothing_and_names_the_legal_ones(place: Place) -> None:
    machine = place.machine(ORDER)
    machine.create("k")
    with pytest.raises(IllegalEvent) as caught:
        machine.fire("k", "ship")
    assert caught.value.legal == ("limit", "pay")
    assert str(caught.value) == (
        "machine 'order', 'k': in state 'new' event 'ship' does nothing; legal: limit, pay"
    )
    with pytest.raises(IllegalEvent, match="legal: limit, pay; did you mean 'ship'"):
        machine.fire("k", "shipp")
    assert machine.history("k") == []
    machine.fire("k", "pay", SMALL)
    machine.fire("k", "ship")
    with pytest.raises(IllegalEvent, match="legal: none: it is terminal"):
        machine.fire("k", "pay", SMALL)


def test_a_guard_decides_by_this_payload_and_earlier_ones(place: Place) -> None:
    machine = place.machine(ORDER)
    machine.create("a", "b")
    machine.fire("a", "limit", 5)
    assert machine.fire("a", "pay", SMALL).target == "late"
    assert machine.fire("b", "pay", SMALL).target == "paid"


def test_an_event_that_no_guard_allows_says_so(place: Place) -> None:
    transitions = [*ORDER["transitions"][:2], Transition("ship", "late", "shipped")]
    states = {name: ORDER["states"][name] for name in ("new", "late", "shipped")}
    machine = place.machine({**ORDER, "states": states, "transitions": transitions})
    machine.create("k")
    with pytest.raises(IllegalEvent, match="no guard of event 'pay' allows it; legal: limit, pay"):
        machine.fire("k", "pay", SMALL)


def test_an_instance_is_made_once(place: Place) -> None:
    machine = place.machine(ORDER)
    with pytest.raises(NotFound, match="machine 'order' has no instance 'k'"):
        machine.fire("k", "pay", SMALL)
    machine.create("k")
    with pytest.raises(Conflict):
        machine.create("a", "k")
    with pytest.raises(NotFound):
        machine.get("a")
    machine.fire("k", "pay", SMALL, create=True)
    assert machine.fire("a", "pay", SMALL, create=True).number == 1
    assert [one.key for one in machine.instances()] == ["a", "k"]
    assert [one.key for one in machine.instances(state="paid", after="a")] == ["k"]
    # another machine's instances are others
    assert place.machine({**ORDER, "name": "other"}).instances() == []


def test_what_cannot_be_a_key_an_event_or_a_payload_is_refused_before_anything_is_written(
    place: Place,
) -> None:
    machine = place.machine(ORDER)
    fine = ("a", "pay", SMALL)
    wrong: list[tuple[Any, str]] = [
        (("", "pay"), "the name of an instance must not be empty"),
        ((3, "pay"), "must be a string, not int"),
        (("k" * 256, "pay"), "has 256 characters; at most 255"),
        (("k", "pay\n"), "unprintable"),
        (("k",), "event 2 must be"),
        ("kp", "event 2 must be"),
        (
            ("k", "pay", object()),
            "event 'pay' of 'k' has a payload that cannot be stored: an object",
        ),
        (
            ("k", "pay", {"a": [{3}, {"b": len}]}),
            r"builtin_function_or_method at \['a'\]\[1\]\['b'\]",
        ),
    ]
    for one, message in wrong:
        with pytest.raises(BadInput, match=message):
            machine.fire_many([fine, one], create=True)
    for function in (machine.get, machine.history, machine.create, machine.delete):
        with pytest.raises(BadInput):
            function(" k")
    with pytest.raises(BadInput, match="the same key is given twice"):
        machine.create("k", "k")
    with pytest.raises(BadInput, match="has no state 'pad'; did you mean 'paid'"):
        machine.instances(state="pad")
    assert rows(place, schema.instance, schema.move) == [0, 0]


def test_what_is_deleted_leaves_nothing(place: Place) -> None:
    machine = place.machine(ORDER)
    machine.fire_many([("a", "pay", SMALL), ("b", "pay", SMALL)], create=True)
    assert machine.delete("a", "b", "c") == 2
    assert rows(place, schema.instance, schema.move) == [0, 0]


# -- many at once ------------------------------------------------------------


def test_of_many_events_each_has_its_own_result_in_order(place: Place) -> None:
    machine = place.machine(ORDER)
    machine.create("a", "b", "c")
    results = machine.fire_many(
        [
            ("b", "pay", SMALL),
            ("a", "ship"),
            ("b", "ship"),
            ("missing", "pay"),
            ("c", "pay", {}),  # its guard raises
            ("a", "pay", SMALL),
            ("b", "pay", SMALL),
        ]
    )
    shown = [(one.number, one.target) if isinstance(one, Move) else type(one) for one in results]
    assert shown == [
        (1, "paid"),
        IllegalEvent,
        (2, "shipped"),
        NotFound,
        KeyError,
        (1, "paid"),
        IllegalEvent,
    ]
    assert [state(machine, key) for key in "abc"] == ["paid", "shipped", "new"]
    with pytest.raises(KeyError, match="amount"):
        machine.fire("c", "pay", {})


def test_a_thousand_events_take_few_statements_of_the_server(place: Place) -> None:
    machine = place.machine(ORDER)
    database = place.store.database
    statements = sent = 0

    def count(*arguments: Any) -> None:
        nonlocal statements
        statements += 1

    def send(connection: Any, *arguments: Any, **more: Any) -> Any:
        """MariaDB's driver may make many statements of one that SQLAlchemy knows of."""
        nonlocal sent
        sent += 1
        return query(connection, *arguments, **more)

    query = pymysql.connections.Connection.query
    place.patch.setattr(pymysql.connections.Connection, "query", send)
    keys = [f"key {number}" for number in range(1000)]
    event.listen(database.engine, "before_cursor_execute", count)
    try:
        made = machine.fire_many(
            [(key, "limit", number) for number, key in enumerate(keys)], create=True
        )
        assert 0 < statements <= 10
        statements = 0
        moved = machine.fire_many([(key, "pay", SMALL) for key in keys])
        assert 0 < statements <= 10
    finally:
        event.remove(database.engine, "before_cursor_execute", count)
    # those of SQLAlchemy, BEGIN and COMMIT of each connection, and what a new one asks
    assert (0 if database.dialect not in ("mysql", "mariadb") else 5) <= sent <= 60
    assert all(isinstance(one, Move) for one in [*made, *moved])
    assert machine.get("key 500").payloads == {"limit": 500, "pay": SMALL}
    assert {len(machine.history(key)) for key in keys[::100]} == {2}


def test_more_than_a_batch_is_fired_in_several(place: Place) -> None:
    machine = place.machine(ORDER)
    results = machine.fire_many(
        [(f"{number % 1500}", "limit", number) for number in range(2500)], create=True
    )
    assert sum(isinstance(one, Move) for one in results) == 2500
    assert [machine.get(key).moves for key in ("0", "999", "1000", "1499")] == [2, 2, 1, 1]
    assert machine.get("999").payloads == {"limit": 2499}


@pytest.mark.parametrize("create", [False, True])
def test_of_many_who_fire_the_same_event_at_once_one_moves_it(place: Place, create: bool) -> None:
    machine = place.machine(ORDER)
    keys = [f"{number}" for number in range(20)]
    if not create:
        machine.create(*keys)
    others = 4
    gate = threading.Barrier(others)

    def fire(number: int) -> list[Move | Exception]:
        gate.wait()
        return machine.fire_many([(key, "pay", {"amount": number}) for key in keys], create=create)

    with ThreadPoolExecutor(others) as pool:
        results = list(pool.map(fire, range(others)))
    for column in zip(*results, strict=True):
        won = [one for one in column if isinstance(one, Move)]
        assert len(won) == 1
        assert sum(isinstance(one, IllegalEvent) for one in column) == others - 1
        assert machine.get(won[0].key).payloads == {"pay": won[0].payload}


# -- commits that nothing was heard of ---------------------------------------


@pytest.mark.parametrize("before", [True, False])
def test_an_event_whose_commit_was_lost_moves_once(place: Place, before: bool) -> None:
    machine = place.machine(ORDER)
    machine.create("k")
    mend = lose(place, before=before)
    try:
        # it could well be fired a second time
        assert machine.fire("k", "limit", 3).number == 1
    finally:
        mend()
    assert len(machine.history("k")) == 1


def test_an_equal_move_of_somebody_else_is_not_taken_for_a_lost_one(place: Place) -> None:
    machine, other = place.machine(ORDER), place.machine(ORDER)
    machine.create("k")
    wait = place.store.database._await_lost_sessions

    def fire_as_well() -> None:
        wait()
        place.patch.undo()
        assert other.fire("k", "limit", 3).number == 1

    place.patch.setattr(place.store.database, "_await_lost_sessions", fire_as_well)
    mend = lose(place, before=True)
    try:
        assert machine.fire("k", "limit", 3).number == 2
    finally:
        mend()
    assert len(machine.history("k")) == 2


# -- in the caller's transaction ---------------------------------------------


def test_what_is_rolled_back_with_its_host_leaves_nothing(place: Place) -> None:
    machine = place.machine(ORDER)

    def fire() -> None:
        with place.store.transaction() as tx:
            machine.create("a", transaction=tx)
            machine.fire("a", "pay", SMALL, transaction=tx)
            machine.fire_many([("b", "pay", SMALL)], create=True, transaction=tx)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fire()
    assert rows(place, schema.instance, schema.move) == [0, 0]


def test_a_hosts_own_connection_and_session_serve_as_well(place: Place) -> None:
    machine = place.machine(ORDER)
    machine.create("k")
    engine = create_engine(place.store.database.url)
    try:
        with engine.begin() as connection:
            machine.fire("k", "limit", 1, transaction=connection)
            with pytest.raises(Conflict):
                machine.create("k", transaction=connection)
            # which is usable after that
            machine.fire("k", "pay", SMALL, transaction=connection)
            with pytest.raises(IllegalEvent):
                machine.fire("k", "pay", SMALL, transaction=connection)
        with Session(engine) as session:
            machine.fire("k", "ship", transaction=session)
            machine.fire("new", "pay", SMALL, create=True, transaction=session)
            session.commit()
    finally:
        engine.dispose()
    assert [one.event for one in machine.history("k")] == ["limit", "pay", "ship"]
    assert state(machine, "new") == "paid"


# -- timeouts ----------------------------------------------------------------


def test_a_definition_is_taken_as_it_is(place: Place) -> None:
    definition = Definition.of(ORDER)
    assert place.machine(definition).definition is definition
    assert place.machine(definition).draw("dot").startswith('digraph "order"')


def test_what_the_documentation_shows_is_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = (one for one in blocks(ROOT / "doc" / "machine.rst") if one.language == "python")
    exec(compile(block.text, "machine.rst", "exec"), {"__name__": "orders"})
    assert capsys.readouterr().out == "parcel for order-17 is on its way\n"
