"""procrastinate: a job for each node, and a table of our own that counts what a node waits for.

A node is counted, and the jobs of those that are ready are deferred, in one transaction.
"""

from __future__ import annotations

import asyncio

import procrastinate
from psycopg_pool import AsyncConnectionPool

from benchmarks.peers.common import WORKERS, read, say, work
from benchmarks.peers.counting import COPY, FINISH, LEFT, LOCK, SCHEMA, leaves, rows

CASE = read()
#: Seconds without a heartbeat after which a worker is taken for dead; it beats at a third of it.
DEAD = 3.0

CONNECTOR = procrastinate.PsycopgConnector(conninfo=CASE.database, max_size=WORKERS + 2)
APP = procrastinate.App(connector=CONNECTOR)


class Graph:
    """What this process knows of it: how many nodes are left."""

    left = 0
    over: asyncio.Event
    pool: AsyncConnectionPool


async def do_node(node: str) -> None:
    """Do the work of a node, and defer those that were waiting for it only."""
    if CASE.seconds:
        await asyncio.to_thread(work, CASE, node)
    else:
        work(CASE, node)
    async with Graph.pool.connection() as connection:
        await connection.execute(LOCK, {"node": node})
        found = await (await connection.execute(FINISH, {"node": node})).fetchall()
        if found:
            task = TASK.configure(connection=connection)
            await task.batch_defer_async(*({"node": name} for (name,) in found))
    Graph.left -= 1
    if Graph.left <= 0:
        Graph.over.set()


TASK = APP.task(name="do_node")(do_node)


async def retry_stalled() -> None:
    """Give the jobs of dead workers to others, as its documentation shows it."""
    while True:
        stalled = await APP.job_manager.get_stalled_jobs(seconds_since_heartbeat=DEAD)
        for job in stalled:
            await APP.job_manager.retry_job(job)
        await asyncio.sleep(DEAD / 3)


async def main() -> None:
    Graph.over = asyncio.Event()
    Graph.pool = AsyncConnectionPool(CASE.database, max_size=WORKERS, open=False)
    async with APP.open_async(), Graph.pool:
        if not CASE.resume:
            await APP.schema_manager.apply_schema_async()
        worker = asyncio.create_task(
            APP.run_worker_async(
                concurrency=WORKERS,
                install_signal_handlers=False,
                update_heartbeat_interval=DEAD / 3,
                stalled_worker_timeout=DEAD,
            )
        )
        async with Graph.pool.connection() as connection:
            if not CASE.resume:
                say("started")
                await connection.execute(SCHEMA)
                async with connection.cursor().copy(COPY) as copy:
                    for row in rows(CASE.requires):
                        await copy.write_row(row)
            row = await (await connection.execute(LEFT)).fetchone()
            assert row is not None
            Graph.left = row[0]
        if not CASE.resume:
            await TASK.batch_defer_async(*({"node": node} for node in leaves(CASE.requires)))
        rescue = asyncio.create_task(retry_stalled())
        await Graph.over.wait()
        say("ended")
        rescue.cancel()
        worker.cancel()
        await asyncio.gather(worker, rescue, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
