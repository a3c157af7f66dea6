"""What SQLite's engine does by itself, as oslo.db has no part in it."""

from __future__ import annotations

import os
from typing import get_args

import pytest
from oslo_db import exception
from sqlalchemy import text

import converge
from converge.crash_points import Commit
from converge.errors import StoreError
from converge.sql import faults
from converge.sql.database import Database, repeatable
from converge.sql.transaction import Transaction

pytestmark = pytest.mark.sqlite


@pytest.fixture
def database(tmp_path: object) -> Database:
    """A database in a file, with converge's tables."""
    with converge.connect(f"sqlite:///{tmp_path}/a.db", create_schema=True) as store:
        return store.database


@pytest.mark.parametrize(
    ("value", "message"),
    [(2**63, "int too large"), ("\ud800", "surrogates not allowed")],
    ids=["number", "text"],
)
def test_a_value_that_sqlite_cannot_be_given_is_refused(
    database: Database, value: object, message: str
) -> None:
    def give(tx: Transaction) -> None:
        tx.connection.execute(text("SELECT :value"), {"value": value})

    with pytest.raises(StoreError, match=message) as raised:
        database.transact(give, Commit.CLAIM, happened=repeatable)
    assert faults.is_refused(raised.value)
    assert raised.value.origin is None


def test_a_process_that_was_forked_has_connections_of_its_own(database: Database) -> None:
    def connection() -> int:
        with database.engine.connect() as taken:
            return id(taken.connection.dbapi_connection)

    before = connection()
    assert connection() == before
    child = os.fork()
    if child == 0:
        # whatever happens here, pytest must not go on in it
        own = False
        try:
            own = connection() != before
        finally:
            os._exit(0 if own else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert connection() == before


def test_the_exceptions_of_oslo_db_that_are_looked_for_are_there() -> None:
    names = get_args(faults.OsloName)
    assert faults.oslo_errors(*names) == tuple(getattr(exception, name) for name in names)
