"""Options of URLs that are converge's own: how sessions are used."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

import converge
from converge.sql.database import Database
from converge.sql.sessions import SessionOptions, take_options

POSTGRESQL = "postgresql+psycopg://u@h/d?"
MARIADB = "mysql+pymysql://u@h/d?"


@pytest.mark.parametrize(
    ("url", "rest", "options"),
    [
        (POSTGRESQL + "sslmode=require", "sslmode=require", SessionOptions()),
        (POSTGRESQL + "pool_mode=session", "", SessionOptions(pool_mode="session")),
        (
            POSTGRESQL + "pool_mode=transaction&sslmode=require&prepare_threshold=7",
            "sslmode=require",
            SessionOptions(pool_mode="transaction", prepare_threshold=7),
        ),
        (POSTGRESQL + "prepare_threshold=none", "", SessionOptions(prepare_threshold=-1)),
        (
            MARIADB + "charset=utf8mb4&wsrep_sync_wait=0",
            "charset=utf8mb4",
            SessionOptions(sync_wait=0),
        ),
    ],
)
def test_options_are_taken_out_of_the_url(url: str, rest: str, options: SessionOptions) -> None:
    left, found = take_options(make_url(url))
    assert left.render_as_string().partition("?")[2] == rest
    assert found == options


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (POSTGRESQL + "pool_mode=statement", "session or transaction, not 'statement'; its"),
        (POSTGRESQL + "pool_mode=session&pool_mode=session", "pool_mode is given 2 times"),
        (POSTGRESQL + "prepare_threshold=off", "whole number from 0 or none, not 'off'"),
        (POSTGRESQL + "prepare_threshold=-1", "whole number from 0 or none, not '-1'"),
        (MARIADB + "wsrep_sync_wait=16", "whole number from 0 to 15, not '16'"),
    ],
)
def test_other_values_are_refused_before_a_server_is_asked(url: str, message: str) -> None:
    with pytest.raises(converge.BadInput, match=message):
        Database(url)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (MARIADB + "pool_mode=transaction", "pool_mode"),
        (POSTGRESQL + "wsrep_sync_wait=7", "wsrep_sync_wait"),
        ("sqlite:///a.db?pool_mode=session", "pool_mode"),
    ],
)
def test_options_of_another_database_are_refused(url: str, name: str) -> None:
    with pytest.raises(converge.BadInput, match=f"{name} is an option of .*, not of this database"):
        Database(url)
