"""A Galera cluster: what one node commits the others apply a moment later, and of two that write
one row at once, the first to commit wins."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import text

import converge
from converge.crash_points import Commit
from converge.sql import migrate, schema, schema_version
from converge.sql.database import Database
from converge.testing import FakeWorld
from tests import forked
from tests.acceptance import layered, witness
from tests.acceptance.fleet import Fleet
from tests.galera import NODES, OwnGalera
from tests.trouble.proxy import Proxy
from tests.waiting import until

AT_ONCE = 12
STACKS = 20


def diamond() -> dict[str, object]:
    """Resources, of which three wait for one, and one for three."""
    made: dict[str, dict[str, object]] = {
        "a": {},
        **{name: {"depends_on": "a"} for name in "bcd"},
        "e": {"depends_on": ["b", "c", "d"]},
    }
    return {"resources": {name: {"type": "effect", **one} for name, one in made.items()}}


@pytest.fixture
def urls(galera: OwnGalera) -> list[str]:
    """The URLs of a migrated database, one of each node."""
    url = galera.migrated()
    return [galera.through(node, url) for node in galera.nodes]


def test_twelve_upgrades_at_once_on_three_nodes_all_succeed(galera: OwnGalera) -> None:
    url = galera.empty()
    urls = [galera.through(node, url) for node in galera.nodes]
    processes = [forked.process(migrate.upgrade, urls[n % NODES]) for n in range(AT_ONCE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0] * AT_ONCE
    query = text(f"SELECT version_num FROM {schema.VERSION_TABLE}")
    for one in urls:
        with closing(Database(one)) as database:
            rows = database.read(lambda tx: tx.execute(query).scalars().all())
        assert rows == [schema_version.HEAD]
        assert migrate.check(one) == []


def test_a_transaction_waits_for_what_other_nodes_have_committed(urls: list[str]) -> None:
    count = text("SELECT COUNT(*) FROM converge_engine_test")
    insert = text("INSERT INTO converge_engine_test VALUES (1)")
    with ExitStack() as stack:
        here, there, careless, watch = (
            stack.enter_context(closing(Database(url)))
            for url in (urls[0], urls[1], *[f"{urls[1]}&wsrep_sync_wait=0"] * 2)
        )
        create = text("CREATE TABLE converge_engine_test (id INT PRIMARY KEY) ENGINE = InnoDB")
        here.transact(lambda tx: tx.execute(create), Commit.HOST)
        read = there.read
        # its first look makes the connection
        assert read(lambda tx: tx.execute(count).scalar()) == 0
        # the second node applies nothing now
        locked = stack.enter_context(watch.engine.connect())
        locked.exec_driver_sql("FLUSH TABLES WITH READ LOCK")
        here.transact(lambda tx: tx.execute(insert), Commit.HOST)
        assert careless.read(lambda tx: tx.execute(count).scalar()) == 0
        found: list[object] = []
        reader = threading.Thread(
            target=lambda: found.append(read(lambda tx: tx.execute(count).scalar()))
        )
        reader.start()
        waits = (
            "SELECT COUNT(*) FROM information_schema.processlist"
            " WHERE info LIKE 'SELECT COUNT(*) FROM converge_engine_test%%'"
        )
        until(lambda: bool(found or locked.exec_driver_sql(waits).scalar()))
        locked.exec_driver_sql("UNLOCK TABLES")
        reader.join(60)
        assert found == [1]


@pytest.fixture
def balanced(urls: list[str]) -> Iterator[str]:
    """The URL of a balancer that gives each connection to the next node."""
    proxy = Proxy(*urls)
    yield proxy.url().render_as_string(False)
    proxy.close()


@pytest.fixture
def lagging(urls: list[str]) -> Iterator[None]:
    """Two nodes that apply what others commit a little late: half of the time they stand still."""
    ended = threading.Event()

    def stand_still(url: str) -> None:
        # a flush does not wait for what is committed elsewhere
        with ExitStack() as stack:
            database = stack.enter_context(closing(Database(f"{url}&wsrep_sync_wait=0")))
            connection = stack.enter_context(database.engine.connect())
            while not ended.wait(0.03):
                connection.exec_driver_sql("FLUSH TABLES WITH READ LOCK")
                ended.wait(0.03)
                connection.exec_driver_sql("UNLOCK TABLES")

    threads = [threading.Thread(target=stand_still, args=(url,)) for url in urls[1:]]
    for thread in threads:
        thread.start()
    yield
    ended.set()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("lagging")
def test_behind_a_balancer_nothing_is_stale(
    balanced: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = FakeWorld()
    types = {"effect": world.types()["fake"]}
    template = converge.Template.parse(json.dumps(diamond()))
    with caplog.at_level(logging.WARNING, "converge.engine.core"), ExitStack() as stack:
        starts, looks = (stack.enter_context(converge.connect(balanced)) for _ in range(2))
        for _ in range(2):
            own = stack.enter_context(converge.connect(balanced))
            # standing still is not to cost it its lease
            stack.enter_context(converge.Engine(own, types=types, workers=4, lease=100))
        for number in range(STACKS):
            starts.create_stack(f"s{number}", template)
            # at another node
            assert looks.stack(f"s{number}").name == f"s{number}"
        for number in range(STACKS):
            assert looks.stack(f"s{number}").wait(timeout=60) == "COMPLETE"
    made = [f"create {name}.{number}" for name in "abcde" for number in range(STACKS)]
    assert sorted(world.log) == sorted(made)
    # no result was refused, and no node found that its engine did not know
    core = [one.getMessage() for one in caplog.records if one.name == "converge.engine.core"]
    assert core == []


@pytest.mark.timeout(400)  # two thousand nodes, three times, on three servers
def test_a_node_is_killed_amid_updates_and_every_stack_converges(
    galera: OwnGalera, urls: list[str], tmp_path: Path
) -> None:
    orders = witness.Orders("", tmp_path, lease=8.0, workers=6)
    with converge.connect(urls[0]) as client, Fleet(orders) as fleet:
        engines = [fleet.start(url=url, host=f"host-{n}") for n, url in enumerate(urls)]
        for name in layered.STACKS:
            client.create_stack(name, layered.layers(1))
        # each is at work
        for engine in engines:
            engine.wait("end")
        for name in layered.STACKS:
            client.update_stack(name, layered.layers(2))
        galera.nodes[-1].kill()
        for name in layered.STACKS:
            client.update_stack(name, layered.layers(3))
        statuses = {client.stack(name).wait(timeout=150) for name in layered.STACKS}
        assert statuses == {"COMPLETE"}
        lines = fleet.lines()
        # also that whose node is dead
        lost = {line.pid for line in lines if line.what == "lost"} | {engines[-1].pid}
        layered.check_converged(client, 3, lines, lost)
