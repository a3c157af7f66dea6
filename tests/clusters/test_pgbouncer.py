"""PostgreSQL through pgbouncer, which gives each transaction, or each client, one of few sessions.

The database's default isolation is SERIALIZABLE, and it has no limits: what converge does not set
for itself shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import NamedTuple

import pytest
import sqlalchemy
from sqlalchemy import make_url, text

import converge
from converge.crash_points import Commit
from converge.sql import migrate, schema, schema_version, sessions
from converge.sql.database import Database
from converge.sql.transaction import Transaction
from converge.testing import FakeWorld
from tests import backends, forked
from tests.servers import OwnPgbouncer

AT_ONCE = 12
CONNECTIONS = 24
#: More than psycopg executes before it prepares a statement.
OFTEN = 7
IN_TRANSACTION_MODE = pytest.mark.parametrize(
    "pooler",
    [pytest.param("transaction", marks=[pytest.mark.database, pytest.mark.own_pgbouncer])],
    indirect=True,
)


@pytest.fixture
def direct(_databases: dict[str, backends.Backend]) -> Iterator[str]:
    """The URL of a new database, past pgbouncer."""
    server = _databases["postgresql"]
    url = server.empty()
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        name = make_url(url).database
        isolation = "default_transaction_isolation = 'serializable'"
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET {isolation}")
    yield url
    server.discard(url)


@pytest.fixture
def url(pooler: OwnPgbouncer, direct: str) -> str:
    """The same, through pgbouncer."""
    return pooler.through(direct)


class Settings(NamedTuple):
    """What a transaction has, and its session's number."""

    isolation: str
    lock: str
    idle: str
    statement: str
    session: int


def settings(tx: Transaction) -> Settings:
    query = text(
        "SELECT current_setting('transaction_isolation'), current_setting('lock_timeout'),"
        " current_setting('idle_in_transaction_session_timeout'),"
        " current_setting('statement_timeout'), pg_backend_pid()"
    )
    return Settings._make(tx.execute(query).one())


def test_each_transaction_has_the_isolation_and_the_limits(url: str) -> None:
    own = ("read committed", f"{sessions.LOCK_SECONDS}s", f"{sessions.IDLE_SECONDS}s", "0")
    with closing(Database(url)) as database, ExitStack() as stack:
        opened = [stack.enter_context(database.engine.connect()) for _ in range(CONNECTIONS)]
        for connection in opened:
            for _ in range(OFTEN):
                with connection.begin():
                    found = settings(Transaction(connection, None))
                    assert found[:4] == own
                    # by which a commit without a reply is looked for
                    assert sessions.session_number(connection) == found.session
        for _ in range(CONNECTIONS):
            assert database.read(settings)[:4] == own
            assert database.transact(settings, Commit.HOST)[:4] == own
            single = database.transact(settings, Commit.HOST, one_statement=True)
            assert single[:4] == own


def test_a_hosts_transaction_has_its_own_limits_and_leaves_none(url: str) -> None:
    with closing(Database(url)) as database:
        for _ in range(OFTEN):
            with database.transaction(limit=7) as tx:
                assert settings(tx)[:4] == ("read committed", "7s", "7s", "7s")
            assert database.read(settings).statement == "0"


def test_a_pooler_is_noticed_unless_the_url_says_that_clients_keep_sessions(
    url: str, direct: str
) -> None:
    mode = make_url(url).update_query_dict
    found = {}
    for name, one in (
        ("pgbouncer", url),
        ("none", direct),
        ("session", mode({"pool_mode": "session"})),
        ("transaction", mode({"pool_mode": "transaction"})),
    ):
        with closing(Database(one)) as database:
            found[name] = database.is_pooled()
    assert found == {"pgbouncer": True, "none": False, "session": False, "transaction": True}


@IN_TRANSACTION_MODE
def test_twelve_upgrades_at_once_all_succeed(url: str) -> None:
    processes = [forked.process(migrate.upgrade, url) for _ in range(AT_ONCE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0] * AT_ONCE
    assert migrate.check(url) == []
    with closing(Database(url)) as database:
        query = text(f"SELECT version_num FROM {schema.VERSION_TABLE}")
        rows = database.read(lambda tx: tx.execute(query).scalars().all())
    assert rows == [schema_version.HEAD]


def test_engines_bring_stacks_to_their_end(url: str) -> None:
    world = FakeWorld()
    nodes = {f"n{number}": {"type": "fake"} for number in range(20)}
    last = {"last": {"type": "fake", "depends_on": sorted(nodes)}}
    template = converge.Template.parse(json.dumps({"resources": nodes | last}))
    with ExitStack() as stack:
        store = stack.enter_context(converge.connect(url, create_schema=True))
        started = [store.create_stack(f"s{number}", template) for number in range(4)]
        for _ in range(2):
            own = stack.enter_context(converge.connect(url))
            stack.enter_context(converge.Engine(own, types=world.types(), workers=8))
        for one in started:
            assert one.wait(timeout=60) == "COMPLETE"
    assert len(world.things) == 4 * 21
    assert len(world.log) == 4 * 21
