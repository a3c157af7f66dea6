"""Databases that cannot be used: one clear error each, and nothing half-written."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, make_url

import converge
from converge.errors import BadInput, SchemaError, StoreError
from converge.sql import repeat
from tests.backends import Backend, Sqlite
from tests.templates import template

TEMPLATE = converge.Template.parse("resources: {a: {type: none}}")


def read_only(url: str) -> str:
    """The same database, for reading only."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return f"sqlite:///file:{parsed.database}?mode=ro&uri=true"
    query = (
        {"options": "-c default_transaction_read_only=on"}
        if parsed.get_backend_name() == "postgresql"
        else {"init_command": "SET SESSION TRANSACTION READ ONLY"}
    )
    return parsed.update_query_dict(query).render_as_string(hide_password=False)


def test_a_read_only_database_can_be_read_and_says_so_on_a_write(database_url: str) -> None:
    with converge.connect(read_only(database_url)) as store:
        assert store.stacks() == []
        with pytest.raises(StoreError, match="read-only"):
            store.create_stack("s", TEMPLATE)
        assert store.stacks() == []


@pytest.mark.sqlite
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    store = converge.connect(f"sqlite:///{tmp_path}/full.db", create_schema=True)
    store.close()

    def fill(connection: sqlite3.Connection, record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(store.database.engine, "connect", fill)
    many = template({f"r{n}": [] for n in range(99)}, type="none", properties={"x": "y" * 500})
    with pytest.raises(StoreError, match="disk is full"):
        store.create_stack("s", many)
    assert store.stacks() == []
    store.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://postgres@127.0.0.1:1/x",
        "mysql+pymysql://root@127.0.0.1:1/x",
    ],
)
def test_a_server_that_does_not_answer(url: str) -> None:
    with pytest.raises(StoreError, match="cannot be reached"):
        converge.connect(url)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("this is not a database, it is a text of some length\n" * 10)
    with pytest.raises(StoreError, match="not an SQLite database"):
        converge.connect(f"sqlite:///{path}")
    assert path.read_text().startswith("this is not")


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="db upgrade"):
        converge.connect(f"sqlite:///{tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "saying"),
    [
        ("not a url", "is not a database URL"),
        ("oracle://x@y/z", "does not run on"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_urls_that_are_none(url: str, saying: str) -> None:
    with pytest.raises(BadInput, match=saying):
        converge.connect(url)


def test_a_database_that_is_not_there(database: Backend) -> None:
    if isinstance(database, Sqlite):
        url = "sqlite:////no/such/folder/x.db"
    else:
        parsed = make_url(database.migrated())
        url = parsed.set(database="converge_no_such").render_as_string(hide_password=False)
    with pytest.raises((StoreError, SchemaError), match=r"no_such|no/such"):
        converge.connect(url)


def test_a_connection_lost_in_the_first_look_at_a_server_is_trouble_of_the_database(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = converge.connect(database_url)
    connect = store.database.engine.connect
    losses = 2

    def lose() -> Connection:
        nonlocal losses
        if losses == 0:
            return connect()
        losses -= 1
        try:
            raise OSError("Lost connection to server during query")
        except OSError:
            # as SQLAlchemy has it, of a connection that it cannot invalidate
            raise NotImplementedError from None

    monkeypatch.setattr(store.database.engine, "connect", lose)
    assert store.stacks() == []
    assert losses == 0
    losses = 1000
    monkeypatch.setattr(repeat, "RETRIES", 1)
    with pytest.raises(StoreError, match="Lost connection"):
        store.stacks()
    store.close()
