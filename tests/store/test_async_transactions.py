"""A host on an event loop starts stacks, signals and records steps in its own transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text

import converge
from converge.testing import FakeWorld, StepEngine

pytest.importorskip("greenlet")
asyncio_ = pytest.importorskip("sqlalchemy.ext.asyncio")

TEMPLATE = converge.Template.parse("resources: {A: {type: fake}, B: {type: fake, depends_on: A}}")
DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+psycopg",
}


@pytest.fixture
def store(fresh_store: Callable[..., converge.Store]) -> converge.Store:
    return fresh_store()


@pytest.fixture
def orders(store: converge.Store) -> Iterator[Callable[[], list[int]]]:
    """A table of the host's; what is in it."""
    with store.database.engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS host_order"))
        connection.execute(text("CREATE TABLE host_order (id INTEGER)"))

    def read() -> list[int]:
        with store.database.engine.connect() as connection:
            return list(connection.execute(text("SELECT id FROM host_order")).scalars())

    yield read
    with store.database.engine.begin() as connection:
        connection.execute(text("DROP TABLE host_order"))


def run(
    store: converge.Store, work: Callable[[Any], Awaitable[object]], driver: str | None = None
) -> None:
    """Run something with an AsyncSession, and commit."""
    name = driver or DRIVERS.get(store.database.dialect)
    if name is None:
        pytest.skip("aiomysql cannot send bytes with today's PyMySQL")
    pytest.importorskip(name.split("+")[1])
    one = store.database.url
    url = sqlalchemy.URL.create(name, one.username, one.password, one.host, one.port, one.database)

    async def main() -> None:
        engine = asyncio_.create_async_engine(url)
        try:
            async with asyncio_.AsyncSession(engine) as session, session.begin():
                await work(session)
        finally:
            await engine.dispose()

    asyncio.run(main())


def test_a_start_in_the_hosts_async_session(
    store: converge.Store, orders: Callable[[], list[int]]
) -> None:
    stepper = StepEngine(store, FakeWorld().types())

    async def start(session: Any) -> None:
        await session.execute(text("INSERT INTO host_order VALUES (1)"))
        stack = await session.run_sync(
            lambda plain: store.create_stack("shop", TEMPLATE, transaction=plain)
        )
        assert stack.status == "IN_PROGRESS"

    async def fail(session: Any) -> None:
        await session.run_sync(lambda plain: store.delete_stack("shop", transaction=plain))
        await session.execute(text("INSERT INTO host_order VALUES (2)"))
        raise ValueError("no")

    run(store, start)
    assert orders() == [1]
    stepper.run()
    assert store.stack("shop").status == "COMPLETE"
    with pytest.raises(ValueError, match="no"):
        run(store, fail)
    assert (orders(), store.stack("shop").action) == ([1], "CREATE")


def test_an_async_session_itself_is_refused_with_the_remedy(store: converge.Store) -> None:
    async def start(session: Any) -> None:
        with pytest.raises(converge.BadInput, match="run_sync"):
            store.create_stack("shop", TEMPLATE, transaction=session)

    run(store, start)


def test_asyncpg_is_refused_with_the_remedy(store: converge.Store) -> None:
    if store.database.dialect != "postgresql":
        pytest.skip("asyncpg is for PostgreSQL")

    async def start(session: Any) -> None:
        with pytest.raises(converge.BadInput, match="psycopg 3 is async, too"):
            await session.run_sync(
                lambda plain: store.create_stack("shop", TEMPLATE, transaction=plain)
            )

    run(store, start, "postgresql+asyncpg")
